"""Strict parsing of foreign JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["are_sizes", "parse_json", "text_map"]


def parse_json(raw: bytes, made_of: Callable[[dict[str, Any]], Any] | None = None) -> Any:  # noqa: ANN401 (JSON is anything)
    """Parse UTF-8 JSON; refuse a key that appears twice in one object, and NaN and infinities.

    Args:
        raw: The text; not kept.
        made_of: Given each object, returns what replaces it.

    Raises:
        ValueError: It is not such JSON; the message says why.
    """
    import json  # noqa: PLC0415 (1 ms, and files open without it)

    hook = (lambda pairs: made_of(_unique(pairs))) if made_of else _unique
    text = raw.decode()
    del raw  # so that a large text isn't in memory twice
    try:
        value = json.loads(text, object_pairs_hook=hook, parse_int=_integer, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def text_map(value: object) -> dict[str, str]:
    """Return ``value`` if it is an object whose values are strings.

    Raises:
        ValueError: It is not, or a string has lone surrogates.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    for key, text in value.items():
        if not isinstance(text, str):
            raise ValueError(f"the value of {key[:80]!r} is not a string")
        text.encode()
    return value


def are_sizes(value: object, end: int) -> bool:
    """Whether ``value`` is a list of whole numbers from 0 to below ``end``."""
    if not isinstance(value, list):
        return False
    for size in value:  # noqa: SIM110 (several times as fast as all(), and done twice for each tensor of a checkpoint)
        if type(size) is not int or not 0 <= size < end:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {repeated[:80]!r} appears twice")
    for key in value:
        key.encode()
    return value


def _integer(digits: str) -> int | float:
    # Other readers take -0 as a float, so it isn't a count for them, and must not become one here.
    return -0.0 if digits == "-0" else int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
