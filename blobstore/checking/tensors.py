"""Check the blob ``toc`` and the tensors that it lists: what gemma.cpp can't load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checking.findings import finding, from_newer
from blobstore.checking.vision import MATMUL_ROWS
from blobstore.codecs.element_types import BY_NAME
from blobstore.container.keys import INDEX_KEY, RESERVED_KEYS
from blobstore.container.layout import KEY_NBYTES
from blobstore.gemma.enums import Model, WeightType
from blobstore.gemma.families.gemma4 import WITH_VISION
from blobstore.gemma.families.specs import WEIGHT_TYPES
from blobstore.gemma.newer import newer_toc
from blobstore.gemma.runtimes import APRIL, LATEST
from blobstore.gemma.stacks import stacks_of
from blobstore.gemma.tensors import check_tensors, tensors_of
from blobstore.gemma.toc import odd_strides, stride_fault, toc_entry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from blobstore.checking.findings import Finding
    from blobstore.container.reader import BlobReader
    from blobstore.errors import Fault
    from blobstore.gemma.config import ModelConfig
    from blobstore.gemma.families.specs import TensorSpec
    from blobstore.gemma.toc import TocEntry
    from blobstore.store.blobs import UnpackedBlobs

_MAX_READ_NBYTES = 0x7FFFF000  # the most it reads at once; an f32 tensor is read at once
_SHOWN = 4
# Tensors that it computes with in pairs, in the type of the first.
_PAIRS = (
    ("gating1_w", "gating2_w"),
    ("ln_0_scale", "ln_0_bias"),
    ("ln_1_scale", "ln_1_bias"),
    ("enc_norm_scale", "enc_norm_bias"),
)
# The stock forms, which it splits when it loads them: with i8 that never ends.
_STOCK = ("att_ein_", "qkv_ein_", "gating_ein_")
_T5GEMMA_STOCK = ("e_att_", "e_qkv_", "e_gate_", "d_att_", "d_qkv_", "d_gate_", "dc_att_")
_ATTENTION = {"": "att_ein", "encoder_": "e_att", "decoder_": "d_att"}  # of `stacks_of`
_HEADS = ("c_embedding", "dec_embedding")  # which are multiplied too
# Reason of `check_tensors` → code of the finding.
_TENSOR_CODES = {
    "missing": "missing-tensor",
    "both-forms": "both-forms",
    "unexpected": "unexpected-tensor",
    "shape": "tensor-shape",
    "type": "tensor-type",
    "weight": "weight-type",
}
# Models with the tensors of spec/gemma.md; those of later runtimes have others.
KNOWN_MODELS = frozenset(Model) - {Model.UNKNOWN, Model.DEEPSEEK4_FLASH} - WITH_VISION


def check_toc(
    reader: BlobReader, toc: Mapping[str, TocEntry], known: set[str], unpacked: UnpackedBlobs
) -> Iterator[Finding]:
    """Yield where the toc and the blobs disagree.

    Args:
        reader: The file's blobs.
        toc: By name.
        known: Keys of the tensors that the model has.
        unpacked: The packed blobs, unpacked.
    """
    for key, entry in toc.items():
        if len(key.encode()) > KEY_NBYTES:
            what = f"the toc has the name {key!r}: {len(key.encode())} bytes, but a key has at most 16"
            yield finding("key-too-long", key, what)
            continue
        if key in RESERVED_KEYS or key == INDEX_KEY:
            yield finding("reserved-key", key, f"the toc says that {key!r} is a tensor")
        if key not in reader:
            yield finding("toc-missing-blob", key, "the toc lists it, but the file has no such blob")
            continue
        offset, nbytes = reader.range(key)[0], unpacked.nbytes(key)
        if not entry.fits(nbytes):
            expected = f"{entry.type}, {entry.rows} × {entry.cols}, which takes {entry.nbytes} bytes"
            what = f"the toc says that it is {expected}; the blob has {nbytes}"
            if key in known:
                yield finding("toc-size", key, what, offset=offset, nbytes=nbytes)
            else:
                effect = "gemma.cpp ignores the tensor"
                yield finding("toc-size", key, what, severity="warning", effect=effect, offset=offset, nbytes=nbytes)
        if odd_strides([entry]):
            yield finding("toc-stride", key, stride_fault(entry), offset=offset, nbytes=nbytes)
        if entry.type.bits and _odd_numbers(entry):
            what = "element_bytes or num_elements in the toc don't follow from type and shape"
            yield finding("toc-numbers", key, what)


def check_types(toc: Collection[TocEntry]) -> Iterator[Finding]:
    """Yield what some runtime can't read in a toc because of a tensor's type or name."""
    yield from from_newer(newer_toc(toc))
    for entry in toc:
        if entry.type == BY_NAME["f32"] and entry.nbytes > _MAX_READ_NBYTES:
            yield finding("f32-large", entry.name, f"{entry.nbytes} bytes of f32 in one tensor")


def _odd_numbers(entry: TocEntry) -> bool:
    """Whether an entry's derived numbers don't follow from its type and shape."""
    derived = toc_entry(entry.name, entry.type, entry.rows, entry.cols)
    return (entry.element_bytes, entry.num_elements) != (derived.element_bytes, derived.num_elements)


def check_model(config: ModelConfig, toc: Mapping[str, TocEntry]) -> Iterator[Finding]:
    """Yield what gemma.cpp can't load of the tensors that a toc lists, for a model of this config."""
    if config.model not in KNOWN_MODELS and config.model != Model.UNKNOWN:
        yield finding("not-compared", "toc", f"the tensors of {config.model.name}")
        return
    specs = {spec.key: spec for spec in tensors_of(config)}
    slots = _keys_by_slot(specs.values())
    for fault in check_tensors(config, toc):
        code = _TENSOR_CODES[fault.reason]
        message = fault.message.removesuffix(": the runtime stops")
        if code == "weight-type" and config.weight == WeightType.F32:
            code = "mixed-f32"
        if code == "tensor-type":
            yield from _wrong_type(specs[fault.name], toc[fault.name], message)
        elif code == "both-forms":
            yield _both_forms(fault, [toc[key] for key in slots[specs[fault.name].slot] if key in toc])
        else:
            yield finding(code, fault.name, message)
    yield from _pairs(toc)
    for key, entry in toc.items():
        spec = specs.get(key)
        if spec and entry.rows == 1 and entry.scale != 1.0:
            yield finding("scale-ignored", key, f"it is a vector with the scale {entry.scale}")
        if spec and (spec.floor is None or key in _HEADS) and spec.rows % MATMUL_ROWS:
            # The embedding's rows can be padded; 'vocabulary' says which machines need it.
            fix = "pad the embedding, see 'vocabulary'" if key in _HEADS else None
            yield finding("rows", key, f"{spec.rows} rows are not a multiple of {MATMUL_ROWS}", fix=fix)
    yield from _stock(config, toc)


def _keys_by_slot(specs: Iterable[TensorSpec]) -> dict[str, list[str]]:
    slots: dict[str, list[str]] = {}
    for spec in specs:
        slots.setdefault(spec.slot, []).append(spec.key)
    return slots


def _wrong_type(spec: TensorSpec, entry: TocEntry, message: str) -> Iterator[Finding]:
    if entry.type_number > APRIL.last_type:
        # Runtimes that don't know the type stop before, as newer-type says.
        if entry.type.name not in WEIGHT_TYPES:
            return
        runtimes = (LATEST.name,)
        if spec.floor is None and not spec.types:
            effect = "rows begin inside blocks: whether gemma.cpp computes with them is not established"
            yield finding("tensor-type", spec.key, message, severity="warning", effect=effect, runtimes=runtimes)
        else:
            yield finding("tensor-type", spec.key, message, runtimes=runtimes)
    elif _runs_anyway(spec, entry):
        effect = "gemma.cpp runs it; its own exporter would not write it"
        yield finding("tensor-type", spec.key, message, severity="warning", effect=effect)
    else:
        yield finding("tensor-type", spec.key, message)


def _runs_anyway(spec: TensorSpec, entry: TocEntry) -> bool:
    """Whether gemma.cpp was observed to compute with a type narrower than its own exporter writes."""
    return not spec.types and (spec.floor == "bf16" or (spec.key == "img_pos_emb" and entry.type.bits > 8))


def _both_forms(fault: Fault, entries: Sequence[TocEntry]) -> Finding:
    """Name the form to drop: the one whose rows contain padding, if there is one."""
    padded = [entry.name for entry in odd_strides(entries)]
    if not padded:
        return finding("both-forms", fault.name, fault.message.removesuffix(": the runtime stops"))
    drops = " ".join(f"--drop {name}" for name in padded)
    what = f"{fault.message.removesuffix(': the runtime stops')}; {', '.join(padded)} with padding between the values"
    return finding("both-forms", padded[0], what, fix=f"blobstore rewrite FILE -o OUT {drops}")


def _stock(config: ModelConfig, toc: Mapping[str, TocEntry]) -> Iterator[Finding]:
    """Yield what goes wrong when stock forms are split."""
    in_i8 = [key for key, entry in toc.items() if entry.type == BY_NAME["i8"]]
    stuck = [key for key in in_i8 if key.startswith(_STOCK)]
    if stuck:
        yield finding("i8-stock", stuck[0], _in_stock_form(stuck))
    unknown = [key for key in in_i8 if config.is_encoder_decoder and key.startswith(_T5GEMMA_STOCK)]
    if unknown:
        effect, fix = "whether gemma.cpp can split them is not established", "blobstore convert --weights sfp"
        what, latest = _in_stock_form(unknown), (LATEST.name,)
        yield finding("i8-stock", unknown[0], what, severity="warning", effect=effect, fix=fix, runtimes=latest)
    layers = [(stack.name, i, layer) for stack in stacks_of(config) for i, layer in enumerate(stack.layers)]
    for stack, i, layer in layers:
        if layer.model_dim != config.model_dim:
            subject = f"config.{stack}layer_configs[{i}]"
            what = f"its model_dim is {layer.model_dim}, the model's {config.model_dim}"
            if f"{_ATTENTION[stack]}_{i}" in toc:
                yield finding("config-sizes", subject, what)
            else:
                effect = "none: gemma.cpp uses it in the stock form only"
                yield finding("config-sizes", subject, what, severity="note", effect=effect)


def _in_stock_form(keys: Sequence[str]) -> str:
    more = ", …" if len(keys) > _SHOWN else ""
    return f"{len(keys)} tensors are i8 in the stock form: {', '.join(keys[:_SHOWN])}{more}"


def _pairs(toc: Mapping[str, TocEntry]) -> Iterator[Finding]:
    for prefix_a, prefix_b in _PAIRS:
        for key, entry in toc.items():
            mate = toc.get(prefix_b + key.removeprefix(prefix_a)) if key.startswith(prefix_a) else None
            if mate and mate.type != entry.type:
                yield finding("pair-types", mate.name, f"it is {mate.type}, but {key!r} is {entry.type}")
