"""Values of a checkpoint's ``config.json``, each checked when it is read: the file may hold anything."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from blobstore.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

KEEPS_ALL = "--as names keeps every tensor"  # the fix of what gemma.cpp can't run
MAX_COUNT = (1 << 31) - 1
_SHOWN = 60


class Values:
    """One object of a config.json. A value that can't be used becomes a fault, and its default is returned.

    Attributes:
        faults: What can't be converted.
        notes: What a user should know.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Take the object; nothing is checked yet."""
        self._values = values
        self.faults: list[Fault] = []
        self.notes: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 (JSON is anything)
        """Return a value as it is."""
        return self._values.get(key, default)

    def refuse(self, key: str, value: Any, expected: str) -> None:  # noqa: ANN401 (JSON is anything)
        """Add a fault: a value is not what was expected."""
        what = f"config.json says {short(value)}, expected {expected}: is it this checkpoint's own?"
        self.faults.append(Fault("unsupported-config", key, what))

    def count(self, key: str, default: int) -> int:
        """Return a positive whole number."""
        value = self.get(key, default)
        if type(value) is int and 1 <= value <= MAX_COUNT:
            return value
        self.refuse(key, value, "a positive number")
        return default

    def flag(self, key: str) -> bool:
        """Return whether a value is true; null, as a missing one, is false."""
        value = self.get(key)
        if value is not None and type(value) is not bool:
            self.refuse(key, value, "true or false")
        return value is True

    def number(self, key: str, default: float, expected: str = "a positive number") -> float:
        """Return a positive number."""
        value = self.get(key, default)
        if is_positive(value):
            return float(value)
        self.refuse(key, value, expected)
        return default

    def cap(self, key: str, default: float) -> float:
        """Return a soft cap, 0 for none."""
        value = self.get(key, default or None)
        return 0.0 if value is None else as_f32(self.number(key, default, "a positive number, or null for no cap"))


def disagreement(key: str, said: object, found: object) -> Fault:
    """Return the fault of a config.json that says something else than the tensors."""
    what = f"config.json says {short(said)}, the tensors say {found}: they belong to two models"
    return Fault("config-disagrees", key, what)


def is_positive(value: Any) -> bool:  # noqa: ANN401 (JSON is anything)
    """Whether a value is a positive number that 32 bits hold."""
    return type(value) in (int, float) and 1e-37 < value < 1e38


def as_f32(value: float) -> float:
    """Return the nearest value that 32 bits hold."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def short(value: Any) -> str:  # noqa: ANN401 (JSON is anything)
    """Return a value for a message: a config.json from outside must not make it long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
