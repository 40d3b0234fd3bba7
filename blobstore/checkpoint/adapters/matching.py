"""The names in an adapter, and those of the base's tensors.

An adapter has the names of the modules in memory (``model.language_model.layers.0``), a checkpoint those that its
library saves (``language_model.model.layers.0``). Names are the same without the words for whole models that they begin
with, if both or neither are of a vision part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.errors import CheckpointError, listed

if TYPE_CHECKING:
    from collections.abc import Iterable

_VISION = {"vision_tower", "vision_model", "visual", "vision_encoder"}
_MODELS = {"model", "language_model", "text_model", "transformer", "base_model", *_VISION}
_SHOWN = 4

_Core = tuple[bool, str]  # of the vision part; the rest of the name


class Names:
    """The base's names, to be found by an adapter's."""

    def __init__(self, names: Iterable[str]) -> None:
        """Take them."""
        self._names = dict.fromkeys(names)
        self._cores: dict[_Core, list[str]] = {}
        self._inner: dict[_Core, list[str]] = {}  # without the first word, which is a model's name
        for name in self._names:
            self._cores.setdefault(_core(name), []).append(name)
            self._inner.setdefault(_core(_without_first(name)), []).append(name)
        self.renamed: dict[tuple[str, str], None] = {}  # beginnings that differ: the adapter's, the base's

    def find(self, name: str) -> str | None:
        """Return the base's name for an adapter's; None when it has none.

        Raises:
            CheckpointError: ``adapter-names``: there are several.
        """
        if name in self._names:
            return name
        core = _core(name)
        found = self._cores.get(core) or self._cores.get(_core(_without_first(name))) or self._inner.get(core) or []
        if len(found) > 1:
            what = f"{name[:300]!r} of the adapter may be any of {listed(list(map(repr, found)), _SHOWN)}"
            raise CheckpointError("adapter-names", f"{what}: rename the tensors of the adapter as the base has them")
        if not found:
            return None
        self.renamed[_beginnings(name, found[0])] = None
        return found[0]


def _core(name: str) -> _Core:
    words = name.split(".")
    place = next((place for place, word in enumerate(words) if word not in _MODELS), 0)
    return not _VISION.isdisjoint(words[:place]), ".".join(words[place:])


def _without_first(name: str) -> str:
    """Leave out the first word, as that of a model whose name isn't known here, such as ``bert``."""
    first, _, rest = name.partition(".")
    return name if first in _MODELS or not rest else rest


def _beginnings(a: str, b: str) -> tuple[str, str]:
    """Return what two names begin with before their common end."""
    ours, theirs = a.split("."), b.split(".")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return ".".join(ours), ".".join(theirs)
