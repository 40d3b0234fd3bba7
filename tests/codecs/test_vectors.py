"""The package against the codecs, gemma.cpp's records and the files with a toc of spec/vectors."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import blobstore
from blobstore import codecs
from blobstore.codecs import element_types, sfp
from blobstore.errors import BlobStoreError, CodecError, FormatError
from blobstore.gemma import ModelConfig, build_toc, parse_toc
from blobstore.gemma.bpe import BpeTokenizer
from blobstore.gemma.models import config_of, specifier_of
from blobstore.gemma.records import Record
from blobstore.gemma.toc import toc_entry
from tests.conftest import VECTORS, load_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.fileio.types import Access

    Floats = npt.NDArray[np.floating[Any]]

Fact = dict[str, Any]

CODECS: dict[str, list[Fact]] = json.loads((VECTORS / "codecs.json").read_bytes())
GEMMA: dict[str, list[Fact]] = json.loads((VECTORS / "gemma.json").read_bytes())
CATALOG = {kind: load_manifest()[f"catalog_{kind}"] for kind in ("valid", "invalid")}
REASONS = {"not-finite", "i8-range", "sfp-reserved-code", "mxfp4-reserved-scale", "wrong-size"}
KINDS = ("f32", "bf16", "sfp", "i8", "nuq")  # of which there are gemma.cpp's own results

both_ways = pytest.mark.parametrize("access", ["mmap", "read"])


def params(facts: list[Fact], field: str = "name") -> list[Any]:
    return [pytest.param(fact, id=fact[field]) for fact in facts]


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def f32(bits: str) -> float:
    return float(struct.unpack(">f", bytes.fromhex(bits))[0])


def bits_of(value: float) -> str:
    return struct.pack(">f", value).hex()


def raw(fact: Fact) -> bytes:
    if "bytes" in fact:
        return bytes.fromhex(fact["bytes"])
    words = [int(word, 16) for word in fact["words"].split()]
    return struct.pack(f"<{len(words)}I", *words)


def input_of(fact: Fact) -> Floats:
    if "input_f64" in fact:
        return np.frombuffer(bytes.fromhex(fact["input_f64"]), dtype="<f8")
    return np.frombuffer(bytes.fromhex(fact["input"]), dtype="<f4")


def test_no_list_is_empty() -> None:
    assert {name: bool(facts) for name, facts in (CODECS | GEMMA).items()} == dict.fromkeys(CODECS | GEMMA, True)
    assert {fact["type"] for fact in CODECS["gemma_cpp"]} == set(KINDS)
    assert {fact["type"] for fact in CODECS["cases"]} == {*KINDS, "q4_0", "mxfp4"}
    assert {fact["reason"] for fact in CODECS["errors"]} == REASONS
    assert (len(CODECS["gemma_cpp"]), len(GEMMA["gemma_cpp"])) == (19, 32 + 80)
    assert (len(GEMMA["written"]), len(GEMMA["transcribed"])) == (32, 84)
    assert all(CATALOG.values())


# ------------------------------------------------------------------------------------------------------------- codecs

ENCODED = [fact for fact in CODECS["cases"] if "input" in fact]
REFUSED_VALUES = [fact for fact in CODECS["errors"] if "stored" not in fact]
REFUSED_BYTES = [fact for fact in CODECS["errors"] if "stored" in fact]
# numpy warns when ml_dtypes rounds a NaN whose quiet bit is not set.
WARNS = {"bf16-nan"}


@pytest.mark.parametrize("fact", params([fact for fact in ENCODED if fact["name"] not in WARNS]))
def test_values_are_encoded_to_the_bytes(fact: Fact) -> None:
    stored, scale = codecs.encode(fact["type"], input_of(fact))
    assert (stored.tobytes().hex(), bits_of(scale)) == (fact["stored"], fact["scale_bits"])


@pytest.mark.parametrize("fact", params([fact for fact in ENCODED if fact.get("any_nan")]))
def test_a_nan_is_encoded_to_some_nan(fact: Fact) -> None:
    stored, scale = codecs.encode(fact["type"], input_of(fact))
    assert scale == 1
    assert len(stored) == len(bytes.fromhex(fact["stored"]))
    assert np.isnan(stored.view(ml_dtypes.bfloat16)).all()


@pytest.mark.parametrize("fact", params(CODECS["cases"]))
def test_bytes_are_decoded_to_the_values(fact: Fact) -> None:
    values = codecs.decode(fact["type"], bytes.fromhex(fact["stored"]), fact["n"])
    assert values.dtype == np.float32
    assert values.tobytes().hex() == fact["decoded"]


@pytest.mark.parametrize("fact", params([fact for fact in ENCODED if "input_f64" in fact]))
def test_f64_is_what_its_f32_is(fact: Fact) -> None:
    values = np.frombuffer(bytes.fromhex(fact["input"]), dtype="<f4")
    assert codecs.encode(fact["type"], values)[0].tobytes().hex() == fact["stored"]


@pytest.mark.parametrize("fact", params(REFUSED_VALUES))
def test_values_that_a_type_cannot_hold_are_refused(fact: Fact) -> None:
    with pytest.raises(CodecError) as caught:
        codecs.encode(fact["type"], input_of(fact), name="layers.0.weight")
    assert caught.value.reason == fact["reason"]
    if "index" in fact:
        assert "layers.0.weight has " in str(caught.value)
        assert f"at index [{fact['index']}]" in str(caught.value)


def test_each_refusal_of_the_page_has_a_case() -> None:
    page = (VECTORS.parent / "codecs.md").read_text()
    assert {reason for reason in REASONS if f"(`{reason}`)" in page} == REASONS


@pytest.mark.parametrize("fact", params(REFUSED_BYTES))
def test_bytes_that_stand_for_nothing_are_refused(fact: Fact) -> None:
    with pytest.raises(CodecError) as caught:
        codecs.decode(fact["type"], bytes.fromhex(fact["stored"]), fact["n"])
    assert caught.value.reason == fact["reason"]


def test_each_sfp_code_stands_for_its_pattern() -> None:
    table = {int(fact["code"], 16): int(fact["bf16"], 16) for fact in CODECS["sfp_codes"]}
    assert sorted(table) == [code for code in range(256) if code != sfp.RESERVED]
    stored = bytes(table)
    assert codecs.decode("sfp", stored, 255, dtype=ml_dtypes.bfloat16).view(np.uint16).tolist() == list(table.values())
    wide = codecs.decode("sfp", stored, 255).view(np.uint32)
    assert wide.tolist() == [pattern << 16 for pattern in table.values()]


def test_sfp_codes_change_where_the_boundaries_say() -> None:
    starts = [(int(fact["from"], 16), int(fact["code"], 16)) for fact in CODECS["sfp_boundaries"]]
    assert [code for _, code in starts] == list(range(0x80))
    largest = 0x3FF0
    lengths = np.diff([start for start, _ in starts] + [largest + 1])
    expected = np.repeat([code for _, code in starts], lengths)
    patterns = np.arange(largest + 1, dtype=np.uint16)
    stored, scale = codecs.encode("sfp", patterns.view(ml_dtypes.bfloat16))
    assert scale == 1
    assert stored.tolist() == expected.tolist()
    negative, _ = codecs.encode("sfp", (patterns | 0x8000).view(ml_dtypes.bfloat16))
    assert negative.tolist() == np.where(expected, expected | 0x80, 0).tolist()


def test_all_patterns_of_gemma_cpps_table_give_its_hashes() -> None:
    (fact,) = (fact for fact in CODECS["gemma_cpp"] if fact["name"] == "sfp-every-bf16")
    patterns = np.arange(1 << 16, dtype=np.uint32)
    values = (patterns[(patterns & 0x7FFF) <= 0x3FF0] << 16).astype(np.uint32).view(np.float32)
    stored, scale = codecs.encode("sfp", values)
    decoded = codecs.decode("sfp", stored, values.size)
    assert (values.size, bits_of(scale)) == (fact["n"], fact["scale_bits"])
    hashes = [sha256(array.tobytes()) for array in (values, stored, decoded)]
    assert hashes == [fact["input_sha256"], fact["encoded_sha256"], fact["decoded_sha256"]]


# ----------------------------------------------------------------------------------------------- gemma.cpp's own bytes


def test_the_facts_about_codecs_are_those_that_were_recorded(shared_vectors: Path) -> None:
    recorded = json.loads((shared_vectors / "codecs" / "manifest.json").read_bytes())
    fields = ("name", "type", "n", "scale_bits", "input_sha256", "encoded_sha256", "decoded_sha256")
    assert recorded
    assert [{name: case[name] for name in fields} | {"toc": " ".join(case["toc_words"])} for case in recorded] == [
        {name: case[name] for name in (*fields, "toc")} for case in CODECS["gemma_cpp"]
    ]


@pytest.mark.parametrize("fact", params(CODECS["gemma_cpp"]))
def test_gemma_cpps_own_bytes_are_ours(shared_vectors: Path, fact: Fact) -> None:
    beginning = shared_vectors / "codecs" / fact["name"]
    given, stored, decoded = (beginning.with_name(beginning.name + "." + end).read_bytes() for end in endings(fact))
    hashes = [sha256(data) for data in (given, stored, decoded)]
    assert hashes == [fact["input_sha256"], fact["encoded_sha256"], fact["decoded_sha256"]]
    assert codecs.decode(fact["type"], stored, fact["n"]).tobytes() == decoded
    if fact["type"] != "nuq":
        made, scale = codecs.encode(fact["type"], np.frombuffer(given, dtype="<f4"))
        assert (made.tobytes() == stored, bits_of(scale)) == (True, fact["scale_bits"])


def endings(fact: Fact) -> tuple[str, str, str]:
    return "in.f32", fact["type"], "out.f32"


@pytest.mark.parametrize("fact", params(CODECS["gemma_cpp"]))
def test_gemma_cpps_toc_is_ours(fact: Fact) -> None:
    entry = toc_entry("x", element_types.BY_NAME[fact["type"]], 1, fact["n"], f32(fact["scale_bits"]))
    written = raw({"words": fact["toc"]})
    assert build_toc([entry]) == written
    assert parse_toc(written) == [entry]


@pytest.mark.parametrize("fact", params(GEMMA["written"], "specifier"))
def test_the_configs_of_a_writer_for_every_runtime_are_ours(fact: Fact) -> None:
    config = config_of(fact["specifier"])
    written = config.to_bytes()
    assert (len(written), sha256(written)) == (fact["size"], fact["sha256"])
    assert ModelConfig.from_bytes(written) == config
    assert specifier_of(config).startswith(fact["specifier"])


# ----------------------------------------------------------------------------------------------------- config and toc


def agrees(value: Any, fact: Any) -> bool:  # noqa: ANN401 (any field's)
    """Whether records have the given fields, compared in order, since unused fields have other names.

    Fields that were added later are given only where they aren't the default.
    """
    if isinstance(value, tuple | list):
        return len(value) == len(fact) and all(map(agrees, value, fact))
    if not isinstance(value, Record):
        return bool(value == fact)
    first, rest = value.fields()[: value.CORE], value.fields()[value.CORE :]
    given = list(fact.items())
    late = {field.name: getattr(value, field.name) for field in rest if getattr(value, field.name) != field.default}
    return (
        agrees([getattr(value, field.name) for field in first], [expected for _, expected in given[: len(first)]])
        and [*late] == [name for name, _ in given[len(first) :]]
        and all(agrees(late[name], expected) for name, expected in given[len(first) :])
    )


@pytest.mark.parametrize("fact", params(GEMMA["config_valid"]))
def test_a_config_has_the_fields_that_the_vectors_say(fact: Fact) -> None:
    config = ModelConfig.from_bytes(raw(fact))
    assert agrees(config, fact["fields"])
    assert config.to_bytes() == raw(fact)


@pytest.mark.parametrize("fact", params(GEMMA["toc_valid"]))
def test_a_toc_has_the_entries_that_the_vectors_say(fact: Fact) -> None:
    entries = parse_toc(raw(fact))
    assert agrees(entries, fact["entries"])
    assert build_toc(entries) == raw(fact)


@pytest.mark.parametrize("fact", params(GEMMA["bpe_valid"]))
def test_a_bpe_tokenizer_has_the_fields_that_the_vectors_say(fact: Fact) -> None:
    bpe = BpeTokenizer.from_bytes(raw(fact))
    fields = fact["fields"]
    assert bpe.tokens == tuple(map(bytes.fromhex, fields["tokens_hex"]))
    assert (bpe.flags, bpe.unk_id) == (fields["flags"], fields["unk_id"])
    assert (list(bpe.merges), list(bpe.added_ids)) == (fields["merges"], fields["added_ids"])
    assert bpe.to_bytes() == raw(fact)


PARSERS = (("config", ModelConfig.from_bytes), ("toc", parse_toc), ("bpe", BpeTokenizer.from_bytes))


@pytest.mark.parametrize(
    ("parse", "fact"),
    [
        pytest.param(parse, fact, id=f"{kind}-{fact['name']}")
        for kind, parse in PARSERS
        for fact in GEMMA[f"{kind}_invalid"]
    ],
)
def test_a_faulty_record_is_refused_with_its_reason(parse: Callable[[bytes], object], fact: Fact) -> None:
    with pytest.raises(FormatError) as caught:
        parse(raw(fact))
    assert caught.value.reason == fact["reason"]


def test_each_check_of_the_page_has_a_case_that_fails_it() -> None:
    page = (VECTORS.parent / "gemma.md").read_text()
    listed = [*GEMMA["config_invalid"], *GEMMA["toc_invalid"], *GEMMA["bpe_invalid"], *CATALOG["invalid"]]
    reasons = set(re.findall(r"`((?:fields|toc|bpe|scales|letters)-[a-z-]+)`", page))
    assert len(reasons) >= 14
    assert {fact["reason"] for fact in listed} == reasons


# ------------------------------------------------------------------------------------------------- files without index


@both_ways
@pytest.mark.parametrize("fact", params(CATALOG["valid"], "file"))
def test_a_files_tensors_are_what_the_manifest_says(vectors: Path, fact: Fact, access: Access) -> None:
    path = vectors / "catalog_valid" / fact["file"]
    start = {bytes.fromhex(blob["key_hex"]).decode(): blob["offset"] for blob in fact["blobs"]}
    with blobstore.open(path, access=access) as store:
        assert (store.index is None) == (fact["catalog"] != "index")
        tensors = {
            info.name: (info.key, info.offset, info.nbytes, info.type.number, info.shape, info.scale, info.codec)
            for info in store.infos()
        }
        assert tensors == {
            entry["name"]: (
                entry["key"],
                start[entry["key"]] + entry["offset"],
                entry["nbytes"],
                entry["type"],
                tuple(entry["shape"]),
                f32(entry["scale_bits"]),
                entry["codec"],
            )
            for entry in fact["entries"]
        }
        assert sorted(store) == sorted(tensors)
        hashes = {bytes.fromhex(blob["key_hex"]).decode(): blob["sha256"] for blob in fact["blobs"]}
        assert {entry["key"]: sha256(store.raw(entry["name"])) for entry in fact["entries"]} == {
            entry["key"]: hashes[entry["key"]] for entry in fact["entries"]
        }


@both_ways
@pytest.mark.parametrize("fact", params(CATALOG["invalid"], "file"))
def test_a_file_whose_tensors_are_wrong_is_refused(vectors: Path, fact: Fact, access: Access) -> None:
    path = vectors / "catalog_invalid" / fact["file"]
    with pytest.raises(BlobStoreError) as caught:
        blobstore.open(path, access=access)
    assert caught.value.reason == fact["reason"]
    assert caught.value.path == str(path)


@pytest.mark.parametrize("fact", params(CATALOG["invalid"], "file"))
def test_its_blobs_can_still_be_read(vectors: Path, fact: Fact) -> None:
    with blobstore.open(vectors / "catalog_invalid" / fact["file"], use_index=False) as store:
        assert {info.type for info in store.infos()} == {element_types.UNKNOWN}


def test_each_file_of_the_catalog_is_in_the_manifest() -> None:
    for kind, facts in CATALOG.items():
        assert {path.name for path in (VECTORS / f"catalog_{kind}").iterdir()} == {fact["file"] for fact in facts}
        for fact in facts:
            assert sha256((VECTORS / f"catalog_{kind}" / fact["file"]).read_bytes()) == fact["sha256"]
