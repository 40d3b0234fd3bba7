"""What a user may choose of a file for gemma.cpp, and which choices exclude each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

from blobstore.errors import UsageError
from blobstore.gemma.versions import LATEST

KINDS = ("auto", "gemma", "names")
WEIGHTS = ("sfp", "bf16", "f32", "i8", "q4_0")
LAYOUTS = ("split", "stock")


@dataclass(frozen=True)
class Choices:
    """What a user may choose.

    Attributes:
        weights: Type of the weights, where the runtime leaves a choice.
        layout: ``split`` is almost the checkpoint's own arrangement, and loads faster; ``stock`` is that of published
            files; None for the family's own, which is ``split`` but for T5Gemma.
        wrapping: ``it``, ``pt``, or None for what the checkpoint says.
        pad: Whether a vocabulary that isn't a multiple of 32 is padded; else it is refused.
        runtime: The version of gemma.cpp that the file is for, or None for the oldest that can run the model.
    """

    weights: str = "sfp"
    layout: str | None = None
    wrapping: str | None = None
    pad: bool = True
    runtime: str | None = None

    def refuse_unusable(self) -> None:
        """Refuse what no runtime up to April 2026 runs, unless a later one is chosen. `verify` compares such files.

        Raises:
            UsageError: ``i8-stock``.
        """
        if (self.weights, self.layout) == ("i8", "stock") and self.runtime != LATEST:
            what = "gemma.cpp up to 2026-04 hangs when it loads i8 weights in the stock layout"
            raise UsageError("i8-stock", f"{what}: use --weights sfp, --layout split, or --runtime {LATEST}")

    def for_family(self, family: str) -> Choices:
        """Return the choices with the layout that a family gets.

        Raises:
            UsageError: ``stock-only``: the family has only the stock layout, and another was chosen, or i8.
        """
        from blobstore.converting.gemma_families import FAMILIES  # noqa: PLC0415 (``--help`` lists the choices, and needs no numpy)

        name = FAMILIES[family].stock_only
        if not name:
            return replace(self, layout=self.layout or "split")
        if self.layout == "split":
            what = f"--layout split: gemma.cpp has only the stock layout for {name}: leave it out"
            raise UsageError("stock-only", what)
        if self.weights == "i8":
            what = f"no gemma.cpp is known to load i8 in the stock layout, the only one of {name}"
            raise UsageError("stock-only", f"{what}: use --weights sfp or bf16")
        return replace(self, layout="stock")
