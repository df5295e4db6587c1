"""CFG: the configuration of each allocator, and its presets."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.config import ArenaConfig, Config, HeapConfig, PoolConfig, SlabConfig, StackConfig
from nativemem.errors import ConfigError, InvalidLayout, NativeMemError

#: a configuration of each class with nothing but what is required
LEAST: dict[str, Config] = {
    "Arena": ArenaConfig(),
    "Stack": StackConfig(1000),
    "Pool": PoolConfig(100, 10),
    "Slab": SlabConfig(),
    "Heap": HeapConfig(),
}
REQUIRED: dict[str, dict[str, int]] = {"Stack": {"capacity": 1000}, "Pool": {"block_size": 100, "count": 10}}
PRESETS = ("production", "debug", "low_memory")


@pytest.fixture(params=LEAST)
def noun(request: pytest.FixtureRequest) -> str:
    """The allocator that a configuration is of."""
    name: str = request.param
    return name


def test_frozen(noun: str) -> None:
    """CFG-1"""
    config = LEAST[noun]
    for each in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, each.name, None)
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        config.something_else = 1
    assert hash(config) == hash(dataclasses.replace(config))


def test_defaults_stand_in_one_place(nm: Binding, noun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CFG-3: the constructor's are those of the configuration."""
    for variable in ("NATIVEMEM_ARENA_HINT", "NATIVEMEM_ARENA_CAP", "NATIVEMEM_SECURE"):
        monkeypatch.delenv(variable, raising=False)
    allocator = getattr(nm, noun)(**REQUIRED.get(noun, {}))
    assert allocator.config == LEAST[noun]


# --- replace ---

CHANGES = {
    "Arena": ({"hint": "1 KiB", "grow": False}, {"hint": 1024, "grow": False}),
    "Stack": ({"capacity": "2 kB"}, {"capacity": 2000}),
    "Pool": ({"count": 20, "grow": True}, {"count": 20, "grow": True}),
    "Slab": ({"bins": ["16", 48]}, {"bins": (16, 48)}),
    "Heap": ({"secure": True}, {"secure": True}),
}


def test_replace(noun: str) -> None:
    """CFG-1: a copy with the fields changed, converted and checked again; the old one stays."""
    config = LEAST[noun]
    before = dataclasses.asdict(config)
    given, expected = CHANGES[noun]
    assert dataclasses.asdict(config.replace(**given)) == before | expected
    assert dataclasses.asdict(config) == before
    assert config.replace() == config


def test_a_misspelt_field(noun: str) -> None:
    """CFG-1: says what there is."""
    config = LEAST[noun]
    names = ", ".join(field.name for field in dataclasses.fields(config))
    required = REQUIRED.get(noun, {})
    for call in (
        lambda: config.replace(blocksize=1),
        *(lambda p=p: getattr(type(config), p)(**required, blocksize=1) for p in PRESETS),
        lambda: type(config).from_env({}, **required, blocksize=1),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == f"{noun.lower()}: has no setting 'blocksize'; it has {names}"


BAD = [
    ("Arena", "hint", 0, InvalidLayout),
    ("Arena", "cap", "x", InvalidLayout),
    ("Arena", "grow", 1, ConfigError),
    ("Arena", "zero_on_free", None, ConfigError),
    ("Arena", "patterns", "yes", ConfigError),
    ("Stack", "capacity", -1, InvalidLayout),
    ("Stack", "patterns", 0, ConfigError),
    ("Pool", "block_size", 1.5, InvalidLayout),
    ("Pool", "count", 0, InvalidLayout),
    ("Pool", "grow", "no", ConfigError),
    ("Slab", "bins", (24,), ConfigError),
    ("Slab", "bins", None, ConfigError),
    ("Slab", "zero_on_free", 1, ConfigError),
    ("Heap", "secure", "1", ConfigError),
]


@pytest.mark.parametrize(("noun", "field", "value", "error"), BAD)
def test_each_message_has_its_section(noun: str, field: str, value: object, error: type[Exception]) -> None:
    """CFG-1: however the configuration is made."""
    kind = type(LEAST[noun])
    required = REQUIRED.get(noun, {}) | {field: value}
    for call in (
        lambda: kind(**required),
        lambda: LEAST[noun].replace(**{field: value}),
        lambda: kind.debug(**required),
        lambda: kind.from_env({}, **required),
    ):
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value).startswith(f"{noun.lower()}.{field}: "), str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("noun", "field", "least"),
    [
        *(("Arena", "hint", 1), ("Arena", "cap", 1), ("Stack", "capacity", 1), ("Pool", "block_size", 1)),
        *(("Pool", "count", 1), ("Slab", "bins", (16,))),
    ],
)
def test_the_least_of_each_field(noun: str, field: str, least: Any) -> None:
    """CFG-1: it is taken, and one less is not."""
    kind = type(LEAST[noun])
    required = REQUIRED.get(noun, {})
    assert getattr(kind(**required | {field: least}), field) == least
    below = (least[0] - 1,) if isinstance(least, tuple) else least - 1
    with pytest.raises(NativeMemError, match=rf"^{noun.lower()}\.{field}: "):
        kind(**required | {field: below})


# --- presets ---


def test_presets() -> None:
    """CFG-1: what each differs in from the defaults."""
    assert ArenaConfig.production() == ArenaConfig()
    assert ArenaConfig.debug() == ArenaConfig(patterns=True)
    assert ArenaConfig.low_memory() == ArenaConfig(hint=4096)
    assert StackConfig.production(capacity=10) == StackConfig.low_memory(capacity=10) == StackConfig(10)
    assert StackConfig.debug(capacity=10) == StackConfig(10, patterns=True)
    assert PoolConfig.debug(block_size=16, count=2) == PoolConfig(16, 2)
    assert SlabConfig.production() == SlabConfig.debug() == SlabConfig()
    assert SlabConfig.low_memory() == SlabConfig((32, 48, 64, 96, 128, 192, 256))
    assert HeapConfig.debug() == HeapConfig(secure=True)
    assert HeapConfig.production() == HeapConfig.low_memory() == HeapConfig(secure=False)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_an_allocator(nm: Binding, noun: str, preset: str) -> None:
    """CFG-1, CFG-3: given to from_config, and found there again."""
    kind = getattr(nm, noun)
    config = getattr(type(LEAST[noun]), preset)(**REQUIRED.get(noun, {}))
    allocator = kind.from_config(config)
    assert allocator.config == config
    assert isinstance(allocator, kind)
    assert allocator.alloc(50).size == 50


def test_fields_override_a_preset() -> None:
    """CFG-1"""
    assert ArenaConfig.debug(patterns=False, cap="1 MiB") == ArenaConfig(cap=1 << 20)
    assert SlabConfig.low_memory(bins=(16,)).bins == (16,)
    with pytest.raises(TypeError, match="missing"):
        StackConfig.debug()
    with pytest.raises(TypeError, match="missing"):
        PoolConfig.production(count=3)


def test_from_env(noun: str) -> None:
    """CFG-1: what the environment sets; fields override; other variables do not matter."""
    env = {"NATIVEMEM_ARENA_HINT": "8 KiB", "NATIVEMEM_ARENA_CAP": "1 MB", "NATIVEMEM_SECURE": "1", "X": "y"}
    kind, required = type(LEAST[noun]), REQUIRED.get(noun, {})
    expected = {"Arena": ArenaConfig(8192, 1_000_000), "Heap": HeapConfig(True)}.get(noun, LEAST[noun])
    assert kind.from_env(env, **required) == expected
    assert kind.from_env({}, **required) == LEAST[noun]
    assert ArenaConfig.from_env(env, hint=5) == ArenaConfig(5, 1_000_000)
    assert HeapConfig.from_env(env, secure=False) == HeapConfig(False)


def test_from_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """CFG-1: read when it is called."""
    monkeypatch.setenv("NATIVEMEM_ARENA_HINT", "2 KiB")
    assert ArenaConfig.from_env().hint == 2048
    monkeypatch.setenv("NATIVEMEM_ARENA_HINT", "3 KiB")
    assert ArenaConfig.from_env().hint == 3072


# --- from_config ---


def test_from_config_takes_the_rest(nm: Binding) -> None:
    """CFG-1: what a configuration does not have, such as the upstream."""
    system = nm.System()
    for noun in ("Arena", "Stack", "Pool", "Slab"):
        allocator = getattr(nm, noun).from_config(LEAST[noun], upstream=system)
        assert allocator.upstream is system
    budget = nm.Budget("1 MiB")
    heap = nm.Heap.from_config(HeapConfig(secure=True), budget=budget)
    assert (heap.owner, heap.config.secure) == (budget, True)


def test_from_config_of_another_class(nm: Binding, noun: str) -> None:
    """CFG-1: refused, and the message says what it takes."""
    kind = getattr(nm, noun)
    for other in (*(config for name, config in LEAST.items() if name != noun), None, {}, "debug", ArenaConfig):
        with pytest.raises(ConfigError) as caught:
            kind.from_config(other)
        takes = f"{noun.lower()}.config: takes {noun}Config, not {type(other).__name__}"
        assert str(caught.value) == takes
    for wrapper in (nm.System, nm.Limited, nm.Traced):
        with pytest.raises(ConfigError, match="has no configuration"):
            wrapper.from_config(LEAST[noun])


def test_a_subclass_takes_its_configuration(nm: Binding) -> None:
    """CFG-1"""

    class Scratch(nm.Arena):
        pass

    assert isinstance(Scratch.from_config(ArenaConfig.low_memory()), Scratch)
    assert Scratch.from_config(ArenaConfig.low_memory()).config.hint == 4096
