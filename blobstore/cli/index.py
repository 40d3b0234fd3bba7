"""``blobstore index``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.cli.formatting import shown
from blobstore.cli.output import add_command, add_json, note, print_json
from blobstore.edit.reindex import Reindexed, attach_index, build_for, detach_index

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

TEXT = """Move a file's name index, or build one.

attach  moves the index beside the file (FILE.idx) into it
detach  moves the index out of the file into FILE.idx; the file is then as if it never had one
build   makes an index for a file that has none: from its blob toc, or each blob under its key;
        beside the file, or (--embed) inside; with --force in place of one that is there, whose metadata
        is kept and whose names are not"""
EXAMPLE = """example:
  blobstore index build model.sbs --digests
  blobstore index attach model.sbs"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "index", _attach, TEXT, EXAMPLE)
    actions = parser.add_subparsers(metavar="attach|detach|build", required=True)
    for name, action, text in (
        ("attach", _attach, "Move FILE.idx into FILE."),
        ("detach", _detach, "Move the index out of FILE into FILE.idx."),
        ("build", _build, "Make an index for a FILE that has none."),
    ):
        one = add_command(actions, name, action, text, f"example:\n  blobstore index {name} model.sbs")
        one.add_argument("file", metavar="FILE", help="an .sbs file")
        if name == "build":
            one.add_argument("--embed", action="store_true", help="put it into FILE, which is written anew")
            one.add_argument("--digests", action="store_true", help="read every blob and keep its SHA-256")
            one.add_argument("--force", action="store_true", help="replace an index that is there: its names are lost")
        add_json(one)


def _attach(options: argparse.Namespace) -> int:
    return _report(options, attach_index(options.file))


def _detach(options: argparse.Namespace) -> int:
    return _report(options, detach_index(options.file))


def _build(options: argparse.Namespace) -> int:
    found = build_for(options.file, embed=options.embed, digests=options.digests, force=options.force)
    for text in found.notes:
        note(text)
    more = {"lost_names": found.lost, "changed_names": found.changed, "notes": [*found.notes]}
    return _report(options, Reindexed(found.path, found.names), more)


def _report(options: argparse.Namespace, found: Reindexed, more: Mapping[str, object] | None = None) -> int:
    if options.json:
        print_json({"index": found.path, "names": found.names, **(more or {})})
    else:
        print(f"{shown(found.path)}: {found.names} names")
    return 0
