from __future__ import annotations

import enum
import math
import struct
import tracemalloc
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import FormatError, UsageError
from blobstore.gemma import TocEntry, build_toc, parse_toc
from blobstore.gemma.config import LayerConfig, ModelConfig
from blobstore.gemma.fields import (
    BOOL,
    F32,
    I32,
    MAX_STRING_WORDS,
    MAX_VECTOR,
    STRING,
    U32,
    Cursor,
    Kind,
    Record,
    bytes_of,
    choice,
    many,
    of,
    record,
    records,
    words_of,
)
from tests import models
from tests.models import configs, emitted, f32s, field_hints, flat, i32s, packed, small, texts, tree, u32s, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.models import Node

Value = TypeVar("Value")

families = pytest.mark.parametrize("family", models.FAMILIES)


class Fruit(enum.IntEnum):
    APPLE = 0
    PEAR = 7


@dataclass(frozen=True, kw_only=True)
class Inner(Record):
    number: int = of(U32, 5)
    text: str = of(STRING, "five")


@dataclass(frozen=True, kw_only=True)
class Outer(Record):
    number: int = of(U32)
    signed: int = of(I32, -1)
    real: float = of(F32, 0.5)
    flag: bool = of(BOOL, default=True)
    fruit: Fruit = choice(Fruit.PEAR)
    text: str = of(STRING, "")
    numbers: tuple[int, ...] = many(U32)
    names: tuple[str, ...] = many(STRING)
    inner: Inner = record(Inner(number=6))
    inners: tuple[Inner, ...] = records(Inner)


outers = models.records(Outer)
outers_with_newer = models.records(Outer, newer=models.newer_words)
# A config has all kinds of fields, two levels of records, and vectors of them.
any_configs = configs() | st.sampled_from([small(family) for family in models.FAMILIES])


def read(cls: type[Record], words: list[int]) -> Record:
    cursor = Cursor(words, 0, len(words))
    value = cls.read(cursor)
    assert cursor.position == 1 + words[0]
    return value


def written(value: Record) -> list[int]:
    words: list[int] = []
    value.write(words)
    return words


def faulty(raw: bytes, reason: str) -> FormatError:
    with pytest.raises(FormatError) as caught:
        ModelConfig.from_bytes(raw)
    assert caught.value.reason == reason
    assert caught.value.offset is not None
    assert 0 <= caught.value.offset <= len(raw)
    return caught.value


# Values there and back.


@pytest.mark.parametrize(
    ("kind", "values"),
    [(U32, u32s), (I32, i32s), (F32, f32s), (BOOL, st.booleans()), (STRING, texts)],
    ids=["u32", "i32", "f32", "bool", "text"],
)
@given(data=st.data())
def test_every_kind_of_value_reads_as_it_was_written(kind: Kind, values: st.SearchStrategy[Any], data: Any) -> None:  # noqa: ANN401
    value, before, behind = data.draw(values), data.draw(models.newer_words), data.draw(models.newer_words)
    words = list(before)
    kind.write(value, words)
    cursor = Cursor([*words, *behind], len(before), len(words))
    found = kind.read(cursor)
    assert (found, type(found)) == (value, type(value))
    assert math.copysign(1, found if kind is F32 else 0) == math.copysign(1, value if kind is F32 else 0)
    assert (cursor.position, tuple(words[: len(before)])) == (len(words), before)


@given(value=outers_with_newer, behind=models.newer_words)
def test_records_of_all_kinds_read_as_they_were_written(value: Outer, behind: tuple[int, ...]) -> None:
    words = written(value)
    assert words == emitted(tree(value))
    assert read(Outer, [*words, *behind]) == value


@given(value=configs(newer=True))
def test_any_config_reads_as_it_was_written(value: ModelConfig) -> None:
    raw = value.to_bytes()
    assert unpacked(raw) == emitted(tree(value))
    assert ModelConfig.from_bytes(raw) == value
    assert ModelConfig.from_bytes(memoryview(raw)) == value


@given(value=configs())
def test_types_of_what_is_read_are_those_declared(value: ModelConfig) -> None:
    found = ModelConfig.from_bytes(value.to_bytes())
    for name in field_hints(ModelConfig):
        assert type(getattr(found, name)) is type(getattr(value, name)), name


@given(words=st.lists(u32s, min_size=1))
def test_words_are_little_endian(words: list[int]) -> None:
    raw = bytes_of(words)
    assert raw == b"".join(word.to_bytes(4, "little") for word in words)
    assert list(words_of(raw)) == list(words_of(memoryview(raw))) == words


def test_what_is_read_can_not_be_changed() -> None:
    config = small("gemma3vlm")
    for one, name in ((config, "vocab_size"), (config.layer_configs[0], "heads"), (config.vit_config, "newer")):
        with pytest.raises(FrozenInstanceError):
            setattr(one, name, 1)


# Fields are only ever appended. A newer writer's files:


@given(value=any_configs, words=st.lists(u32s, min_size=1, max_size=5), data=st.data())
def test_words_behind_the_last_field_of_any_record_are_skipped_and_kept(
    value: ModelConfig,
    words: list[int],
    data: Any,  # noqa: ANN401
) -> None:
    root = tree(value)
    for node in data.draw(st.lists(st.sampled_from(list(root.nodes())), min_size=1, max_size=3)):
        node.extra = words
    raw = packed(emitted(root))
    found = ModelConfig.from_bytes(raw)
    assert models.without_newer(found) == value
    assert found.to_bytes() == raw


@given(value=outers, words=st.lists(u32s, min_size=1, max_size=5), data=st.data())
def test_kept_words_are_found_in_the_record_that_had_them(value: Outer, words: list[int], data: Any) -> None:  # noqa: ANN401
    root = tree(value)
    node = data.draw(st.sampled_from(list(root.nodes())))
    node.extra = words
    expected = models.with_at(value, node.path, replace(node.record, newer=tuple(words)))
    assert read(Outer, emitted(root)) == expected != value


def test_the_words_that_are_kept_survive_a_change_of_other_fields() -> None:
    root = tree(small("gemma3vlm"))
    for node in root.nodes():
        node.extra = [7, 8]
    found = ModelConfig.from_bytes(packed(emitted(root)))
    for node in root.nodes():
        node.fields.update({"heads": [3]} if "heads" in node.fields else {})
    changed = replace(
        found,
        layer_configs=tuple(replace(one, heads=3) for one in found.layer_configs),
        vit_config=replace(
            found.vit_config, layer_configs=tuple(replace(one, heads=3) for one in found.vit_config.layer_configs)
        ),
    )
    assert changed.to_bytes() == packed(emitted(root))


# An older writer's files:


def cut_behind(node: Node, count: int) -> Record:
    """Leave a record's first fields; return what it then reads as."""
    names = list(node.fields)
    node.fields = {name: node.fields[name] for name in names[:count]}
    return type(node.record)(**{name: getattr(node.record, name) for name in names[:count]})


@given(value=any_configs, data=st.data())
def test_a_record_that_ends_behind_any_whole_field_has_defaults_for_the_others(value: ModelConfig, data: Any) -> None:  # noqa: ANN401
    root = tree(value)
    node = data.draw(st.sampled_from(list(root.nodes())))
    count = data.draw(st.integers(0, len(node.fields)))
    whole = count == len(node.fields)
    expected = models.with_at(value, node.path, cut_behind(node, count))
    raw = packed(emitted(root))
    found = ModelConfig.from_bytes(raw)
    assert found == expected
    # It is written whole.
    assert found.to_bytes() == packed(emitted(tree(expected)))
    assert (found.to_bytes() == raw) == whole


@given(value=outers, data=st.data())
def test_defaults_are_those_of_the_record_that_ends(value: Outer, data: Any) -> None:  # noqa: ANN401
    root = tree(value)
    node = data.draw(st.sampled_from(list(root.nodes())))
    expected = models.with_at(value, node.path, cut_behind(node, data.draw(st.integers(0, len(node.fields)))))
    assert read(Outer, emitted(root)) == expected


def test_an_empty_record_is_all_defaults() -> None:
    assert read(Outer, [0]) == Outer()
    assert read(Outer, [0]) == Outer(inner=Inner(number=6), fruit=Fruit.PEAR, flag=True, signed=-1, real=0.5)
    assert ModelConfig.from_bytes(packed([0])) == ModelConfig()


def test_defaults_are_those_of_gemma_cpp() -> None:
    layer, vision, config = LayerConfig(), ModelConfig().vit_config, ModelConfig()
    assert {name for name in field_hints(LayerConfig) if getattr(layer, name)} == {"optimized_gating"}
    assert layer.optimized_gating is True
    assert {name: getattr(vision, name) for name in field_hints(type(vision)) if getattr(vision, name)} == {
        "patch_width": 14,
        "image_size": 224,
        "pool_dim": 1,
    }
    assert {name: getattr(config, name) for name in field_hints(ModelConfig) if getattr(config, name)} == {
        "model_family_version": 1,
        "wrapping": 1,
        "norm_num_groups": 1,
        "vit_config": vision,
        "pool_dim": 1,
        "eos_id": 1,
        "secondary_eos_id": 1,
    }
    assert TocEntry().scale == 1.0


@given(value=any_configs, data=st.data())
def test_a_record_that_ends_inside_a_field_is_refused(value: ModelConfig, data: Any) -> None:  # noqa: ANN401
    root = tree(value)
    places = [(node, name) for node in root.nodes() for name, words in node.fields.items() if len(flat(words)) > 1]
    if not places:
        return
    node, name = data.draw(st.sampled_from(places))
    words = flat(node.fields[name])
    left = data.draw(st.integers(1, len(words) - 1))
    names = list(node.fields)
    node.fields = {one: node.fields[one] for one in names[: names.index(name)]} | {name: list(words[:left])}
    # Of a vector all elements are expected in its record: what says more than there are words is no older file.
    is_vector = isinstance(getattr(node.record, name), tuple)
    reason = "fields-vector" if is_vector and words[0] > left - 1 else "fields-truncated"
    raw = packed(emitted(root))
    error = faulty(raw, reason)
    # Nothing behind the record was looked at.
    end = 4 * (node.start + 1 + len(flat([node])) - 1)
    assert 4 * node.at[name] <= (error.offset or 0) <= end


# What is refused, and where it says so.

CONFIG = small("gemma3vlm")
NAN, INFINITY = 0x7FC00000, 0x7F800000
TEXT_OF_65 = [65, *[0x61616161] * 65]

# Reason, path of the record, its field, that field's words, and which of these words is at fault.
FAULTS: dict[str, tuple[str, models.Path, str, list[int], int]] = {
    "f32 NaN": ("fields-number", (), "att_cap", [NAN], 0),
    "f32 infinity": ("fields-number", (), "final_cap", [INFINITY], 0),
    "f32 minus infinity": ("fields-number", (), "final_cap", [INFINITY | 1 << 31], 0),
    "bool 2": ("fields-bool", (), "absolute_pe", [2], 0),
    "bool large": ("fields-bool", (("layer_configs", 1),), "use_qk_norm", [2**32 - 1], 0),
    "enum obsolete": ("fields-enum", (), "model", [5], 0),
    "enum next": ("fields-enum", (), "model", [19], 0),
    "enum weight": ("fields-enum", (), "weight", [9], 0),
    "enum wrapping": ("fields-enum", (), "wrapping", [4], 0),
    "enum layer": ("fields-enum", (("vit_config", None), ("layer_configs", 0)), "type", [2], 0),
    "enum activation": ("fields-enum", (("layer_configs", 0),), "activation", [1], 0),
    "enum post_qk": ("fields-enum", (("layer_configs", 0),), "post_qk", [2], 0),
    "enum post_norm": ("fields-enum", (("layer_configs", 0),), "post_norm", [2], 0),
    "enum query_scale": ("fields-enum", (), "query_scale", [2], 0),
    "text long": ("fields-string", (), "display_name", TEXT_OF_65, 0),
    "vector of u32": ("fields-vector", (), "attention_window_sizes", [10000, 1, 2], 0),
    "vector of texts": ("fields-vector", (), "scale_base_names", [3, 1, 0x61], 0),
    "vector of records": ("fields-vector", (("vit_config", None),), "layer_configs", [99], 0),
    "vector long": ("fields-vector", (), "attention_window_sizes", [MAX_VECTOR + 1, *[512] * (MAX_VECTOR + 1)], 0),
    "record long": ("fields-truncated", (), "vit_config", [10000], 0),
    "record in a vector long": ("fields-truncated", (("vit_config", None),), "layer_configs", [1, 500, 0], 1),
}
TEXTS_AT_FAULT = {
    "not ASCII": b"caf\xc3\xa9\0\0\0",
    "the highest bit": b"\x80abc",
    "NUL inside": b"a\0bc",
    "NUL in an earlier word": b"abc\0d\0\0\0",
    "only NUL": b"\0\0\0\0",
    "NUL first": b"\0abc",
    "a word of zeros at its end": b"abcd\0\0\0\0",
}


def with_fault(path: models.Path, name: str, words: list[int]) -> tuple[bytes, int]:
    """A config with other words for one field → its bytes, and where that field begins."""
    root = tree(CONFIG)
    node = next(one for one in root.nodes() if one.path == path)
    node.fields[name] = list(words)
    raw = packed(emitted(root))
    return raw, 4 * node.at[name]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_field_is_refused_with_its_reason(fault: str) -> None:
    reason, path, name, words, _ = FAULTS[fault]
    raw, _ = with_fault(path, name, words)
    error = faulty(raw, reason)
    assert str(error.offset) in error.message


@pytest.mark.parametrize("fault", FAULTS)
def test_the_offset_is_that_of_the_word_at_fault(fault: str) -> None:
    reason, path, name, words, place = FAULTS[fault]
    raw, at = with_fault(path, name, words)
    assert faulty(raw, reason).offset == at + 4 * place


@pytest.mark.parametrize("fault", TEXTS_AT_FAULT)
def test_a_text_that_is_no_ascii_or_not_padded_as_it_should_be_is_refused(fault: str) -> None:
    text = TEXTS_AT_FAULT[fault]
    raw, at = with_fault((), "display_name", [len(text) // 4, *unpacked(text)])
    offset = faulty(raw, "fields-string").offset
    assert offset in range(at, at + 4 + len(text))


@given(text=st.binary(max_size=12), zeros=st.integers(0, 9))
def test_exactly_padded_ascii_without_nul_is_a_text(text: bytes, zeros: int) -> None:
    raw = text + bytes(zeros)
    raw += bytes(-len(raw) % 4)
    words = [len(raw) // 4, *unpacked(raw)]
    bare = raw.rstrip(b"\0")
    if bare.isascii() and b"\0" not in bare and len(raw) - len(bare) < 4:
        assert STRING.read(Cursor(words, 0, len(words))) == bare.decode()
    else:
        with pytest.raises(FormatError, match="fields-string"):
            STRING.read(Cursor(words, 0, len(words)))


def test_the_longest_text_and_the_longest_vector_are_taken() -> None:
    config = replace(CONFIG, display_name="x" * 4 * MAX_STRING_WORDS, attention_window_sizes=(512,) * MAX_VECTOR)
    assert (MAX_STRING_WORDS, MAX_VECTOR) == (64, 65536)
    assert ModelConfig.from_bytes(config.to_bytes()) == config


@pytest.mark.parametrize("nbytes", [0, 1, 2, 3, 5, 4 * 129 + 2])
def test_bytes_that_are_no_words_are_refused(nbytes: int) -> None:
    raw = (2 * CONFIG.to_bytes())[:nbytes]
    assert len(raw) == nbytes
    assert faulty(raw, "fields-size").offset == 0
    with pytest.raises(FormatError, match=f"fields-size: {nbytes} bytes"):
        parse_toc(raw)


@given(words=st.lists(u32s, min_size=1, max_size=3))
def test_words_behind_the_config_are_refused(words: list[int]) -> None:
    raw = CONFIG.to_bytes()
    error = faulty(raw + packed(words), "config-trailing")
    assert (error.offset, error.message) == (
        len(raw),
        f"{4 * len(words)} bytes stand behind the config, at offset {len(raw)}",
    )


@families
def test_a_config_that_is_cut_short_is_refused_anywhere(family: str) -> None:
    raw = small(family).to_bytes()
    for end in range(4, len(raw), 4):
        assert faulty(raw[:end], "fields-truncated").offset in (0, 4)


# Whatever the words are.


def either_way(read_it: Callable[[bytes], Value], write_it: Callable[[Value], bytes], raw: bytes, kind: Any) -> None:  # noqa: ANN401
    """Refused, or read; then the same bytes are written, but for what an older writer left out."""
    try:
        value = read_it(raw)
    except FormatError as error:
        reason, offset = error.reason, error.offset
    else:
        check_written_back(value, read_it, write_it, raw, kind)
        return
    assert reason.startswith(("fields-", "config-", "toc-"))
    assert offset in range(len(raw) + 1)


def check_written_back(
    value: Value,
    read_it: Callable[[bytes], Value],
    write_it: Callable[[Value], bytes],
    raw: bytes,
    kind: Any,  # noqa: ANN401
) -> None:
    again = write_it(value)
    older = models.is_cut(kind, unpacked(raw))
    assert (again == raw) == (not older)
    if older:
        assert len(again) > len(raw)
        assert not models.is_cut(kind, unpacked(again))
        assert read_it(again) == value


def both_ways(words: list[int]) -> None:
    either_way(ModelConfig.from_bytes, ModelConfig.to_bytes, packed(words), ModelConfig)
    either_way(parse_toc, build_toc, packed(words), TocEntry)


@given(raw=st.binary(max_size=200))
def test_any_bytes_are_refused_or_written_back(raw: bytes) -> None:
    either_way(ModelConfig.from_bytes, ModelConfig.to_bytes, raw, ModelConfig)
    either_way(parse_toc, build_toc, raw, TocEntry)


@given(words=st.lists(u32s | st.integers(0, 4), min_size=1, max_size=60), honest=st.booleans())
def test_any_words_are_refused_or_written_back(words: list[int], honest: bool) -> None:
    both_ways([len(words), *words] if honest else words)


@given(value=any_configs, data=st.data())
def test_a_mutated_config_is_refused_or_written_back(value: ModelConfig, data: Any) -> None:  # noqa: ANN401
    words = data.draw(models.mutated_words(emitted(tree(value))))
    both_ways(words)
    if words:
        both_ways([len(words) - 1, *words[1:]])


@given(entries=st.lists(models.records(TocEntry, newer=models.newer_words), max_size=4), data=st.data())
def test_a_mutated_toc_is_refused_or_written_back(entries: list[TocEntry], data: Any) -> None:  # noqa: ANN401
    entries = [replace(one, type_number=1 + one.type_number % 8) for one in entries]
    both_ways(data.draw(models.mutated_words([word for one in entries for word in emitted(tree(one))])))


# Hostile counts cost nothing.


def peak_of(raw: bytes) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            ModelConfig.from_bytes(raw)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [5, 64, 65, 1000, MAX_VECTOR, MAX_VECTOR + 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ((), "display_name"),
        ((), "layer_configs"),
        ((), "attention_window_sizes"),
        ((), "scale_base_names"),
        ((), "vit_config"),
        ((("vit_config", None),), "layer_configs"),
    ],
)
def test_a_count_that_lies_allocates_nothing(path: models.Path, name: str, count: int) -> None:
    root = tree(CONFIG)
    node = next(one for one in root.nodes() if one.path == path)
    names = list(node.fields)
    node.fields = {one: node.fields[one] for one in names[: names.index(name)]} | {name: [count, 1, 2]}
    raw = packed(emitted(root))
    assert peak_of(raw) < 256 << 10


@pytest.mark.parametrize("words", [[2**32 - 1], [2**32 - 1, 0], [2, 0], [10**9, *[0] * 50]])
def test_a_record_that_lies_allocates_nothing(words: list[int]) -> None:
    assert peak_of(packed(words)) < 64 << 10
    assert faulty(packed(words), "fields-truncated")


def test_memory_is_in_proportion_to_what_is_read() -> None:
    # The worst there is: 4 bytes are an empty record. The last one is wrong, so that all others were made.
    root = tree(ModelConfig())
    root.fields = dict(list(root.fields.items())[: list(root.fields).index("layer_configs")])
    root.fields["layer_configs"] = [MAX_VECTOR, *[0] * (MAX_VECTOR - 1), 1]
    raw = packed(emitted(root))
    assert peak_of(raw) < 100 * len(raw)


# What can't be written.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_layers", -1),
        ("num_layers", 2**32),
        ("num_layers", None),
        ("num_layers", "1"),
        ("num_layers", math.nan),
        ("eos_id", 2**31),
        ("eos_id", -(2**31) - 1),
        ("att_cap", math.inf),
        ("att_cap", math.nan),
        ("att_cap", 1e39),
        ("att_cap", 3.4028236e38),
        ("att_cap", "1"),
        ("display_name", "café"),
        ("display_name", "a\0b"),
        ("display_name", "a\0"),
        ("display_name", "x" * 257),
        ("display_name", 7),
        ("model", 5),
        ("model", 19),
        ("wrapping", 4),
        ("attention_window_sizes", (1, -1)),
        ("attention_window_sizes", (1,) * (MAX_VECTOR + 1)),
        ("attention_window_sizes", 7),
        ("scale_base_names", ("a", "é")),
        ("layer_configs", (None,)),
        ("vit_config", None),
    ],
)
def test_a_value_that_has_no_words_is_refused_with_its_field(name: str, value: object) -> None:
    broken: Any = {name: value}
    with pytest.raises(UsageError, match=f"bad-field: ModelConfig.{name}: ") as caught:
        replace(CONFIG, **broken).to_bytes()
    assert caught.value.reason == "bad-field"


@pytest.mark.parametrize(
    ("name", "value"), [("num_layers", 1.5), ("absolute_pe", 2), ("scale_base_names", "ab"), ("newer", (2**32,))]
)
def test_a_value_that_would_read_as_another_is_refused(name: str, value: object) -> None:
    broken: Any = {name: value}
    with pytest.raises(UsageError, match="bad-field"):
        replace(CONFIG, **broken).to_bytes()


def test_a_fault_inside_a_record_names_that_record() -> None:
    layer = replace(CONFIG.layer_configs[0], heads=-1)
    with pytest.raises(UsageError, match=r"LayerConfig\.heads: -1 is no unsigned"):
        replace(CONFIG, layer_configs=(layer,)).to_bytes()
    with pytest.raises(UsageError, match=r"TocEntry\.rows: 4294967296 is no unsigned"):
        build_toc([TocEntry(name="a", type_number=1, rows=2**32)])


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_rounded_once_or_refused(value: float) -> None:
    try:
        expected = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        with pytest.raises(UsageError, match="bad-field"):
            replace(CONFIG, att_cap=value).to_bytes()
        return
    assert ModelConfig.from_bytes(replace(CONFIG, att_cap=value).to_bytes()).att_cap == expected
