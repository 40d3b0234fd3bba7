"""``blobstore info``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import blobstore
from blobstore.cli.output import add_command, add_json, print_fields, print_json, size

if TYPE_CHECKING:
    import argparse

    from blobstore.store import Store

EXAMPLE = """example:
  blobstore info model.sbs
  blobstore info model.sbs --json | jq .metadata"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "Tell what a file is: version, blobs, bytes, types, index, metadata. Checks its structure, reads no tensor."
    parser = add_command(commands, "info", run, text, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    with blobstore.open(options.file) as store:
        facts = describe(store)
    if options.json:
        print_json(facts)
        return 0
    types = ", ".join(f"{one['count']} × {name} ({size(one['nbytes'])})" for name, one in facts["types"].items())
    index = facts["index"]
    where = "none: blobs are bytes under their keys"
    if index:
        digests = "with" if index["digests"] else "without"
        place = f"beside the file ({index['path']})" if index["place"] == "external" else "inside"
        where = f"{place}, {index['names']} names, {digests} digests"
    print_fields(
        [
            ("file", facts["file"]),
            ("container", f"version {facts['version']}, {facts['nbytes']} bytes ({size(facts['nbytes'])})"),
            ("blobs", f"{facts['blobs']}, {facts['payload_nbytes']} bytes, and {facts['other_nbytes']} around them"),
            ("index", where),
            ("tensors", f"{facts['tensors']}, {facts['shared']} of them in blobs of others"),
            ("types", types or "none"),
            *((f"metadata {key}", value) for key, value in facts["metadata"].items()),
        ]
    )
    return 0


def describe(store: Store) -> dict[str, Any]:
    """Return all that the command tells, as JSON values."""
    reader = store.reader
    counts: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    ranges: set[tuple[int, int]] = set()
    keys: Counter[str] = Counter()
    for one in store.infos():
        counts[one.type.name] += 1
        keys[one.key] += 1
        if (one.offset, one.nbytes) not in ranges:  # what aliases share is there once
            ranges.add((one.offset, one.nbytes))
            nbytes[one.type.name] += one.nbytes
    payload = int(reader.directory.sizes.sum())
    found = store.index
    return {
        "file": store.path,
        "version": reader.version,
        "nbytes": reader.file_size,
        "blobs": len(reader),
        "payload_nbytes": payload,
        "other_nbytes": reader.file_size - payload,
        "tensors": len(store),
        "shared": sum(count - 1 for key, count in keys.items() if key),
        "types": {name: {"count": counts[name], "nbytes": nbytes[name]} for name in sorted(counts)},
        "index": {
            "place": "external" if found.content.external else "embedded",
            "path": found.path,
            "names": len(found.content.names),
            "digests": found.content.has_digests,
        }
        if found
        else None,
        "metadata": store.metadata,
    }
