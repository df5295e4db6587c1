"""The interpreter's allocation domains, by their names."""

from __future__ import annotations

from ..errors import ConfigError, NativeUnavailable, shown

__all__ = ["DOMAINS", "chosen_domains"]

#: the interpreter's, as the core numbers them
DOMAINS = ("raw", "mem", "obj")


def chosen_domains(names: object, label: str, alone: str = "") -> tuple[str, ...]:
    """Domains in their order, or what may be named ``alone``. Raises :class:`ConfigError` for others, and
    :class:`NativeUnavailable` for ``"malloc"``."""
    try:
        chosen = (names,) if isinstance(names, str) else tuple(names)  # type: ignore[arg-type]
    except TypeError:
        chosen = ()
    if "malloc" in chosen:
        raise NativeUnavailable(
            f"{label}: malloc can be refused only where a preloaded library stands before the C library's",
            suggestion="take the domains of the interpreter, which most extensions take their memory from",
        )
    if alone and chosen == (alone,):
        return chosen
    if not chosen or not all(isinstance(name, str) and name in DOMAINS for name in chosen):
        other = f", or {alone} alone" if alone else ""
        raise ConfigError(f"{label}: takes raw, mem and obj, one or more{other}, not {shown(names)}")
    return tuple(name for name in DOMAINS if name in chosen)
