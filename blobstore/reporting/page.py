"""The page: data, styles and scripts in one HTML file, in which nothing else can run.

Bokeh draws the plots: it is kept by a team since 2012, draws 16,000 rectangles on a canvas, is a quarter of the size of
plotly.js, and its wheel carries the scripts, so that no page needs a network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from blobstore.errors import shown

_SCRIPTS = ("bokeh.min.js", "bokeh-api.min.js")
# In JSON these are escapes like any other, and with them no text can end a script or begin a tag. U+2028 and U+2029
# are escaped as all that isn't ASCII.
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def escaped_json(value: Any) -> str:  # noqa: ANN401 (JSON is anything)
    """Return JSON as ASCII text that can stand in a ``<script>``, whatever texts are in it.

    Characters that would hide, or turn the text around them, are shown as escapes.
    """
    return json.dumps(_shown(value), separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


def _shown(value: Any) -> Any:  # noqa: ANN401 (as above)
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {_shown(key): _shown(one) for key, one in value.items()}
    return [_shown(one) for one in value] if isinstance(value, (list, tuple)) else value


def library() -> tuple[tuple[str, ...], str] | None:
    """Return the scripts of Bokeh, and its licence; None if it isn't installed, or was installed without them."""
    try:
        installed = metadata.distribution("bokeh")
        folder = Path(str(installed.locate_file("bokeh")))
        texts = [(folder / "server" / "static" / "js" / name).read_text(encoding="utf-8") for name in _SCRIPTS]
        licence = (folder / "LICENSE.txt").read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError):
        return None
    return tuple(text.replace("</script", "<\\/script") for text in texts), f"Bokeh {installed.version}\n\n{licence}"


def page_of(data: dict[str, Any]) -> bytes:
    """Return the page that shows what was gathered, as UTF-8; without plots if there is no `library`.

    Args:
        data: What `blobstore.reporting.report` puts together; plain values.
    """
    ours = resources.files("blobstore.reporting")
    code = (ours / "page.js").read_text(encoding="utf-8")
    styles = (ours / "page.css").read_text(encoding="utf-8")
    scripts, licence = library() or ((), "")
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in (*scripts, code))
    # Styles may be inline: Bokeh makes its own. Nothing is fetched, sent or framed.
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width">',
        '<meta name="referrer" content="no-referrer">',
        "<title>blobstore report</title>",
        f"<style>{styles}</style></head><body>",
        "<noscript>This page needs JavaScript, of which it runs only its own.</noscript>",
        f'<details id="licences"><summary>Licences</summary><pre>{_text(licence)}</pre></details>' if licence else "",
        f'<script type="application/json" id="data">{escaped_json(data)}</script>',
        *(f"<script>{script}</script>" for script in (*scripts, code)),
        "</body></html>",
    ]
    return ("\n".join(parts) + "\n").encode()


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
