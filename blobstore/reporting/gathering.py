"""What a report shows, as plain values: columns of the same length, since 16,000 tensors are to stay small."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from blobstore.container.keys import OWN_KEYS, RESERVED_KEYS, encode_key
from blobstore.errors import CodecError, FormatError
from blobstore.reporting.measuring import SAMPLED, measure
from blobstore.reporting.naming import layer_and_role

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blobstore.checking.findings import Finding
    from blobstore.compare.comparison import ComparedEntry, Comparison
    from blobstore.fileio.types import Progress
    from blobstore.reporting.measuring import Measured
    from blobstore.store.info import TensorInfo
    from blobstore.store.reader import Store

# What lies in a file.
HEADER, DIRECTORY, PADDING, TENSOR, INDEX, MODEL, OTHER = range(7)
KINDS = ("header", "directory", "padding", "tensor", "index", "model data", "other blob")
_DIGITS = 6  # of a number in the page
_LARGEST = 1 << 53  # larger integers are not exact in a browser
_HEIGHT = 9  # of a histogram's bin: one digit


def findings_of(found: Iterable[tuple[str, Finding]]) -> list[list[str]]:
    """Return findings as rows: severity, code, subject, message, effect, fix, and which commands found it."""
    rows: dict[Finding, list[str]] = {}
    for command, finding in found:
        rows.setdefault(finding, []).append(command)
    return [
        [one.severity, one.code, one.subject, one.message, one.effect, one.fix, ", ".join(dict.fromkeys(commands))]
        for one, commands in rows.items()
    ]


def tensors_of(
    store: Store, *, sample: bool, progress: Progress = lambda _: None
) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the tensors of a file as columns, each tensor once, in the order of their names; and what can't be read.

    Args:
        store: The file, open.
        sample: As for `measure`.
        progress: Called with the number of further bytes measured: of a sample, of the whole tensor.

    Returns:
        name, key, type, shape (text), nbytes, offset, layer, size (values), aliases (a list), digest (hex, of the blob;
        empty without), min, max, mean, std, nan, inf, zeros (a share), count (values that were read) and histogram (a
        digit for each bin, 0 to 9 of the highest). Of a tensor that can't be decoded all from min on are None, and the
        histogram is empty. Then a line for each tensor whose bytes are wrong; its columns are the same.

    Raises:
        UsageError: ``needs-base``, ``wrong-base``.
        OSError: The file can't be read.
    """
    aliases: dict[str, list[str]] = defaultdict(list)
    further = store.aliases
    for alias, name in further.items():
        aliases[name].append(alias)
    columns: dict[str, list[Any]] = defaultdict(list)
    faults: list[str] = []
    for info in store.infos():
        if info.name in further:
            continue
        measured = None
        try:
            measured = measure(store, info, sample=sample)
        except (FormatError, CodecError) as error:
            faults.append(f"{info.name} can't be read: {error}")
        progress(info.nbytes)
        layer, _ = layer_and_role(info.name)
        row = {
            "name": info.name,
            "key": info.key,
            "type": info.type.name,
            "shape": "×".join(map(str, info.shape)) or "scalar",
            "nbytes": info.nbytes,
            "offset": info.offset,
            "layer": layer,
            "size": info.size,
            "aliases": aliases.get(info.name, []),
            "digest": _digest(store, info),
            **_numbers(measured),
        }
        for column, value in row.items():
            columns[column].append(value)
    return dict(columns), faults


def _digest(store: Store, info: TensorInfo) -> str:
    index = store.index
    if index is None or not info.key or not index.has_digests:
        return ""
    blob = index.blob_of(encode_key(info.key), -1)
    return "" if blob is None or blob.sha256 is None else blob.sha256.hex()


def _numbers(measured: Measured | None) -> dict[str, Any]:
    if measured is None:
        return dict.fromkeys(("min", "max", "mean", "std", "nan", "inf", "zeros", "count")) | {"histogram": ""}
    found, highest = measured.statistics, max(measured.histogram, default=0)
    digits = (-(-height * _HEIGHT // highest) for height in measured.histogram)  # whatever isn't empty is seen
    return {
        **{name: _short(getattr(found, name)) for name in ("min", "max", "mean", "std")},
        "nan": found.nan,
        "inf": found.inf,
        "zeros": _short(measured.zeros / measured.count) if measured.count else None,
        "count": measured.count,
        "histogram": "".join(map(str, digits)),
    }


def _short(value: float | None) -> int | float | None:
    """Return a number with as many digits as are shown."""
    if value is None or (isinstance(value, int) and abs(value) <= _LARGEST):
        return value
    return float(f"{value:.{_DIGITS}g}")


def layout_of(store: Store) -> dict[str, list[Any]]:
    """Return what lies in a file from its first byte to its last, without a gap: offset, nbytes, kind, key.

    The kind is a place in `KINDS`; only blobs have a key.
    """
    directory = store.reader.directory
    tensors = {info.key for info in store.infos()}
    spans = [
        (offset, nbytes, _kind(key, tensors), key)
        for key, offset, nbytes in zip(
            directory.all_keys, directory.offsets.tolist(), directory.sizes.tolist(), strict=True
        )
    ]
    spans += [(offset, nbytes, PADDING, "") for offset, nbytes in directory.gaps()]
    spans.sort()
    whole, end = [], 0
    for span in [*spans, (directory.file_size, 0, DIRECTORY, "")]:
        if span[0] > end:
            whole.append((end, span[0] - end, DIRECTORY if end else HEADER, ""))
        if span[1]:
            whole.append(span)
        end = max(end, span[0] + span[1])
    return {
        name: list(column)
        for name, column in zip(("offset", "nbytes", "kind", "key"), zip(*whole, strict=True), strict=True)
    }


def _kind(key: str, tensors: set[str]) -> int:
    if key in OWN_KEYS:
        return INDEX
    if key in RESERVED_KEYS:
        return MODEL
    return TENSOR if key in tensors else OTHER


def changes_of(comparison: Comparison) -> dict[str, Any]:
    """Return what differs between two files: paths, files read, notes, counts of each kind, the entries as columns."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("name", "layer", "role", "what", "type", "shape", "differ", "abs", "rel", "angle", "more")
    }
    for entry in comparison.entries:
        values = entry.values
        layer, role = layer_and_role(entry.name)
        sides = [side for side in (entry.a, entry.b) if side]
        share = values.unequal / values.count if values and values.count else None
        angle = None if values is None or values.cosine is None else 1 - values.cosine
        row = {
            "name": entry.name,
            "layer": layer,
            "role": role,
            "what": entry.kind,
            "type": " → ".join(dict.fromkeys(side.type for side in sides)),
            "shape": " → ".join(dict.fromkeys("×".join(map(str, side.shape)) or "scalar" for side in sides)),
            "differ": _short(share),
            "abs": _difference(values.max_abs) if values else None,
            "rel": _difference(values.max_rel) if values else None,
            "angle": _short(angle),
            "more": "; ".join(_words(entry)),
        }
        for column, value in row.items():
            columns[column].append(value)
    return {
        "a": comparison.a,
        "b": comparison.b,
        "differ": comparison.differ,
        "notes": list(comparison.notes),
        "read": [*comparison.read_a, *comparison.read_b],
        "counts": comparison.counts,
        "entries": columns,
    }


def _words(entry: ComparedEntry) -> Iterator[str]:
    values = entry.values
    if entry.other:
        yield f"is {entry.other}"
    if values and values.not_finite:
        yield f"{values.not_finite:,} where only one is finite, or the infinities differ"
    if values and values.worst:
        yield f"most at {list(values.worst.index)}: {values.worst.a} → {values.worst.b}"
    if entry.detail:
        yield entry.detail


def _difference(value: float | str) -> float | str | None:
    return value if isinstance(value, str) else _short(value)


def facts_of(store: Store) -> list[list[str]]:
    """Return what is said of the file as a whole, name and text each."""
    reader, index = store.reader, store.index
    where = "none" if index is None else f"{index.kind}, {len(index.names):,} names"
    digests = "" if index is None else ", with SHA-256" if index.has_digests else ", without SHA-256"
    rows = [
        ["container", f"version {reader.version}, {len(reader):,} blobs"],
        ["bytes", f"{reader.file_size:,}"],
        ["tensors", f"{len(store) - len(store.aliases):,}, and {len(store.aliases):,} further names"],
        ["name index", where + digests],
    ]
    return rows + [["metadata: " + key, text] for key, text in store.metadata.items()]


def sampled_lines(columns: dict[str, list[Any]]) -> list[str]:
    """Say what a sample left out; nothing if that is nothing."""
    counts = zip(columns.get("size", []), columns.get("count", []), strict=True)
    part = [size for size, count in counts if count is not None and count < size]
    if not part:
        return []
    share = len(part) * SAMPLED / sum(part)
    text = (
        f"Sampled: {len(part):,} tensors have more than {SAMPLED:,} values each, of which {SAMPLED:,} were read, "
        f"{share:.2%} of all. Their statistics are of these: the true minimum may be lower, the maximum higher, and a "
        "NaN may be missed."
    )
    return [text]
