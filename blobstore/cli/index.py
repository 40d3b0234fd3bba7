"""``blobstore index``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blobstore
from blobstore.cli.formatting import shown
from blobstore.cli.output import add_command, add_json, note, output_of, print_json
from blobstore.cli.progress import progress
from blobstore.fileio.places import file_size

if TYPE_CHECKING:
    import argparse

    from blobstore.edit.reindex import Indexing

TEXT = """Move a file's name index, build one, or join those of several files.

attach  moves the index beside the file (FILE.idx) into it
detach  moves the index out of the file into FILE.idx; the file is then as if it never had one
join    makes the index of a set: of several files with indexes inside, opened as one by its path
build   makes an index for a file that has none: from its toc, or with each blob under its key;
        beside the file, or inside (--embed); --force replaces an existing index, whose metadata
        is kept and whose names are not

build --digests reads every blob and stores its SHA-256. An index without digests gets them, and keeps its names.
Existing digests are compared, never replaced: each blob that doesn't match is named, and the exit status is 1. For a
blob that was meant to change: --force without --digests, which drops the old digests, then --digests."""
EXAMPLE = """example:
  blobstore index build model.sbs --digests
  blobstore index attach model.sbs
  blobstore index join model-00001-of-00002.sbs model-00002-of-00002.sbs -o model.sbs"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "index", _attach, TEXT, EXAMPLE)
    actions = parser.add_subparsers(metavar="attach|detach|build|join", required=True)
    for name, action, text in (
        ("attach", _attach, "Move FILE.idx into FILE."),
        ("detach", _detach, "Move the index out of FILE into FILE.idx."),
        ("build", _build, "Make an index for a FILE that has none, or add digests to one."),
    ):
        command = add_command(actions, name, action, text, f"example:\n  blobstore index {name} model.sbs")
        command.add_argument("file", metavar="FILE", help="an .sbs file")
        if name == "build":
            command.add_argument("--embed", action="store_true", help="put it into FILE, which is rewritten")
            command.add_argument(
                "--digests",
                action="store_true",
                help="read every blob and store its SHA-256, also in an existing index; old ones are compared",
            )
            command.add_argument("--force", action="store_true", help="replace an existing index; its names are lost")
        add_json(command)
    text = "Make the index of a set of FILEs, in their folder; nothing of them is copied."
    names = "model-00001-of-00002.sbs model-00002-of-00002.sbs"
    command = add_command(actions, "join", _join, text, f"example:\n  blobstore index join {names} -o model.sbs")
    command.add_argument("files", metavar="FILE", nargs="+", help="an .sbs file of version 2 with its index inside")
    command.add_argument("-o", "--output", metavar="OUT", required=True, help="the index of the set, to write")
    add_json(command)


def _attach(options: argparse.Namespace) -> int:
    from blobstore.edit.reindex import attach_index  # noqa: PLC0415 (``--help`` needs no numpy)

    return _report(options, attach_index(options.file))


def _detach(options: argparse.Namespace) -> int:
    from blobstore.edit.reindex import detach_index  # noqa: PLC0415 (as above)

    return _report(options, detach_index(options.file))


def _build(options: argparse.Namespace) -> int:
    with progress(file_size(options.file), "indexing") as advance:
        done = blobstore.build_index(
            options.file, embed=options.embed, digests=options.digests, force=options.force, progress=advance
        )
    return _report(options, done)


def _join(options: argparse.Namespace) -> int:
    output_of(options, options.output, streams=False)
    done, count = blobstore.join_stores(options.files, options.output), len(options.files)
    return _report(options, done, f" in {count} file{'s' * (count != 1)}")


def _report(options: argparse.Namespace, done: Indexing, where: str = "") -> int:
    for text in done.notes:
        note(text)
    if options.json:
        print_json(done)
    else:
        print(f"{shown(done.output)}: {done.names} names{where}")
    return 0
