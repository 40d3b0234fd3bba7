"""What ``blobstore info`` says of a file."""

from __future__ import annotations

import math
import os
from collections import Counter
from itertools import starmap
from typing import TYPE_CHECKING, Any

from blobstore.cli.formatting import size
from blobstore.container.keys import CONFIG_KEY, TOC_KEY, describes_model
from blobstore.container.layout import MAX_PORTABLE_BLOBS
from blobstore.errors import FormatError
from blobstore.fileio.file_systems import file_system
from blobstore.fileio.places import file_size
from blobstore.index.locate import lost_index
from blobstore.index.metadata import BASE, BASE_NAME, FILES
from blobstore.index.records import directory_digest
from blobstore.index.sets import SetReader
from blobstore.store.info import outermost
from blobstore.store.reader import Store
from blobstore.store.values import stored_infos

if TYPE_CHECKING:
    from blobstore.checkpoint.gguf.file import GgufFile
    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.cli.contents import Contents
    from blobstore.container.reader import BlobReader
    from blobstore.gemma.config import ModelConfig

_MOST_SHOWN = 200


def lines_of(facts: dict[str, Any]) -> list[tuple[str, object]]:
    """Return what `describe` gives, in words: names and values."""
    return _fields(facts) if facts["format"] == "sbs" else _foreign_fields(facts)


def _fields(facts: dict[str, Any]) -> list[tuple[str, object]]:
    """Return the lines about an .sbs file."""
    index = facts["index"]
    where = "none: names and types are from the blob toc" if facts["toc"] else "none: names are keys"
    if index:
        digests = "with" if index["digests"] else "without"
        places = {"external": f"beside the file ({index['path']})", "set": f"of the set ({index['path']})"}
        place = places.get(index["place"], "inside")
        where = f"{place}, {index['names']} names, {digests} digests"
    shared = f", {facts['shared']} of them in the blob of another" if facts["shared"] else ""
    return [
        ("file", facts["input"]),
        ("access", _access(facts)),
        ("container", f"version {facts['version']}, {facts['nbytes']} bytes ({size(facts['nbytes'])})"),
        *((("set", _set(facts["set"])),) if facts["set"] else ()),
        ("blobs", f"{facts['blobs']}, {facts['payload_nbytes']} bytes, and {facts['other_nbytes']} around them"),
        ("directory", f"SHA-256 {facts['directory_sha256']}: a difference (pack --base) knows its base by it"),
        ("index", where),
        ("tensors", f"{facts['tensors']}{shared}"),
        ("types", _types(facts)),
        *((("weights", _weights(facts)),) if facts["weights"] else ()),
        *((("packed", _packed(facts["packed"], model=bool(facts["model"]))),) if facts["packed"] else ()),
        *((("model", facts["model"]["text"]),) if facts["model"] else ()),
        *((("tokenizer", facts["model"]["tokens"]["text"]),) if (facts["model"] or {}).get("tokens") else ()),
        *((("gemma.cpp", facts["runs"]),) if facts["runs"] else ()),
        *(("newer", text) for text in facts["newer"]),
        *((("readers", facts["readers"]),) if facts["readers"] else ()),
        *((("carries", _carried(facts)),) if facts["carried"] or facts["carried_fault"] else ()),
        *((f"metadata {key}", _short(value)) for key, value in facts["metadata"].items() if key != FILES),
    ]


def _carried(facts: dict[str, Any]) -> str:
    files = [f"{name} ({size(nbytes)})" for name, nbytes in facts["carried"].items()]
    return ", ".join(files + ([f"damaged: {facts['carried_fault']}"] if facts["carried_fault"] else []))


def _foreign_fields(facts: dict[str, Any]) -> list[tuple[str, object]]:
    """Return the lines about a file of another format."""
    version = f" version {facts['version']}" if facts["version"] else ""
    files = f"{facts['files']} files, " if facts["files"] > 1 else ""
    return [
        ("file", facts["input"]),
        ("container", f"{facts['format']}{version}, {files}{facts['nbytes']} bytes ({size(facts['nbytes'])})"),
        ("tensors", f"{facts['tensors']}, {facts['payload_nbytes']} bytes, and {facts['other_nbytes']} around them"),
        ("types", _types(facts)),
        *((("weights", _weights(facts)),) if facts["weights"] else ()),
        *((("model", facts["model"]["text"]),) if facts["model"] else ()),
        *((f"metadata {key}", _short(str(value))) for key, value in facts["metadata"].items()),
    ]


def _types(facts: dict[str, Any]) -> str:
    types = (f"{entry['count']} × {name} ({size(entry['nbytes'])})" for name, entry in facts["types"].items())
    return ", ".join(types) or "none"


def _access(facts: dict[str, Any]) -> str:
    where = f" ({facts['file_system']})" if facts["file_system"] else ""
    return f"mapped{where}" if facts["access"] == "mmap" else f"plain reads{where}: a mapped file could be truncated"


def _packed(facts: dict[str, Any], *, model: bool) -> str:
    ratio = facts["unpacked_nbytes"] / facts["nbytes"]
    base = f", as the difference to a file whose directory has the SHA-256 {facts['base']}" if facts["base"] else ""
    base += f" (packed against {facts['base_name']!r})" if facts["base_name"] else ""
    runs = ": gemma.cpp can't run it until blobstore unpack" if model else ""
    sizes = f"{size(facts['unpacked_nbytes'])} in {size(facts['nbytes'])} (ratio {ratio:.3f})"
    return f"{facts['blobs']} blobs, {sizes}{base}{runs}"


def _short(text: str) -> str:
    """Return a text that fits on a few lines; --json has the whole text."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}… ({len(text)} characters)"


def _weights(facts: dict[str, Any]) -> str:
    return f"{facts['weights']} elements, {facts['bits_per_weight']:.2f} bits each"


def _model(store: Store) -> dict[str, Any] | None:
    """Return what the config says about the model, if there is one."""
    try:
        config = store.config
    except FormatError as error:
        return {"fault": str(error), "text": f"unknown, the blob {CONFIG_KEY!r} is damaged: {error}"}
    if config is None:
        return None
    vision = f", images {config.vit_config.image_size}" if config.vit_config.layer_configs else ""
    layers = f"{config.num_layers} layers"
    if config.is_encoder_decoder:
        layers = f"an encoder of {config.encoder_num_layers} layers and a decoder of {config.decoder_num_layers}, both"
    sizes = f"{layers} of {config.model_dim}, vocabulary {config.vocab_size}{vision}"
    tokenizer = "with" if store.tokenizer else "without"
    weight = config.weight.name.lower()
    return {
        "name": config.display_name,
        "model": config.model.name,
        "weight": weight,
        "wrapping": config.wrapping.name.lower(),
        "layers": config.num_layers,
        "encoder_layers": config.encoder_num_layers if config.is_encoder_decoder else None,
        "model_dim": config.model_dim,
        "vocab_size": config.vocab_size,
        "tokenizer": store.tokenizer is not None,
        "tokens": _tokens(store, config),
        "text": f"{config.display_name} {weight} {config.wrapping.name.lower()}: {sizes}, {tokenizer} tokenizer",
    }


def _tokens(store: Store, config: ModelConfig) -> dict[str, Any] | None:
    """Return what gemma.cpp's tokenizer is, and how much it has, if there is one."""
    raw, kind = store.tokenizer, int(config.tokenizer_kind)
    if raw is None:
        return None
    from blobstore.gemma.bpe import BpeTokenizer  # noqa: PLC0415 (most files are no models)
    from blobstore.gemma.enums import TokenizerKind  # noqa: PLC0415 (as above)
    from blobstore.gemma.tokenizer import count_pieces  # noqa: PLC0415 (as above)
    from blobstore.tokenizer.notes import counted  # noqa: PLC0415 (as above)

    try:
        if kind == TokenizerKind.SENTENCE_PIECE:
            count = count_pieces(raw)
            return {"kind": "sentencepiece", "tokens": count, "text": f"SentencePiece, {counted(count, 'token')}"}
        if kind != TokenizerKind.BPE:
            return {"kind": str(kind), "text": f"of kind {kind}, which this version doesn't know"}
        bpe = BpeTokenizer.from_bytes(raw)
    except FormatError as error:
        return {"unreadable": str(error), "text": f"can't be read: {error}"}
    tokens, merges, added = len(bpe.tokens), len(bpe.merges) // 2, len(bpe.added_ids)
    counts = [(tokens, "token"), (merges, "merge"), (added, "added token")]
    text = f"{bpe.kind} BPE, {', '.join(starmap(counted, counts))}"
    return {"kind": bpe.kind, "tokens": tokens, "merges": merges, "added_tokens": added, "text": text}


def _runs(store: Store) -> dict[str, Any]:
    """Return which versions of gemma.cpp run the file correctly, and what in it is newer than some of them."""
    if not describes_model(store.reader):
        return {"runs": None, "runs_in": None, "newer": []}
    from blobstore.checking import check_packed, check_runtime, runs_in, runtimes_line  # noqa: PLC0415 (most files are no models)
    from blobstore.gemma.newer import newer_texts  # noqa: PLC0415

    findings = [*check_runtime(store.reader, store.index, tokenizer=False), *check_packed(store.reader, store.index)]
    newer = newer_texts(store.reader)
    return {"runs": runtimes_line(findings), "runs_in": list(runs_in(findings)), "newer": newer}


def _readers(count: int) -> str | None:
    """Return which readers open a file of so many blobs; None if all do."""
    if count <= MAX_PORTABLE_BLOBS:
        return None
    from blobstore.gemma.newer import readers_notes  # noqa: PLC0415 (most files have fewer)

    return next(iter(readers_notes(count)), None)


def describe(contents: Contents) -> dict[str, Any]:
    """Return everything that the command prints, as JSON values."""
    source = contents.source
    return _describe_store(source) if isinstance(source, Store) else _describe_foreign(contents, source)


def _describe_store(store: Store) -> dict[str, Any]:
    reader = store.reader
    payload = int(reader.directory.sizes.sum())
    tensors, weights = _tensor_facts(store)
    return {
        "input": store.path,
        "format": "sbs",
        "access": reader.access,
        "file_system": file_system(reader.device),
        "version": reader.version,
        "set": _set_facts(reader),
        "nbytes": reader.file_size,
        "blobs": len(reader),
        "readers": _readers(_most_blobs(reader)),
        "payload_nbytes": payload,
        "other_nbytes": reader.file_size - payload,
        "directory_sha256": directory_digest(reader.directory).hex(),
        **tensors,
        "index": _index_facts(store),
        "notes": [*lost_index(store.reader), *_missing(store.reader)],
        "packed": _packed_facts(store),
        **weights,
        "model": _model(store),
        **_runs(store),
        "toc": TOC_KEY in reader,
        **_carried_facts(store),
        "metadata": store.metadata,
    }


def _most_blobs(reader: BlobReader) -> int:
    """Return how many blobs a file has; of a set, the one with the most, and its index."""
    if isinstance(reader, SetReader):
        return 1 + max(store.blob_count for store in reader.index.stores)
    return len(reader)


def _set_facts(reader: BlobReader) -> list[dict[str, Any]] | None:
    """Return the files of a set; None for what is one file."""
    if not isinstance(reader, SetReader):
        return None
    stores = zip(reader.paths, reader.index.stores, strict=True)
    return [{"file": path, "nbytes": store.nbytes, "blobs": store.blob_count} for path, store in stores]


def _missing(reader: BlobReader) -> list[str]:
    """Say how many files of a set aren't there; those elsewhere aren't asked for."""
    if not isinstance(reader, SetReader) or reader.is_elsewhere:
        return []
    missing = [path for path in reader.paths if not os.path.isfile(path)]
    if not missing:
        return []
    more = f" and {len(missing) - 1} more files of the set are" if missing[1:] else " is"
    return [f"{missing[0]!r}{more} missing: put back what should be there; blobstore check names all"]


def _set(files: list[dict[str, Any]]) -> str:
    named = f"{files[0]['file']} to {files[-1]['file']}" if len(files) > 1 else files[0]["file"]
    return f"{len(files)} file{'s' * (len(files) != 1)}, {named}"


def _carried_facts(store: Store) -> dict[str, Any]:
    """Return the files that a store carries, name → size, and what is wrong with them."""
    carried: dict[str, int] = {}
    faults = []
    try:
        for name in store.files:
            try:
                carried[name] = store.files.part_of_file(name).nbytes
            except FormatError as error:
                faults.append(str(error))
    except FormatError as error:
        faults.append(str(error))
    return {"carried": carried, "carried_fault": "; ".join(faults) or None}


def _describe_foreign(contents: Contents, source: Checkpoint | list[GgufFile]) -> dict[str, Any]:
    """Return what can be said of a file of another format; the fields are those of an .sbs file."""
    entries = contents.entries
    files = [file.path for file in source] if isinstance(source, list) else source.paths
    nbytes = sum(file_size(path) for path in files)
    payload = sum(entry.nbytes for entry in entries)
    weights = sum(math.prod(entry.shape) for entry in entries)
    counts = Counter(entry.type for entry in entries)
    return {
        "input": contents.path,
        "format": contents.format,
        "version": source[0].version if isinstance(source, list) else None,
        "files": len(files),
        "nbytes": nbytes,
        "payload_nbytes": payload,
        "other_nbytes": nbytes - payload,
        "tensors": len(entries),
        "types": {
            name: {"count": counts[name], "nbytes": sum(entry.nbytes for entry in entries if entry.type == name)}
            for name in sorted(counts)
        },
        "weights": weights,
        "bits_per_weight": 8 * payload / weights if weights else None,
        "model": None if isinstance(source, list) else _config_facts(source.config),
        "metadata": dict(source[0].metadata if isinstance(source, list) else source.metadata),
        "notes": list(contents.notes),
    }


def _config_facts(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return what config.json beside a checkpoint says about the model, if there is one."""
    kind, names = config.get("model_type"), config.get("architectures")
    architectures = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    kind = kind if isinstance(kind, str) else None
    text = ", ".join([*([kind] if kind else []), *architectures])
    return {"model_type": kind, "architectures": architectures, "text": text} if text else None


def _tensor_facts(store: Store) -> tuple[dict[str, Any], dict[str, Any]]:
    """Count tensors and types → facts about tensors, facts about weights."""
    counts = Counter(info.type.name for info in store.infos())
    stored = list(outermost(stored_infos(store)))
    nbytes: Counter[str] = Counter()
    for info in stored:
        nbytes[info.type.name] += info.nbytes
    known = [info for info in stored if info.type.number]  # bytes of unknown type are not weights
    weights, weight_nbytes = sum(info.size for info in known), sum(info.nbytes for info in known)
    keys = Counter(info.key for info in store.infos())
    tensors = {
        "tensors": len(store),
        "shared": sum(count - 1 for key, count in keys.items() if key),
        "types": {name: {"count": counts[name], "nbytes": nbytes[name]} for name in sorted(counts | nbytes)},
    }
    return tensors, {"weights": weights, "bits_per_weight": 8 * weight_nbytes / weights if weights else None}


def _index_facts(store: Store) -> dict[str, Any] | None:
    if store.index is None:
        return None
    return {
        "place": store.index.kind,
        "path": store.index.path,
        "names": len(store.index.names),
        "digests": store.index.has_digests,
    }


def _packed_facts(store: Store) -> dict[str, Any] | None:
    if not store.index or not store.index.packed_count:
        return None
    table = store.index.blobs
    packed = table.unpacked_nbytes != 0
    return {
        "blobs": int(packed.sum()),
        "nbytes": int(table.nbytes[packed].sum()),
        "unpacked_nbytes": sum(table.unpacked_nbytes[packed].tolist()),
        "base": store.metadata.get(BASE),
        "base_name": store.metadata.get(BASE_NAME),
    }
