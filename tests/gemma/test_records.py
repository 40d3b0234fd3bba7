from __future__ import annotations

import math
import struct
import tracemalloc
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import FormatError, UsageError
from blobstore.gemma import TocEntry, build_toc, parse_toc
from blobstore.gemma.config import HC_EPS, LayerConfig, ModelConfig, VitConfig
from blobstore.gemma.enums import OpenEnum
from blobstore.gemma.field_types import (
    BOOL,
    F32,
    I32,
    MAX_STRING_WORDS,
    STRING,
    U32,
    Cursor,
    FieldType,
    bytes_of,
    words_of,
)
from blobstore.gemma.records import MAX_RECORDS, MAX_VECTOR, Record, choice, many, of, record, records
from tests import models
from tests.models import (
    configs,
    emitted,
    f32s,
    field_hints,
    flat,
    i32s,
    newer_words,
    packed,
    settled,
    small,
    stored_fields,
    texts,
    tree,
    u32s,
    unpacked,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")

families = pytest.mark.parametrize("family", models.FAMILIES)


class Fruit(OpenEnum):
    APPLE = 0
    PEAR = 7


FRUIT: FieldType = choice(Fruit.APPLE).metadata["type"]


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


@dataclass(frozen=True, kw_only=True)
class Grown(Record):
    """Fields that came later, among them some that depend on another, like ModelConfig's."""

    CORE: ClassVar[int] = 2

    first: int = of(U32, 1)
    second: int = of(U32, 2)
    third: int = of(U32, 3)
    is_encoder_decoder: bool = of(BOOL, default=False)
    encoder_text: str = of(STRING, "", when="is_encoder_decoder")
    decoder_numbers: tuple[int, ...] = many(U32, when="is_encoder_decoder")
    real: float = of(F32, 0.5)
    inner: Inner = record(Inner(number=7))


models.CORE["Grown"] = 2
outers = models.records(Outer)
outers_as_read = models.records(Outer, newer=newer_words, extents=True)
growns = models.records(Grown)
growns_as_read = models.records(Grown, newer=newer_words, extents=True)
any_records = outers_as_read | growns_as_read | growns
# A config has fields of all types, two levels of records, and vectors of them.
any_configs = configs() | st.sampled_from([small(family) for family in models.FAMILIES])
configs_as_read = configs(as_read=True)


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


# Values are written and read.


@pytest.mark.parametrize(
    ("field_type", "values"),
    [(U32, u32s), (I32, i32s), (F32, f32s), (BOOL, st.booleans()), (STRING, texts), (FRUIT, u32s.map(Fruit))],
    ids=["u32", "i32", "f32", "bool", "text", "enum"],
)
@given(data=st.data())
def test_every_type_of_value_reads_as_it_was_written(
    field_type: FieldType,
    values: st.SearchStrategy[Any],
    data: Any,  # noqa: ANN401
) -> None:
    value, before, behind = data.draw(values), data.draw(newer_words), data.draw(newer_words)
    words = list(before)
    field_type.write(value, words)
    cursor = Cursor([*words, *behind], len(before), len(words))
    found = field_type.read(cursor)
    assert (found, type(found)) == (value, type(value))
    assert math.copysign(1, found if field_type is F32 else 0) == math.copysign(1, value if field_type is F32 else 0)
    assert (cursor.position, tuple(words[: len(before)])) == (len(words), before)


@given(value=any_records, behind=newer_words)
def test_records_of_all_types_read_as_they_were_written(value: Record, behind: tuple[int, ...]) -> None:
    words = written(value)
    assert words == emitted(tree(value))
    assert read(type(value), [*words, *behind]) == value


@given(value=any_configs | configs_as_read)
def test_any_config_reads_as_it_was_written(value: ModelConfig) -> None:
    raw = value.to_bytes()
    assert unpacked(raw) == [*emitted(tree(value)), *value.trailing]
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
    layer = config.layer_configs[0]
    for value, name in ((config, "vocab_size"), (config, "trailing"), (layer, "extent"), (config.vit_config, "newer")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 1)


# Fields are only ever appended. Files of a newer writer:


def with_newer(value: Any, data: Any) -> Any:  # noqa: ANN401 (of the record's own type)
    """The same record with words behind the last field of one to three records in it, at any level."""
    words = data.draw(st.lists(u32s, min_size=1, max_size=5).map(tuple))
    for node in data.draw(st.lists(st.sampled_from(list(tree(value).nodes())), min_size=1, max_size=3)):
        inner = models.at_path(value, node.path)
        value = models.with_at(value, node.path, replace(inner, newer=words, extent=None))
    return value


@given(value=any_configs, data=st.data())
def test_words_behind_the_last_field_of_any_record_are_skipped_and_kept(value: ModelConfig, data: Any) -> None:  # noqa: ANN401
    expected = with_newer(value, data)
    raw = packed(emitted(tree(expected)))
    found = ModelConfig.from_bytes(raw)
    assert found == expected != value
    assert found.to_bytes() == raw


@given(value=outers | growns, data=st.data())
def test_kept_words_are_found_in_the_record_that_had_them(value: Record, data: Any) -> None:  # noqa: ANN401
    expected = with_newer(value, data)
    words = emitted(tree(expected))
    assert read(type(value), words) == expected != value
    assert written(expected) == words


@given(value=any_configs, words=st.lists(u32s, min_size=1, max_size=3).map(tuple))
def test_words_behind_the_config_are_kept(value: ModelConfig, words: tuple[int, ...]) -> None:
    raw = value.to_bytes() + packed(list(words))
    found = ModelConfig.from_bytes(raw)
    assert found == replace(value, trailing=words) != value
    assert found.to_bytes() == raw
    assert replace(found, num_layers=7).to_bytes() == replace(value, num_layers=7).to_bytes() + packed(list(words))


def enums_of(cls: type[Record]) -> dict[str, type[OpenEnum]]:
    """Return the fields that are members of an enumeration."""
    return {
        name: hint for name, hint in field_hints(cls).items() if isinstance(hint, type) and issubclass(hint, OpenEnum)
    }


@given(value=any_configs, number=st.sampled_from([33, 100, 4_000_000_000, 2**32 - 1]), data=st.data())
def test_a_number_that_a_newer_runtime_gave_a_meaning_is_kept(value: ModelConfig, number: int, data: Any) -> None:  # noqa: ANN401
    root = tree(value)
    classes: tuple[type[Record], ...] = (ModelConfig, LayerConfig, VitConfig)
    known = {cls: enums_of(cls) for cls in classes}
    places = [(node, name) for node in root.nodes() for name in node.fields if name in known[type(node.record)]]
    node, name = data.draw(st.sampled_from(places))
    node.fields[name] = [number]
    raw = packed(emitted(root))
    found = ModelConfig.from_bytes(raw)
    member = getattr(models.at_path(found, node.path), name)
    enumeration = known[type(node.record)][name]
    assert (member, type(member), member.name, member.is_newer) == (number, enumeration, f"NEWER_{number}", True)
    assert found.to_bytes() == raw


@pytest.mark.parametrize("name", [*enums_of(ModelConfig), *enums_of(LayerConfig)])
def test_every_number_of_every_enumeration_is_kept(name: str) -> None:
    cls = ModelConfig if name in field_hints(ModelConfig) else LayerConfig
    enumeration = enums_of(cls)[name]
    for number in range(40):
        values: Any = {name: enumeration(number)}
        layers = (LayerConfig(**values),) if cls is LayerConfig else ()
        value = replace(CONFIG, layer_configs=layers) if layers else replace(CONFIG, **values)
        found = ModelConfig.from_bytes(value.to_bytes())
        assert found == value
        member = getattr(found.layer_configs[0] if layers else found, name)
        assert member.is_newer == (number not in {int(known) for known in enumeration})
        assert member.name == (f"NEWER_{number}" if member.is_newer else enumeration(number).name)


def test_members_of_an_enumeration_are_values() -> None:
    assert Fruit(33) == Fruit(33) == 33
    assert Fruit(33) not in (Fruit(34), Fruit.PEAR)
    assert len({Fruit(33), Fruit(33), Fruit.APPLE, Fruit(0)}) == 2
    assert repr(Fruit(33)) == "<Fruit.NEWER_33: 33>"
    assert [member.is_newer for member in (Fruit.APPLE, Fruit.PEAR, Fruit(7), Fruit(6))] == [False, False, False, True]
    assert list(Fruit) == [Fruit.APPLE, Fruit.PEAR]  # a number that was read is not a known member
    not_numbers: list[Any] = [-1, 2**32, 1.5, "PEAR", None]
    for wrong in not_numbers:
        with pytest.raises(ValueError, match="is not a valid Fruit"):
            Fruit(wrong)


def test_what_is_kept_survives_a_change_of_other_fields() -> None:
    config = small("gemma3vlm")
    layers = replace(config.layer_configs[0], newer=(7, 8)), replace(config.layer_configs[1], extent=6)
    part = replace(config.vit_config.layer_configs[0], extent=16)
    vision = replace(config.vit_config, newer=(9,), layer_configs=(part,) * 2)
    config = replace(config, layer_configs=layers, vit_config=vision, newer=(0, 1, 2), trailing=(3,))
    found = ModelConfig.from_bytes(config.to_bytes())
    changed = replace(
        found,
        layer_configs=tuple(replace(layer, heads=3) for layer in found.layer_configs),
        vit_config=replace(found.vit_config, image_size=7),
    )
    root = tree(found)
    for node in root.nodes():
        node.fields.update({"heads": [3]} if len(node.path) == 1 and "heads" in node.fields else {})
        node.fields.update({"image_size": [7]} if "image_size" in node.fields else {})
    assert unpacked(changed.to_bytes()) == [*emitted(root), 3]
    assert [len(node.fields) for node in root.nodes()] == [39, 38, 15, 7, 16, 16]


# Files of an older writer, and of one that is newer than some runtimes:


def cut_behind(value: Record, count: int) -> Record:
    """Return what a record that ends after its first fields is read as."""
    cls, names = type(value), list(field_hints(type(value)))
    there = stored_fields(replace(value, extent=len(names)))
    left = {name: getattr(value, name) for name in there[:count]}
    end = names.index(there[count]) if count < len(there) else len(names)
    made: Record = settled(cls(**left, extent=end))
    return made


def cut_anywhere(value: Record, data: Any) -> tuple[Record, list[int]]:  # noqa: ANN401
    """Let one of the records in it end after any of its fields; return what that is read as, and its words."""
    node = data.draw(st.sampled_from(list(tree(value).nodes())))
    whole = replace(node.record, extent=len(field_hints(type(node.record))))
    root = tree(models.with_at(value, node.path, whole))
    node = next(inner for inner in root.nodes() if inner.path == node.path)
    count = data.draw(st.integers(0, len(node.fields)))
    node.fields = {name: node.fields[name] for name in list(node.fields)[:count]}
    return models.with_at(value, node.path, cut_behind(whole, count)), emitted(root)


@given(value=any_configs, data=st.data())
def test_a_record_that_ends_behind_any_whole_field_has_defaults_for_the_others(value: ModelConfig, data: Any) -> None:  # noqa: ANN401
    expected, words = cut_anywhere(value, data)
    found = ModelConfig.from_bytes(packed(words))
    assert found == expected
    assert found.to_bytes() == packed(words)


@given(value=outers | growns, data=st.data())
def test_defaults_are_those_of_the_record_that_ends(value: Record, data: Any) -> None:  # noqa: ANN401
    expected, words = cut_anywhere(value, data)
    assert read(type(value), words) == expected
    assert written(expected) == words


def test_an_empty_record_is_all_defaults() -> None:
    empty = read(Outer, [0])
    assert replace(empty, extent=None) == Outer() != empty
    assert (empty.extent, written(empty)) == (0, [0])
    assert Outer() == Outer(inner=Inner(number=6), fruit=Fruit.PEAR, flag=True, signed=-1, real=0.5)
    assert ModelConfig.from_bytes(packed([0])) == ModelConfig(extent=0)
    assert ModelConfig(extent=0).to_bytes() == packed([0])
    assert ModelConfig.from_bytes(packed([0, 0])) == ModelConfig(extent=0, trailing=(0,))


# A record that is made has the fields that every runtime reads, and more where they are not the defaults.

CORE_WORDS, FIVE = [1, 2], [1, 0x65766966]
GROWN: dict[str, tuple[Grown, list[int], Grown | None]] = {
    "only defaults": (Grown(), CORE_WORDS, None),
    "of those that all have": (Grown(second=3), [1, 3], None),
    "one more": (Grown(third=9), [*CORE_WORDS, 9], None),
    "one more, its default": (Grown(third=3), CORE_WORDS, Grown()),
    "one more, its default, as it was read": (Grown(extent=3), [*CORE_WORDS, 3], None),
    "fewer, as it was read": (Grown(extent=1), [1], None),
    "fewer, but one was changed": (Grown(extent=1, second=3), [1, 3], Grown(second=3)),
    "none, but one was changed": (Grown(extent=0, first=2), [2], Grown(first=2, extent=1)),
    "more than it has": (Grown(extent=99), [*CORE_WORDS, 3, 0, 0x3F000000, 3, 7, *FIVE], Grown(extent=8)),
    "words of newer fields": (Grown(newer=(8,)), [*CORE_WORDS, 3, 0, 0x3F000000, 3, 7, *FIVE, 8], None),
    "the condition": (Grown(is_encoder_decoder=True), [*CORE_WORDS, 3, 1], None),
    "what depends on it": (Grown(is_encoder_decoder=True, encoder_text="a"), [*CORE_WORDS, 3, 1, 1, 0x61], None),
    "the last of it": (Grown(is_encoder_decoder=True, decoder_numbers=(5,)), [*CORE_WORDS, 3, 1, 0, 1, 5], None),
    "behind it": (Grown(is_encoder_decoder=True, real=2.0), [*CORE_WORDS, 3, 1, 0, 0, 0x40000000], None),
    "behind it, without it": (Grown(real=2.0), [*CORE_WORDS, 3, 0, 0x40000000], None),
    "it ends inside what isn't there": (Grown(extent=5), [*CORE_WORDS, 3, 0], Grown(extent=6)),
    "it ends inside what is there": (
        Grown(extent=5, is_encoder_decoder=True),
        [*CORE_WORDS, 3, 1, 0],
        None,
    ),
}


@pytest.mark.parametrize("case", GROWN)
def test_a_record_is_written_as_far_as_it_says_something_or_was_read(case: str) -> None:
    value, words, expected = GROWN[case]
    assert written(value) == [len(words), *words]
    assert read(Grown, [len(words), *words]) == (expected or value)


@pytest.mark.parametrize("name", ["encoder_text", "decoder_numbers"])
def test_what_depends_on_a_field_can_not_be_written_without_it(name: str) -> None:
    value: Any = {"encoder_text": "a", "decoder_numbers": (0,)}[name]
    broken: Any = {name: value}
    with pytest.raises(UsageError, match=rf"bad-field: Grown\.{name}: it exists only when is_encoder_decoder is true"):
        written(Grown(**broken))
    assert read(Grown, written(Grown(**broken, is_encoder_decoder=True))) == Grown(**broken, is_encoder_decoder=True)


CONDITIONAL: dict[str, Any] = {
    "encoder_num_layers": 2,
    "encoder_layer_configs": (LayerConfig(),),
    "encoder_attention_window_sizes": (7,),
    "decoder_num_layers": 1,
    "decoder_layer_configs": (LayerConfig(extent=0),),
    "decoder_attention_window_sizes": (0,),
}


@pytest.mark.parametrize("name", CONDITIONAL)
def test_only_a_model_with_encoder_and_decoder_has_their_fields(name: str) -> None:
    names = list(field_hints(ModelConfig))
    assert [field for field in names if models.is_conditional(field)] == list(CONDITIONAL)
    values: Any = {name: CONDITIONAL[name]}
    with pytest.raises(UsageError, match=rf"bad-field: ModelConfig\.{name}: it exists only when"):
        ModelConfig(**values).to_bytes()
    both = ModelConfig(**values, is_encoder_decoder=True)
    assert ModelConfig.from_bytes(both.to_bytes()) == both
    left = names.index(name) + 1
    assert both.field_count == left
    # Without them global_rope_theta follows is_encoder_decoder.
    without = ModelConfig(global_rope_theta=7.0)
    assert len(without.to_bytes()) == len(ModelConfig().to_bytes()) + 4 * (len(names) - 23 - len(CONDITIONAL))
    assert ModelConfig.from_bytes(without.to_bytes()) == without


def not_zero(value: Record) -> dict[str, object]:
    """Return the fields that are neither 0, false nor empty."""
    return {name: getattr(value, name) for name in field_hints(type(value)) if getattr(value, name)}


def test_defaults_are_those_of_gemma_cpp() -> None:
    vision = {"patch_width": 14, "image_size": 224, "pool_dim": 1}
    assert not_zero(VitConfig()) == vision
    late_layer = {"kv_share_layer_idx": -1, "kv_compression_rate": 1, "o_groups": 1, "route_scale": 1.0}
    assert not_zero(LayerConfig()) == {"optimized_gating": True} | late_layer
    late = {
        "partial_rotary_factor": 1.0,
        "rope_theta": 10_000.0,
        "yarn_factor": 1.0,
        "yarn_beta_fast": 32.0,
        "yarn_beta_slow": 1.0,
        "hc_sinkhorn_iters": 20,
        "hc_eps": HC_EPS,
        "global_rope_theta": 1_000_000.0,
    }
    assert not_zero(ModelConfig()) == late | {
        "model_family_version": 1,
        "wrapping": 1,
        "norm_num_groups": 1,
        "vit_config": VitConfig(),
        "pool_dim": 1,
        "eos_id": 1,
        "secondary_eos_id": 1,
    }
    assert np.float32(1e-6) == HC_EPS
    assert TocEntry().scale == 1.0


def test_nothing_but_what_every_runtime_reads_is_written_unless_it_says_something() -> None:
    names, layer_names = list(field_hints(ModelConfig)), list(field_hints(LayerConfig))
    assert (len(names), len(layer_names)) == (45, 38)
    assert (names[22:24], layer_names[14:16]) == (
        ["scale_base_names", "use_global_timescale"],
        ["use_qk_norm", "norm_v"],
    )
    assert (ModelConfig().field_count, LayerConfig().field_count, VitConfig().field_count) == (23, 15, 7)
    for i, name in enumerate(layer_names[15:], 16):
        value: Any = {name: 0.25 if field_hints(LayerConfig)[name] is float else 1 - bool(getattr(LayerConfig(), name))}
        assert LayerConfig(**value).field_count == i
    for i, name in enumerate(names[23:], 24):
        hint = field_hints(ModelConfig)[name]
        value = {name: 7.0 if hint is float else 1}
        if not models.is_conditional(name):
            assert ModelConfig(**value).field_count == i


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
    node.fields = {field: node.fields[field] for field in names[: names.index(name)]} | {name: list(words[:left])}
    # All elements of a vector must be in its record: a larger count doesn't mean an older file.
    is_vector = isinstance(getattr(node.record, name), tuple)
    reason = "fields-vector" if is_vector and words[0] > left - 1 else "fields-truncated"
    raw = packed(emitted(root))
    error = faulty(raw, reason)
    # Nothing behind the record was read.
    end = 4 * (node.start + 1 + len(flat([node])) - 1)
    assert 4 * node.at[name] <= (error.offset or 0) <= end


# What is refused, and the offset that the error names.

CONFIG = small("gemma3vlm")
NAN, INFINITY = 0x7FC00000, 0x7F800000
TEXT_OF_65 = [65, *[0x61616161] * 65]
LATE = 45 - 23 - 6  # words behind scale_base_names, without those of encoders and decoders

# Reason, path of the record, its field, that field's words, and which of these words is at fault.
FAULTS: dict[str, tuple[str, models.Path, str, list[int], int]] = {
    "f32 NaN": ("fields-number", (), "att_cap", [NAN], 0),
    "f32 infinity": ("fields-number", (), "final_cap", [INFINITY], 0),
    "f32 minus infinity": ("fields-number", (), "final_cap", [INFINITY | 1 << 31], 0),
    "bool 2": ("fields-bool", (), "absolute_pe", [2], 0),
    "bool large": ("fields-bool", (("layer_configs", 1),), "use_qk_norm", [2**32 - 1], 0),
    "text long": ("fields-string", (), "display_name", TEXT_OF_65, 0),
    "late f32 NaN": ("fields-number", (), "rope_theta", [NAN], 0),
    "late f32 of a layer": ("fields-number", (("layer_configs", 1),), "route_scale", [INFINITY], 0),
    "late bool": ("fields-bool", (), "use_global_timescale", [2], 0),
    "late bool of a layer": ("fields-bool", (("layer_configs", 0),), "norm_v", [256], 0),
    "late condition": ("fields-bool", (), "is_encoder_decoder", [3], 0),
    "vector of u32": ("fields-vector", (), "attention_window_sizes", [10000, 1, 2], 0),
    "vector of texts": ("fields-vector", (), "scale_base_names", [LATE + 2 + 1, 1, 0x61], 0),
    "vector of records": ("fields-vector", (("vit_config", None),), "layer_configs", [99], 0),
    "vector of records long": ("fields-vector", (), "layer_configs", [MAX_RECORDS + 1, *[0] * (MAX_RECORDS + 1)], 0),
    "record long": ("fields-truncated", (), "vit_config", [10000], 0),
    "record in a vector long": ("fields-truncated", (("vit_config", None),), "layer_configs", [1, 500, 0], 1),
}
TEXTS_AT_FAULT = {
    "Latin-1": b"caf\xe9",
    "the highest bit": b"\x80abc",
    "half a character": b"caf\xc3",
    "a surrogate": b"\xed\xa0\x80\0",
    "NUL inside": b"a\0bc",
    "NUL in an earlier word": b"abc\0d\0\0\0",
    "only NUL": b"\0\0\0\0",
    "NUL first": b"\0abc",
    "a word of zeros at its end": b"abcd\0\0\0\0",
}


def with_fault(path: models.Path, name: str, words: list[int]) -> tuple[bytes, int]:
    """Return the bytes of a config with all fields, one of them in other words, and where that field begins."""
    whole = models.at_path(CONFIG, path)
    root = tree(models.with_at(CONFIG, path, replace(whole, extent=len(field_hints(type(whole))))))
    node = next(node for node in root.nodes() if node.path == path)
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
def test_a_text_that_is_not_utf_8_or_wrongly_padded_is_refused(fault: str) -> None:
    text = TEXTS_AT_FAULT[fault]
    raw, at = with_fault((), "display_name", [len(text) // 4, *unpacked(text)])
    offset = faulty(raw, "fields-string").offset
    assert offset in range(at, at + 4 + len(text))


def is_utf_8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(text=st.binary(max_size=12) | texts.map(str.encode), zeros=st.integers(0, 9))
def test_exactly_padded_utf_8_without_nul_is_a_text(text: bytes, zeros: int) -> None:
    raw = text + bytes(zeros)
    raw += bytes(-len(raw) % 4)
    words = [len(raw) // 4, *unpacked(raw)]
    bare = raw.rstrip(b"\0")
    if is_utf_8(bare) and b"\0" not in bare and len(raw) - len(bare) < 4 and len(raw) <= 4 * MAX_STRING_WORDS:
        assert STRING.read(Cursor(words, 0, len(words))) == bare.decode()
    else:
        with pytest.raises(FormatError, match="fields-string"):
            STRING.read(Cursor(words, 0, len(words)))


@pytest.mark.parametrize("text", ["é", "權重", "a\U0001f600", "\uffff\U0010ffff", "權" * 85, "\x7f\x80"])
def test_a_text_is_counted_in_bytes(text: str) -> None:
    words: list[int] = []
    STRING.write(text, words)
    raw = text.encode()
    assert words == [-(-len(raw) // 4), *unpacked(raw + bytes(-len(raw) % 4))]
    config = replace(CONFIG, display_name=text, scale_base_names=(text, ""))
    assert ModelConfig.from_bytes(config.to_bytes()) == config
    with pytest.raises(UsageError, match=r"bad-field: ModelConfig\.display_name: .* at most 256 bytes"):
        replace(CONFIG, display_name=text + "權" * 86).to_bytes()


def test_the_longest_text_and_the_longest_vector_are_taken() -> None:
    config = replace(CONFIG, display_name="x" * 4 * MAX_STRING_WORDS)
    config = replace(config, layer_configs=(LayerConfig(extent=0),) * MAX_RECORDS)
    assert (MAX_STRING_WORDS, MAX_VECTOR, MAX_RECORDS) == (64, 8 << 20, 65536)
    assert ModelConfig.from_bytes(config.to_bytes()) == config


@dataclass(frozen=True, kw_only=True)
class Few(Record):
    numbers: tuple[int, ...] = many(U32, limit=9)


def test_a_vector_has_at_most_as_many_elements_as_its_limit() -> None:
    words: list[int] = []
    most = Few(numbers=(512,) * 9)
    most.write(words)
    assert Few.read(Cursor(words, 0, len(words))) == most
    with pytest.raises(UsageError, match=r"bad-field: Few\.numbers: 10 elements are more than 9"):
        Few(numbers=(512,) * 10).write([])
    words = [11, 10, *(512,) * 10]
    with pytest.raises(FormatError, match="fields-vector"):
        Few.read(Cursor(words, 0, len(words)))


def test_vectors_have_at_most_as_many_elements_as_newer_runtimes_read() -> None:
    config = replace(CONFIG, attention_window_sizes=(512,) * (MAX_VECTOR + 1))
    with pytest.raises(UsageError, match=rf"attention_window_sizes: {MAX_VECTOR + 1} elements are more than {8 << 20}"):
        config.to_bytes()
    config = replace(CONFIG, layer_configs=(LayerConfig(extent=0),) * (MAX_RECORDS + 1))
    with pytest.raises(UsageError, match=rf"layer_configs: {MAX_RECORDS + 1} elements are more than 65536"):
        config.to_bytes()


@pytest.mark.parametrize("nbytes", [0, 1, 2, 3, 5, 4 * 129 + 2])
def test_bytes_that_are_not_whole_words_are_refused(nbytes: int) -> None:
    raw = (2 * CONFIG.to_bytes())[:nbytes]
    assert len(raw) == nbytes
    assert faulty(raw, "fields-size").offset == 0
    with pytest.raises(FormatError, match=f"fields-size: {nbytes} bytes"):
        parse_toc(raw)


@families
def test_a_config_that_is_cut_short_is_refused_anywhere(family: str) -> None:
    raw = small(family).to_bytes()
    for end in range(4, len(raw), 4):
        assert faulty(raw[:end], "fields-truncated").offset in (0, 4)


# Any words.


def either_way(read_it: Callable[[bytes], Value], write_it: Callable[[Value], bytes], raw: bytes) -> None:
    """Check that bytes are refused, or read and written back unchanged."""
    try:
        value = read_it(raw)
    except FormatError as error:
        reason, offset = error.reason, error.offset
    else:
        assert write_it(value) == raw
        return
    assert reason.startswith(("fields-", "toc-"))
    assert offset in range(len(raw) + 1)


def both_ways(words: list[int]) -> None:
    either_way(ModelConfig.from_bytes, ModelConfig.to_bytes, packed(words))
    either_way(parse_toc, build_toc, packed(words))


@given(raw=st.binary(max_size=200))
def test_any_bytes_are_refused_or_written_back(raw: bytes) -> None:
    either_way(ModelConfig.from_bytes, ModelConfig.to_bytes, raw)
    either_way(parse_toc, build_toc, raw)


@given(words=st.lists(u32s | st.integers(0, 4), min_size=1, max_size=60), honest=st.booleans())
def test_any_words_are_refused_or_written_back(words: list[int], honest: bool) -> None:
    both_ways([len(words), *words] if honest else words)


@given(words=st.lists(st.sampled_from([0, 1]), max_size=70), grown=st.lists(u32s, max_size=9))
def test_records_that_end_anywhere_are_written_back(words: list[int], grown: list[int]) -> None:
    # Numbers, texts of at most a word, and small records: much of it is a config, or a record of all field types.
    for cls, inner in ((Grown, [*grown[:3], *words]), (Outer, [*grown, *words]), (LayerConfig, words)):
        raw = [len(inner), *inner]
        try:
            value = read(cls, raw)
        except FormatError:
            continue
        assert written(value) == raw
    either_way(ModelConfig.from_bytes, ModelConfig.to_bytes, packed([len(words), *words]))


@given(value=any_configs | configs_as_read, data=st.data())
def test_a_mutated_config_is_refused_or_written_back(value: ModelConfig, data: Any) -> None:  # noqa: ANN401
    words = data.draw(models.mutated_words([*emitted(tree(value)), *value.trailing]))
    both_ways(words)
    if words:
        both_ways([len(words) - 1, *words[1:]])


@given(entries=st.lists(models.records(TocEntry, newer=newer_words, extents=True), max_size=4), data=st.data())
def test_a_mutated_toc_is_refused_or_written_back(entries: list[TocEntry], data: Any) -> None:  # noqa: ANN401
    entries = [settled(replace(entry, type_number=1 + entry.type_number % 31)) for entry in entries]
    if 0 < len({entry.name for entry in entries}) == len(entries):
        assert parse_toc(packed([word for entry in entries for word in emitted(tree(entry))])) == entries
    both_ways(data.draw(models.mutated_words([word for entry in entries for word in emitted(tree(entry))])))


# Hostile counts cost nothing.


def peak_of(raw: bytes) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            ModelConfig.from_bytes(raw)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [5, 64, 65, 1000, MAX_RECORDS, MAX_VECTOR, MAX_VECTOR + 1, 2**31, 2**32 - 1])
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
def test_a_wrong_count_allocates_nothing(path: models.Path, name: str, count: int) -> None:
    root = tree(CONFIG)
    node = next(node for node in root.nodes() if node.path == path)
    names = list(node.fields)
    node.fields = {field: node.fields[field] for field in names[: names.index(name)]} | {name: [count, 1, 2]}
    raw = packed(emitted(root))
    assert peak_of(raw) < 256 << 10


@pytest.mark.parametrize("words", [[2**32 - 1], [2**32 - 1, 0], [2, 0], [10**9, *[0] * 50]])
def test_a_record_with_a_wrong_count_allocates_nothing(words: list[int]) -> None:
    assert peak_of(packed(words)) < 64 << 10
    assert faulty(packed(words), "fields-truncated")


@pytest.mark.parametrize("layer", [[0], [1, 7], [2, 7, 7]])
def test_memory_is_proportional_to_what_is_read(layer: list[int]) -> None:
    # The worst case: a record of a few bytes. The last one is wrong, so all others have been made.
    count = MAX_RECORDS // 4
    root = tree(ModelConfig())
    root.fields = dict(list(root.fields.items())[: list(root.fields).index("layer_configs")])
    root.fields["layer_configs"] = [count, *layer * (count - 1), 1]
    raw = packed(emitted(root))
    assert peak_of(raw) < 100 * len(raw)


# Values that can't be written.


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
        ("display_name", "caf\udce9"),
        ("display_name", "a\0b"),
        ("display_name", "a\0"),
        ("display_name", "x" * 257),
        ("display_name", 7),
        ("model", -1),
        ("model", "x"),
        ("wrapping", 2**32),
        ("attention_window_sizes", (1, -1)),
        ("attention_window_sizes", 7),
        ("scale_base_names", ("a", "\ud800")),
        ("layer_configs", (None,)),
        ("vit_config", None),
        ("use_global_timescale", 2),
        ("rope_theta", math.inf),
        ("tokenizer_kind", -1),
        ("trailing", (2**32,)),
        ("trailing", (-1,)),
        ("newer", (-1,)),
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
    with pytest.raises(UsageError, match=r"LayerConfig\.heads: -1 is not an unsigned"):
        replace(CONFIG, layer_configs=(layer,)).to_bytes()
    with pytest.raises(UsageError, match=r"TocEntry\.rows: 4294967296 is not an unsigned"):
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
