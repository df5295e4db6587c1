"""A clock that a test sets, and what a cache may be given to compute."""

from __future__ import annotations

from typing import Any


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def never() -> Any:
    raise AssertionError("computed")


def fail() -> Any:
    raise OSError("down")
