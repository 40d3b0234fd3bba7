"""The element types of GGUF files: numbers, names, and how many bytes a block of values takes.

Source: the enumeration ``ggml_type`` and the block structures of ggml, https://github.com/ggml-org/ggml.
"""

from __future__ import annotations

from dataclasses import dataclass

from blobstore.codecs.element_types import BY_NAME, ElementType


@dataclass(frozen=True, slots=True)
class GgufType:
    """How a tensor of a .gguf file is stored.

    Attributes:
        number: In the file.
        name: In small letters: ``f32``, ``q4_k``; ``int8`` for its I8, as blobstore's i8 is an encoding of gemma.cpp.
        count: Values of a block; 1 for plain numbers.
        nbytes: Of a block.
    """

    number: int
    name: str
    count: int
    nbytes: int

    @property
    def plain(self) -> ElementType | None:
        """The element type that stores the same bytes; None for a quantised type."""
        return BY_NAME[self.name] if self.count == 1 else None


_ALL = (
    GgufType(0, "f32", 1, 4),
    GgufType(1, "f16", 1, 2),
    GgufType(2, "q4_0", 32, 18),
    GgufType(3, "q4_1", 32, 20),
    GgufType(6, "q5_0", 32, 22),
    GgufType(7, "q5_1", 32, 24),
    GgufType(8, "q8_0", 32, 34),
    GgufType(9, "q8_1", 32, 40),
    GgufType(10, "q2_k", 256, 84),
    GgufType(11, "q3_k", 256, 110),
    GgufType(12, "q4_k", 256, 144),
    GgufType(13, "q5_k", 256, 176),
    GgufType(14, "q6_k", 256, 210),
    GgufType(15, "q8_k", 256, 292),
    GgufType(16, "iq2_xxs", 256, 66),
    GgufType(17, "iq2_xs", 256, 74),
    GgufType(18, "iq3_xxs", 256, 98),
    GgufType(19, "iq1_s", 256, 50),
    GgufType(20, "iq4_nl", 32, 18),
    GgufType(21, "iq3_s", 256, 110),
    GgufType(22, "iq2_s", 256, 82),
    GgufType(23, "iq4_xs", 256, 136),
    GgufType(24, "int8", 1, 1),
    GgufType(25, "i16", 1, 2),
    GgufType(26, "i32", 1, 4),
    GgufType(27, "i64", 1, 8),
    GgufType(28, "f64", 1, 8),
    GgufType(29, "iq1_m", 256, 56),
    GgufType(30, "bf16", 1, 2),
    GgufType(34, "tq1_0", 256, 54),
    GgufType(35, "tq2_0", 256, 66),
    GgufType(39, "mxfp4", 32, 17),
    GgufType(40, "nvfp4", 64, 36),
    GgufType(41, "q1_0", 128, 18),
)
BY_NUMBER = {entry.number: entry for entry in _ALL}
