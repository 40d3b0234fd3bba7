"""`TensorSpec`: a tensor that a model has; and what its key says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from blobstore.codecs.element_types import BY_NAME, as_element_type

if TYPE_CHECKING:
    from blobstore.codecs.element_types import ElementType

# The types that weights may be stored in; nuq needs a special build of older runtimes, the last two are for the latest.
WEIGHT_TYPES = ("f32", "bf16", "sfp", "nuq", "i8", "q4_0", "mxfp4")
_IN_BLOCKS = tuple(name for name in WEIGHT_TYPES if BY_NAME[name].whole)  # of which each row begins a new one
BY_ELEMENT = ("f32", "bf16", "sfp")  # of tensors that the runtime rearranges as if an element were some whole bytes
_NUMBERED = re.compile(r"(.+?)_([0-9]+)(?:_([0-9]+))?", re.ASCII)


class Place(NamedTuple):
    """What a tensor's key says: its name, and of which layer and expert it is; None for that of no layer or expert."""

    base: str
    layer: int | None
    expert: int | None


def place_of(key: str) -> Place:
    """Return what a key says: ``gating1_w_29_127`` is ``gating1_w`` of layer 29 and expert 127."""
    match = _NUMBERED.fullmatch(key)
    if match is None:
        return Place(key, None, None)
    return Place(match[1], int(match[2]), int(match[3]) if match[3] else None)


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a model has.

    Attributes:
        key: Its key, with the layer's number.
        rows: Every tensor is 2-D.
        cols: A vector is one row.
        floor: The narrowest type that the runtime takes: ``f32``, ``bf16``, or None for any weight type. Those in
            blocks of 32 values need as many columns, or a multiple.
        slot: What it is part of. A file has all tensors of one form of each slot, and none of the other form.
        form: ``stock`` or ``split`` where there is a choice, else empty.
        optional: Whether the runtime loads a file without it.
        types: All types that the runtime takes, where these are not a matter of the floor; else empty.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> spec = blobstore.gemma.tensors_of(config)[0]
        >>> spec.key, spec.rows, spec.cols, spec.allowed, spec.allows("sfp")
        ('c_embedding', 262144, 640, 'f32 or bf16', False)
    """

    key: str
    rows: int
    cols: int
    floor: str | None
    slot: str
    form: str = ""
    optional: bool = False
    types: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """The types that the runtime takes, as text for messages."""
        if self.types:
            return ", ".join(self.types)
        if self.floor is not None:
            return " or ".join(self.taken)
        lacking = [name for name in WEIGHT_TYPES if name not in self.taken]
        why = f" ({' and '.join(lacking)} need a multiple of 32 columns)" if lacking else ""
        return f"{', '.join(self.taken)}{why}"

    @property
    def taken(self) -> tuple[str, ...]:
        """The names of the types that the runtime takes, the widest first."""
        if self.types or self.floor is not None:
            return self.types or tuple(dict.fromkeys(("f32", str(self.floor))))
        return tuple(name for name in WEIGHT_TYPES if name not in _IN_BLOCKS or self.cols % BY_NAME[name].group == 0)

    def allows(self, type: ElementType | str) -> bool:  # noqa: A002 (the field's word)
        """Whether the runtime takes the tensor in this type, given itself or its name.

        Raises:
            UsageError: ``unknown-type``: no element type has this name.
        """
        return as_element_type(type).name in self.taken


def weight(
    key: str,
    rows: int,
    cols: int,
    *,
    floor: str | None = None,
    slot: str = "",
    form: str = "",
    optional: bool = False,
    types: tuple[str, ...] = (),
) -> TensorSpec:
    """Return a matrix; by default it may have any weight type."""
    return TensorSpec(key, rows, cols, floor, slot or key, form, optional, types)


def vector(
    key: str, cols: int, floor: str = "bf16", *, optional: bool = False, types: tuple[str, ...] = ()
) -> TensorSpec:
    """Return a vector."""
    return TensorSpec(key, 1, cols, floor, key, optional=optional, types=types)
