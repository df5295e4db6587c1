"""MGR-5: what a manager is made with, key by key: what each takes, and in which words it does not."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.errors import ConfigError
from nativemem.manager import configuration
from nativemem.manager.configuration import PRESETS, Configuration, OwnerConfiguration, read, read_env, read_toml

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def refused(given: Any, says: str, source: str = "") -> None:
    with pytest.raises(ConfigError) as caught:
        read(given, source)
    assert str(caught.value) == says


def test_presets() -> None:
    found = {name: read({"preset": name}) for name in PRESETS}
    assert found == {
        "embedded": Configuration(
            {}, 8 * MIB, "safety-critical", False, False, 8 * KIB, 64 * KIB, MIB, "error", "static", "standard"
        ),
        "desktop": Configuration({}, GIB, "permissive", False, False, 8 * KIB, 64 * KIB, MIB, "heap", "std", "off"),
        "server": Configuration({}, 8 * GIB, "strict", False, True, 8 * KIB, 64 * KIB, MIB, "heap", "alloc", "off"),
    }
    changed = read({"preset": "server", "total": 5, "auto_rebalance": False, "tier": "std"})
    assert (changed.total, changed.auto_rebalance, changed.tier, changed.policy) == (5, False, "std", "strict")
    assert found["embedded"].limit == 8 * MIB
    for wrong, said in (("pc", "'pc'"), (3, "3"), (["server"], "['server']"), ("", "''")):
        refused({"preset": wrong, "total": 1}, f"preset: takes embedded, desktop, server, not {said}")


def test_defaults() -> None:
    made = read({"total": 1})
    assert made == Configuration(total=1) and made.limit == 1
    assert (made.policy, made.overcommit, made.auto_rebalance, made.tier) == ("permissive", False, False, None)
    assert (made.small, made.medium, made.large) == (8192, 65536, 1048576)
    assert (made.above, made.verification, made.owners) == ("heap", "off", {})
    one = read({"owners": {"a": 5, "b": {"limit": "1 KiB"}}})
    assert one.owners == {"a": OwnerConfiguration(5), "b": OwnerConfiguration(1024)} and one.limit == 1029
    assert one.owners["a"] == OwnerConfiguration(5, 0, 0.8, 0.95, None) and one.total is None
    whole = {"limit": 9, "minimum": 9, "warn": 1, "critical": 0.001, "lends_to": ["a"]}
    assert read({"owners": {"a": whole}}).owners["a"] == OwnerConfiguration(9, 9, 1.0, 0.001, ("a",))


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
def test_names_of_borrowers(kind: Callable[[Any], Any]) -> None:
    found = read({"owners": {"a": {"limit": 1, "lends_to": kind(["a"])}}}).owners["a"].lends_to
    assert found == ("a",)
    assert read({"owners": {"a": {"limit": 1, "lends_to": kind([])}}}).owners["a"].lends_to == ()


def test_the_least_and_the_most() -> None:
    assert read({"owners": {"a": {"limit": 1, "minimum": 0}}, "total": 1}).owners["a"].minimum == 0
    assert read({"total": 1, "thresholds": {"small": 1, "medium": 1, "large": 1}}).large == 1
    assert read({"total": 5, "owners": {"a": 2, "b": 3}}).limit == 5
    for value in (0, -1, "x", None, 1.5):
        with pytest.raises(ConfigError) as caught:
            read({"total": value})
        assert str(caught.value).startswith("total: ") and not str(caught.value).startswith("total: :")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"policy": "lax"}, "policy: takes permissive, strict, safety-critical, not 'lax'"),
    ({"above": "sky"}, "above: takes heap, error, not 'sky'"),
    ({"tier": "x"}, "tier: takes std, alloc, static, not 'x'"),
    ({"overcommit": 1}, "overcommit: takes true or false, not 1"),
    ({"auto_rebalance": "yes"}, "auto_rebalance: takes true or false, not 'yes'"),
    ({"verification": "x"}, "verification: takes off, basic, sampling, standard, full, redundant, not 'x'"),
    (
        {"speed": 1},
        "speed: is no key, but there are total, policy, overcommit, auto_rebalance, above, tier, verification, "
        "preset, thresholds, owners",
    ),
    ({"thresholds": {"tiny": 1}}, "thresholds.tiny: is no key, but there are small, medium, large"),
    ({"thresholds": 3}, "thresholds: takes a table, not 3"),
    ({"thresholds": {"small": 3, "medium": 2}}, "thresholds: takes ascending sizes, not 3, 2, 1048576"),
    ({"thresholds": {"medium": 3, "small": 2, "large": 2}}, "thresholds: takes ascending sizes, not 2, 3, 2"),
    ({"owners": 3}, "owners: takes a table, not 3"),
    ({"owners": {3: 1}}, "owners: takes names, not 3"),
    ({"owners": {"": 1}}, "owners: takes names, not ''"),
    ({3: 1}, ": takes names, not 3"),
    ({"owners": {"a": {"limit": 1, "": 1}}}, "owners.a: takes names, not ''"),
    ({"owners": {"a": {"minimum": 1}}}, "owners.a.limit: is missing"),
    ({"owners": {"a": {"limit": 5, "minimum": 6}}}, "owners.a.minimum: is 6 bytes, above the limit of 5"),
    (
        {"owners": {"a": {"limit": 5, "size": 6}}},
        "owners.a.size: is no key, but there are limit, minimum, warn, critical, lends_to",
    ),
    *(
        (
            {"owners": {"a": {"limit": 5, key: value}}},
            f"owners.a.{key}: takes a fraction above 0, at most 1, not {value!r}",
        )
        for key in ("warn", "critical")
        for value in (0, 1.001, -1, True, "1")
    ),
    *(
        (
            {"owners": {"a": {"limit": 5, "lends_to": value}}},
            f"owners.a.lends_to: takes a list of owners, not {value!r}",
        )
        for value in ("a", 3, ["a", 3], {"a": 1})
    ),
]


def test_what_is_wrong_by_itself() -> None:
    """Each by its path, behind what the message begins with."""
    for given, says in WRONG:
        refused({"total": 9, **given}, says)
        refused({"total": 9, **given}, f"file: {says}", "file: ")
    refused(3, "owners: takes a table, not 3")


def test_all_that_is_wrong_is_said() -> None:
    with pytest.raises(ConfigError) as caught:
        read({"policy": "lax", "owners": {"a": {"warn": 7, "limt": 1}, "b": 0, "c": 5}, "above": 3, "preset": "pc"})
    said = str(caught.value).split("; ")
    assert [each.partition(": ")[0] for each in said if ": " in each] == [
        *("preset", "owners.a.warn", "owners.a.limt", "owners.a.limit", "owners.b", "policy", "above"),
    ]


@pytest.mark.parametrize("policy", ["permissive", "strict", "safety-critical"])
def test_what_is_wrong_together(policy: str) -> None:
    lends = {"policy": policy, "owners": {"a": {"limit": 5, "lends_to": ["a", "b", "c"]}, "b": 5}}
    if policy == "permissive":
        assert read(lends).owners["a"].lends_to == ("a", "b", "c")
    else:
        refused(lends, "owners.a.lends_to: there is no owner 'c'")
    refused({"policy": policy}, "total: is missing, and there are no owners whose limits it could be the sum of")
    two = {"policy": policy, "owners": {"a": 5, "b": 6}}
    refused({**two, "total": 10}, "total: is 10 bytes, less than the 11 of all owners; overcommit allows that")
    assert read({**two, "total": 11}).limit == read(two).limit == 11
    if policy == "safety-critical":
        refused({**two, "overcommit": True}, "overcommit: is not for the policy safety-critical")
    else:
        assert read({**two, "total": 10, "overcommit": True}).limit == 10


def test_what_was_given_stays_as_it_is() -> None:
    given = {"preset": "desktop", "thresholds": {"small": 1}, "owners": {"a": {"limit": 5}}}
    read(given)
    assert given == {"preset": "desktop", "thresholds": {"small": 1}, "owners": {"a": {"limit": 5}}}
    assert set(PRESETS["desktop"]) == {"total", "policy", "tier"}


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text('total = "1 KiB"\n', encoding="utf-8")
    assert read_toml(file) == read_toml(str(file)) == Configuration(total=1024)
    file.write_text("total = 1\ntotal = 2\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_toml(file)
    assert str(caught.value).startswith(f"{file}: ") and caught.value.__suppress_context__
    file.write_text("total = 0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"^{file}: total: "):
        read_toml(file)


def test_readers_of_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's, then tomli."""
    there = {"tomllib": SimpleNamespace(name="tomllib"), "tomli": SimpleNamespace(name="tomli")}
    asked: list[str] = []

    def found(name: str) -> Any:
        asked.append(name)
        if name not in there:
            raise ImportError(name)
        return there[name]

    monkeypatch.setattr(importlib, "import_module", found)
    assert configuration._toml().name == "tomllib" and asked == ["tomllib"]
    del there["tomllib"]
    assert configuration._toml().name == "tomli" and asked == ["tomllib", "tomllib", "tomli"]
    del there["tomli"]
    with pytest.raises(ConfigError, match="^manager.from_toml: Python 3.10 reads no TOML by itself") as caught:
        configuration._toml()
    assert caught.value.suggestion == "pip install 'nativemem[toml]', or pass the same keys to MemoryManager"


def test_the_environment(tmp_path: Path) -> None:
    assert read_env({}) == read({"preset": "desktop"})
    assert read_env({"NATIVEMEM_MANAGER": "embedded"}) == read({"preset": "embedded"})
    limited = {"NATIVEMEM_LIMIT": "1 MiB"}
    assert read_env(limited) == read({"preset": "desktop", "total": MIB})
    assert read_env({"NATIVEMEM_MANAGER": "server", **limited}) == read({"preset": "server", "total": MIB})
    file = tmp_path / "m.toml"
    file.write_text("total = 7\n", encoding="utf-8")
    assert read_env({"NATIVEMEM_MANAGER": str(file), **limited}) == Configuration(total=7), "the file's own total"
