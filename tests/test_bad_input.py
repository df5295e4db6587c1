"""Every public call with bad input; docs/testing.md says what is tried."""

from __future__ import annotations

import pytest

from bad_input.cases import groups, run
from nativemem._backend import Binding

GROUPS = list(groups())


@pytest.mark.parametrize("key", GROUPS)
def test_bad_input(nm: Binding, key: str) -> None:
    """ERR-4"""
    report = run(nm.name, key)
    assert report.complaints == []
