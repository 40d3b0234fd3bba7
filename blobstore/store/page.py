"""A page of HTML that a notebook shows inline."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReportPage:
    """What `Store.report` returns: a notebook shows it inline, in a frame that can't reach the notebook.

    Attributes:
        html: The whole page.

    Example:
        >>> page = blobstore.open("model.sbs").report()
        >>> page.html.startswith("<!DOCTYPE html>")
        True
    """

    html: str

    def __repr__(self) -> str:
        return f"<ReportPage: {len(self.html)} characters; a notebook shows it, .html is the page>"

    def _repr_html_(self) -> str:
        from html import escape  # noqa: PLC0415 (1 ms)

        # Without allow-same-origin its scripts, although they are only ours, have nothing of the notebook's.
        style = "width: 100%; height: 60rem; border: 0"
        return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{escape(self.html)}"></iframe>'
