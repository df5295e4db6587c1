"""The names of nativemem.structures."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nativemem import structures


def test_every_name_is_there() -> None:
    assert sorted(structures.__all__) == structures.__all__ and set(structures.__all__) <= set(dir(structures))
    for name in structures.__all__:
        assert getattr(structures, name) is getattr(structures, name)
    with pytest.raises(AttributeError, match="has no attribute 'Intern'"):
        _ = structures.Intern  # type: ignore[attr-defined]


def test_what_is_not_used_costs_nothing() -> None:
    program = (
        "import sys\n"
        "from nativemem.structures import InternTable, ObjectPool\n"
        "InternTable().acquire('x'); ObjectPool(list).get().release()\n"
        "print(*({'asyncio', 'cachetools'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "\n"
