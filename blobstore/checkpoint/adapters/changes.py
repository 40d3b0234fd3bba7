"""What becomes of a base's tensors, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from blobstore.checkpoint.adapters.steps import Step, values_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from blobstore.checkpoint.adapters.reading import Adapter
    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Array


class BaseTensor(NamedTuple):
    """What is known of a tensor of the base before it is read."""

    type: ElementType
    shape: tuple[int, ...]


@dataclass
class Change:
    """A tensor that adapters change, or add.

    Attributes:
        source: The base's tensor that its values are made from; None for one that is new.
        type: Of the elements.
        shape: After all steps.
        steps: In order.
        by: Of each step, the adapter.
    """

    source: str | None
    type: ElementType
    shape: tuple[int, ...]
    steps: list[Step] = field(default_factory=list)
    by: list[int] = field(default_factory=list)

    def add(self, step: Step, adapter: int) -> None:
        """Add the next step, of an adapter by its place."""
        self.steps.append(step)
        self.by.append(adapter)

    def made(self, read: Callable[[int, int], Array]) -> Callable[[int, int], Array]:
        """Return a function that makes elements of it: given (first, count), flat.

        Args:
            read: Gives those of the source; not called where it has none.
        """
        return partial(values_after, tuple(self.steps), self.shape, read)


@dataclass
class Merge:
    """What becomes of a base.

    Attributes:
        changes: Name of a tensor → its change. Names that the base doesn't have are new.
        unused: Tensors of the adapters that nothing is made of → why.
        resized: Rows of an embedding of the base → rows that an adapter gives it.
        resized_by: The last adapter that does; None if none does.
        notes: A line for each adapter, and for each thing that one should know.
    """

    changes: dict[str, Change] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    resized: dict[int, int] = field(default_factory=dict)
    resized_by: Adapter | None = None
    notes: list[str] = field(default_factory=list)
