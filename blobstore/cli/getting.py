"""What ``blobstore get`` writes: a tensor, a blob, a carried file, or the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blobstore
from blobstore.cli.newer import tell_newer
from blobstore.cli.output import note, output_of, print_json
from blobstore.container.keys import RESERVED_KEYS, TOKENIZER_KEY
from blobstore.errors import NameNotFoundError, UsageError
from blobstore.exporting.tensor import write_npy, write_stored
from blobstore.index.inputs import files_of, refuse_inputs
from blobstore.store.base import refuse_needless_base

if TYPE_CHECKING:
    import argparse

    from blobstore.store.reader import Store


def write_one(options: argparse.Namespace) -> int:
    """Write a tensor, a blob or a carried file."""
    output = "-" if options.output is None else options.output
    target = output_of(options, output)
    refuse_inputs([target], files_of(options.file, options.base))
    with blobstore.open(options.file, base=options.base, by=options.by) as store:
        _refuse_needless_base(store, options.name)
        tell_newer(store.reader)
        if output.endswith(".npy") and not options.raw:
            what = "" if options.name in store else _no_array(store, options.name)
            if what:
                raise UsageError("no-array", f"{options.name!r} is {what}: give OUT another ending, or --raw")
            foreign = write_npy(store, options.name, output)
            if foreign is not None:
                note(f"{options.name} is {foreign}: written as float32, which holds every value exactly")
        else:
            write_stored(store, options.name, target)
    return 0


def print_tokens(options: argparse.Namespace) -> int:
    """Print the listing of the tokenizer, the only name that has one."""
    if options.name != TOKENIZER_KEY or options.output is not None or options.raw:
        what = "--json prints a list of gemma.cpp's tokens: NAME has to be tokenizer, without -o and --raw"
        raise UsageError("two-ways" if options.name == TOKENIZER_KEY else "no-listing", what)
    with blobstore.open(options.file, base=options.base) as store:
        refuse_needless_base(store)
        tokens = store.tokens
        if tokens is None:
            raise NameNotFoundError("name-not-found", f"{options.file!r} has no tokenizer for gemma.cpp")
        print_json(tokens)
    return 0


def _is_there(store: Store, name: str) -> bool:
    return name in store or name in store.reader or name in store.files


def _no_array(store: Store, name: str) -> str:
    """Say what a name is that isn't a tensor's; empty if it is nothing in the file."""
    if name in RESERVED_KEYS and name in store.reader:
        return "a blob of the runtime's, not an array"
    return "a file of the model's, not an array" if name in store.files else ""


def _refuse_needless_base(store: Store, name: str) -> None:
    """Refuse ``--base`` if the tensor, or the blob, isn't stored as a difference."""
    refuse_needless_base(store)
    if store.base_path is None or not _is_there(store, name):
        return
    if name not in store or not store.unpacked.needs_base(store.info(name).key):
        raise UsageError("needless-base", f"{name!r} is not stored as a difference: leave out --base")
