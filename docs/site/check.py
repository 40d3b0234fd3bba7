"""Check the pages that Sphinx has made: links, what they load, and that the reference is complete.

    python docs/site/check.py FOLDER

Sphinx checks links between Markdown pages. This checks those of the finished pages, with their anchors; that no page
loads anything from elsewhere, so that it needs no network; and that each public name, command and code is there.
"""

from __future__ import annotations

import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pages import MODULES, commands, public_names

from blobstore import cli
from blobstore.explaining import CODES

# Tags that load what they name, and by which attribute; a link to a page elsewhere is not loaded.
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What a page can be linked to by, what it links to, and what it loads."""

    def __init__(self, path: Path) -> None:
        """Read it."""
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a tag."""
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if LOADS.get(tag) in given:
            self.loads.append(given[LOADS[tag]])


def main(folder: Path) -> int:
    """Print what is wrong with the pages of a folder; return 1 if anything is."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    faults = [f"{path.relative_to(folder.resolve())}: {what}" for path in pages for what in faults_of(path, pages)]
    faults += [
        f"a style loads from elsewhere: {path}" for path in folder.rglob("*.css") if b"url(http" in path.read_bytes()
    ]
    faults += missing(folder, pages)
    for fault in faults:
        print(fault)
    links = sum(len(page.links) for page in pages.values())
    print(f"{len(pages)} pages, {links} links: {f'{len(faults)} faults' if faults else 'nothing wrong found'}")
    return 1 if faults else 0


def faults_of(path: Path, pages: dict[Path, Page]) -> list[str]:
    """Return what is wrong on one page."""
    page = pages[path]
    faults = [f"loads from elsewhere: {url}" for url in page.loads if urlsplit(url).netloc]
    for url in page.links + page.loads:
        parts = urlsplit(url)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        anchor = unquote(parts.fragment)
        if not target.is_file():
            faults.append(f"leads to nothing: {url}")
        elif anchor and target in pages and anchor not in pages[target].anchors:
            faults.append(f"has no such place: {url}")
    return faults


def missing(folder: Path, pages: dict[Path, Page]) -> list[str]:
    """Return the public names, commands and codes that the reference doesn't have."""
    inventory = (folder / "objects.inv").read_bytes().split(b"\n", 4)[4]
    described = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines() if " py:" in line}
    names = {f"{module}.{name}" for module in MODULES for name in public_names(module)[0]}
    faults = [f"the reference lacks {name}" for name in sorted(names - described)]
    for page, ids in {
        "codes": set(CODES),
        "commands": {name.replace(" ", "-") for name, _ in commands(cli.parser())},
    }.items():
        anchors = pages[(folder / "reference" / f"{page}.html").resolve()].anchors
        faults += [f"the page of {page} lacks {id_}" for id_ in sorted(ids - anchors)]
    return faults


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
