"""A mapping that is compared by identity, not by its values: comparing those would read a whole file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T_co = TypeVar("T_co", covariant=True)


class MappingByIdentity(Mapping[str, T_co]):
    """Values by name. Two are equal only if they are the same object."""

    def __eq__(self, other: object) -> bool:
        return object.__eq__(self, other)

    def __hash__(self) -> int:
        return object.__hash__(self)
