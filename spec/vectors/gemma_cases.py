"""The cases of gemma.json, and of files whose tensors a reader finds without a name index (spec/gemma.md)."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from dataclasses import fields as fields_of
from typing import Any

from codec_cases import hexed, noise
from codec_writer import encode_bf16, encode_f32, encode_i8, encode_sfp, sfp_scale, word_bytes, words_of
from gemma_writer import (
    BYTE_FALLBACK,
    BYTE_LEVEL,
    SPACES,
    Bpe,
    Config,
    Layer,
    Record,
    TocEntry,
    Vit,
    bpe_of,
    default,
    later_specifiers,
    published,
    published_2026_04,
    published_later,
    record,
    specifiers,
    text,
    toc,
    toc_entry,
    vector,
    written,
)
from sbs_cases import Case, indexed, store
from sbs_writer import TYPES, Blob, container, payload, stored_nbytes, tensor

Fact = dict[str, Any]
Words = list[int]

# The blob `config` of each model, as gemma.cpp writes it at commit 3ed403e: specifier, size, SHA-256.
GEMMA = """
gemma2-2b-sfp-it 2020 679e3dea6696bfa5bfddb08f4386d89360fccfa54262efce8017ad83e9c4e126
gemma2-2b-sfp-pt 2020 161204da5e06332a482101fa4c77000b891070a0e795925f5eded01914eefb9d
gemma2-2b-bf16-it 2020 9647b27b584463e5df1e66259595a089fd0a514c10d56940a8f365586b3f5c24
gemma2-2b-bf16-pt 2020 1835ddbbac14bb782b423c8e61980d04c60bb81bd295aa3ee9baaac58cee07c4
9b-sfp-it 3108 89e06c3a19a20cc3ff0b2b48d1d52a9823029f2a500625e3b2fd63c9ba274385
9b-sfp-pt 3108 9b92a2594db51c232f91aaf81e4ff15a4addff333ed9819bf2d4b5a5dae57d05
9b-bf16-it 3108 af9a92dd7c909756f040700648789fe5ea2140ff66258cc963d139c35a323abe
9b-bf16-pt 3108 53bf052dfb543539e0e3c0c311aed505dc94742a40623aa6cf3a2476cc9f0f53
27b-sfp-it 3380 8443a1be68b92e71c0ab896b481799f0012957af1fc1b1edecd954001840a06a
27b-sfp-pt 3380 b472ecbf0ef778045809ac94eae8f219a30bc7f4f890265e0b65ff320f2fb6b8
27b-bf16-it 3380 b8d9589710647d9192b57746356d525dac082d73e5f39ce1186d38643bb4fb5f
27b-bf16-pt 3380 2dd723b10b188d32dfade5271fea4de51a4a451c7f78c8ff4707d7764c8c34ab
paligemma2-3b-224-sfp 3756 72917f5f69470d62a4be8eb75fe71ac087a634afd2a9ed4db11937ac582712f0
paligemma2-3b-224-bf16 3756 cecc6b21519188ecfc59b4c970bc60d2858be1859923a182fead70a6484268be
paligemma2-3b-448-sfp 3756 2785295487353f5a020a6f9903c59a0635c152c4cbd5078601bb220f7a86a73a
paligemma2-3b-448-bf16 3756 cae720041b48ddc63685a55c98ef700ab1045a800e8942d272e0adb2ef0e8da2
paligemma2-10b-224-sfp 4844 54468c75de62e37316766aedeeb04dd6777ae3b95787301484a7eb96c28bf892
paligemma2-10b-224-bf16 4844 8a2943172bcee48fb9615715fee536ee31506ad25a9bfaa254a399498560368f
paligemma2-10b-448-sfp 4844 3eea4291a282aaa7e08bdaab5a9fc95706347930af4f93386b981acb1d9d8569
paligemma2-10b-448-bf16 4844 c24948f554aaedd9175b2973ce902b6c33536a6672c1d144ca16594cb5700706
gemma3-270m-sfp-it 1476 a635cee0e9c5ed674c090b878111a66e9d4dad040fe5635c8c5028095ef7aa71
gemma3-270m-sfp-pt 1476 dddbe1170e63dfe6b22f2864787dcc4db307d041c715d1f9aef112fb047d43de
gemma3-270m-bf16-it 1476 6936dbf3a0c596d1cbc36bce17908089d07a04b870678e6f9aef5101327e4ebc
gemma3-270m-bf16-pt 1476 b5a7cd28694104b06d04f0def2d476409b0f0802074af6a989b75775fdf8d990
gemma3-1b-sfp 2020 0aeb4fcf314a1f0eec03ebeccfcc807c8f870c65bc162eef07f0ab8f8f610538
gemma3-1b-bf16 2020 c889c5cd66d9f9b03d4c4ff5a5de1f5db166f5ce307f482dd4670c8305fe1046
gemma3-4b-sfp 4292 46bb67b2ec78b003ac53ebe7120cb096510ee048feaa8655201419b020496a6b
gemma3-4b-bf16 4292 0fba133c6477f88a3a27de1fdb8f45f2f6b47daa7fa1bc258fd9500f39db6ab4
gemma3-12b-sfp 5244 9652ab4fc808ea09ca850a1fdb7d09d6f6e264289571d47e4ef787d89aee39fa
gemma3-12b-bf16 5244 fda07893c763836fa572c2b634b4fe9506cf86c88df0b6e7d562308f9f2be93e
gemma3-27b-sfp 6196 f2c03a58297b55518bcb57218afae66251c2c2b30cf506d35c2d385e5ff50083
gemma3-27b-bf16 6196 2f340be90107823daca11c88d6f6e93ff1eb1900fd93336da48bc0fb2ba98007
"""


# SHA-256 of the sorted lines "specifier size SHA-256": of the 80 configs that gemma.cpp writes at commit 3892763, and
# of the 84 that were transcribed from its source at 0224dcb (those are not bytes that it wrote).
GEMMA_2026_04 = "95f1965aca28a33ca65a7d80280d2115a5c16247c11afb63f276d15fcf3a9e7e"
GEMMA_LATER = "ade89cc42247a2b4d6143bf6ed59ab482ff658459d346ee6624389740f759e5a"


def fact(specifier: str, words: Words) -> Fact:
    """The blob of a config."""
    made = word_bytes(words)
    return {"specifier": specifier, "size": len(made), "sha256": hashlib.sha256(made).hexdigest()}


def gemma_configs() -> Iterator[Fact]:
    """What gemma.cpp wrote.

    Raises:
        ValueError: The code here produces something else.
    """
    facts = [line.split() for line in GEMMA.split("\n") if line]
    if [specifier for specifier, _, _ in facts] != specifiers():
        raise ValueError(specifiers())
    for specifier, size, sha256 in facts:
        known = {"specifier": specifier, "size": int(size), "sha256": sha256}
        if fact(specifier, published(specifier).words()) != known:
            raise ValueError(f"{specifier}: gemma.cpp's config has SHA-256 {sha256}, ours is another")
        yield {"commit": "3ed403e"} | known
    newer = [fact(one, published_2026_04(one).words(24)) for one in specifiers(("sfp", "bf16", "f32", "i8", "nuq"))]
    for one in recorded(newer, GEMMA_2026_04):
        yield {"commit": "3892763"} | one


def recorded(facts: list[Fact], sha256: str) -> list[Fact]:
    """Return the facts if they match the recorded hash.

    Raises:
        ValueError: One of them differs.
    """
    lines = sorted("{specifier} {size} {sha256}\n".format(**one) for one in facts)
    made = hashlib.sha256("".join(lines).encode()).hexdigest()
    if made != sha256:
        raise ValueError(f"the configs have SHA-256 {sha256} together, ours {made}")
    return facts


def configs_written() -> list[Fact]:
    """What a writer for every runtime writes."""
    return [fact(one, written(one).words()) for one in specifiers()]


def configs_transcribed() -> list[Fact]:
    """The configs of later runtimes, with all fields in all records."""
    return recorded([fact(one, published_later(one).words(99)) for one in later_specifiers()], GEMMA_LATER)


# ------------------------------------------------------------------------------------------------------------- configs

VISION = Vit(11, 16, 44, 7, 28, (Layer(12, 0, 13, 2, 1, 6, ff_biases=True, type=1),), 2)
FULL = Config(  # no two adjacent numbers are equal
    model_family_version=2,
    display_name="Tiny-1",
    model=18,
    wrapping=2,
    weight=3,
    num_layers=2,
    model_dim=8,
    vocab_size=100,
    max_seq_len=64,
    unused_1=5,
    att_cap=50.0,
    final_cap=-0.5,
    absolute_pe=True,
    unused_2=False,
    query_scale=1,
    layer_configs=(
        Layer(8, 1, 32, 4, 2, 3, 9, ff_biases=True, post_norm=1, post_qk=1),
        Layer(8, 2, 31, 5, 1, 4, 8, unused_3=True, optimized_gating=False, use_qk_norm=True),
    ),
    attention_window_sizes=(16, 64),
    norm_num_groups=3,
    vit_config=VISION,
    pool_dim=4,
    eos_id=-1,
    secondary_eos_id=-(2**31),
    scale_base_names=("att_ein", "x", ""),
)
NEWER = (7, 0, 0xFFFFFFFF)
LATE_LAYER = Layer(
    *(8, 1, 32, 4, 2, 3, 9),
    post_qk=8,
    norm_v=True,
    num_experts=10,
    num_experts_per_datapoint=11,
    ple_dim=12,
    kv_share_layer_idx=-2,
    kv_lora_rank=13,
    q_lora_rank=14,
    rope_head_dim=15,
    v_head_dim=16,
    attention_variant=2,
    kv_compression_rate=17,
    indexer_heads=18,
    indexer_head_dim=19,
    indexer_top_k=20,
    num_shared_experts=21,
    sigmoid_gating=True,
    use_routing_bias=False,
    o_lora_rank=22,
    o_groups=23,
    swiglu_limit=10.5,
    route_scale=1.5,
    router_score=3,
    hash_routing=True,
)
LATE = replace(  # one config for all fields: no real model combines them
    FULL,
    use_global_timescale=True,
    partial_rotary_factor=0.25,
    ple_dim=256,
    hc_mult=4,
    rope_theta=20000.0,
    compress_rope_theta=160000.0,
    yarn_orig_seq_len=65536,
    yarn_factor=16.0,
    yarn_beta_fast=33.0,
    yarn_beta_slow=1.5,
    hc_sinkhorn_iters=21,
    hc_eps=0.5,
    num_mtp_layers=6,
    tokenizer_kind=1,
    global_rope_theta=500000.0,
)
CODERS = replace(
    LATE,
    is_encoder_decoder=True,
    encoder_num_layers=1,
    encoder_layer_configs=(Layer(7, 1, 6),),
    encoder_attention_window_sizes=(17, 65, 18),
    decoder_num_layers=2,
    decoder_layer_configs=(Layer(5, 1, 4), replace(LATE_LAYER, model_dim=3)),
    decoder_attention_window_sizes=(19, 66),
)


def config_cases() -> Iterator[Fact]:
    """Words that a reader must accept, with their fields."""
    yield good("full", "each field of 2025-10 has a value of its own", FULL.words(), FULL)
    yield good("defaults", "all fields as they are by default", Config().words(), Config())
    yield from late_fields()
    yield from newer_fields()
    yield from older_records()
    yield from late_ends()
    yield from any_texts()
    for name, numbers in {
        "model": (1, 5, 33, 4000000000, 0xFFFFFFFF),
        "wrapping": (4,),
        "weight": (14, 255),
        "query_scale": (3,),
        "tokenizer_kind": (2,),
    }.items():
        for number in numbers:
            values: Fact = {name: number}
            one = replace(FULL, **values)
            yield good(f"number-{name}-{number:x}", f"{name} is {number}, of a newer runtime", one.words(), one)
    for name in ("post_norm", "type", "activation", "post_qk", "attention_variant", "router_score"):
        values = {name: 9}
        one = replace(FULL, layer_configs=(replace(FULL.layer_configs[0], **values), FULL.layer_configs[1]))
        yield good(f"number-layer-{name}", f"{name} of a layer is 9, of a newer runtime", one.words(), one)
    yield good("trailing-word", "a word of zeros behind the record", [*FULL.words(), 0], FULL)
    yield good("trailing-record", "the record twice", [*FULL.words(), *FULL.words()], FULL)
    yield good("trailing-defaults", "a record without fields, and a word", [0, 0], Config())
    yield good(
        "trailing-newer", "words behind the last field, and behind the record", [*LATE.words(newer=(1,)), 2], LATE
    )


def good(name: str, said: str, words: Words, config: Config) -> Fact:
    """A case."""
    return {"name": name, "description": said, "words": hexed(words), "fields": told(config)}


def told(value: object) -> object:
    """A record's fields: those of 2025-10, and others that differ from their defaults."""
    if isinstance(value, tuple):
        return [told(one) for one in value]
    if not isinstance(value, Record):
        return value
    return {
        one.name: told(getattr(value, one.name))
        for i, one in enumerate(fields_of(value))
        if i < value.CORE or getattr(value, one.name) != default(one)
    }


def any_texts() -> Iterator[Fact]:
    """Texts of any length with any characters."""
    for n in (1, 3, 4, 5, 8, 255, 256):
        named = Config(display_name=("The quick brown fox. " * 13)[:n])
        yield good(f"text-{n}", f"a text of {n} characters", named.words(), named)
    controls = Config(display_name="\x01\t\n\x7f")
    yield good("text-controls", "control characters are text, too", controls.words(), controls)
    for name in ("é", "Gémma", "權重", "a\U0001f600", "\x80\uffff\U0010ffff", 128 * "é", 85 * "權"):
        named = Config(display_name=name, scale_base_names=("", name))
        n = len(name.encode())
        yield good(f"text-utf-8-{name[0].encode().hex()}-{n}", f"a text of {n} bytes of UTF-8", named.words(), named)


def newer_fields() -> Iterator[Fact]:
    """Words after the last field, inside each record."""
    yield good("newer-outer", "words behind the last field of the config", FULL.words(newer=NEWER), FULL)
    yield good("newer-layer", "words behind the last field of a layer", with_layers(NEWER, 0), FULL)
    yield good("newer-layers", "the same in the other layer, one word", with_layers(NEWER[:1], 1), FULL)
    yield good("newer-vit", "words behind the last field of the vision part", with_vit(VISION.words(newer=NEWER)), FULL)
    deep = VISION.words(instead={"layer_configs": vector([VISION.layer_configs[0].words(newer=NEWER)])})
    yield good("newer-vit-layer", "words behind the last field of a layer inside the vision part", with_vit(deep), FULL)
    everywhere = with_layers(NEWER, 0, vit=VISION.words(newer=NEWER[:2]), newer=NEWER[1:])
    yield good("newer-everywhere", "in three records at once", everywhere, FULL)
    yield good("newer-coders", "behind fields of encoders and decoders", CODERS.words(newer=NEWER), CODERS)
    layers = vector([one.words(newer=NEWER[:i]) for i, one in enumerate(CODERS.decoder_layer_configs)])
    said = "words behind the last field of a layer of the decoder"
    yield good("newer-decoder-layer", said, CODERS.words(instead={"decoder_layer_configs": layers}), CODERS)


def older_records() -> Iterator[Fact]:
    """A record that ends before its last field."""
    for end in (0, 1, 2, 9, 15, 16, 18, 19, 22):
        what = f"the record ends behind {behind(FULL, end)}" if end else "a record without fields"
        yield good(f"older-{end}", what, FULL.words(end), first_fields(FULL, end))
    first = FULL.layer_configs[0]
    for end in (0, 6, 9, 14):
        older = replace(FULL, layer_configs=(first_fields(first, end), FULL.layer_configs[1]))
        yield good(f"older-layer-{end}", f"a layer of {end} fields", with_layers((), 0, layer=first.words(end)), older)
    for end in (0, 5, 6):
        older = replace(FULL, vit_config=first_fields(VISION, end))
        yield good(f"older-vit-{end}", f"a vision part of {end} fields", with_vit(VISION.words(end)), older)


def late_fields() -> Iterator[Fact]:
    """Fields of later runtimes."""
    word = replace(FULL, use_global_timescale=True)
    yield good("word", "one word more: use_global_timescale", word.words(), word)
    yield good("word-0", "the same with 0", FULL.words(24), FULL)
    yield good("late", "all fields, without encoder and decoder", LATE.words(), LATE)
    yield good("late-coders", "all fields, with encoder and decoder", CODERS.words(), CODERS)
    said = "all fields of all records, all as they are by default"
    whole = Config(layer_configs=(Layer(), Layer()), vit_config=Vit(layer_configs=(Layer(),)))
    vit = whole.vit_config.words(instead={"layer_configs": vector([Layer().words(99)])})
    instead = {"layer_configs": vector(2 * [Layer().words(99)]), "vit_config": vit}
    yield good("late-defaults", said, whole.words(99, instead=instead), whole)
    empty = replace(whole, is_encoder_decoder=True)
    said = "an encoder and a decoder of which all is as it is by default"
    yield good("late-coders-defaults", said, empty.words(99), empty)
    said = "a record that ends behind is_encoder_decoder, 0"
    yield good("late-no-coders", said, LATE.words(38), first_fields(LATE, 38))
    layers = (LATE_LAYER, FULL.layer_configs[1])
    seeing = replace(VISION, layer_configs=(LATE_LAYER,))
    one = replace(FULL, layer_configs=layers, vit_config=seeing)
    yield good("late-layer", "all fields of a layer, in the vision part, too", one.words(), one)


def late_ends() -> Iterator[Fact]:
    """A record that ends before the last of these fields."""
    less = replace(CODERS, layer_configs=(), vit_config=Vit(), scale_base_names=(), decoder_layer_configs=())
    for end in range(24, 45):
        said = f"a record that ends behind {behind(less, end)}"
        yield good(f"late-{end}", said, less.words(end), first_fields(less, end))
    for end in range(16, 38):
        said = f"a layer that ends behind {behind(LATE_LAYER, end)}"
        one = Config(layer_configs=(first_fields(LATE_LAYER, end),))
        words = one.words(instead={"layer_configs": vector([LATE_LAYER.words(end)])})
        yield good(f"late-layer-{end}", said, words, one)


def behind(value: Record, end: int) -> str:
    """Name of the field before this one."""
    return fields_of(value)[end - 1].name


def first_fields(value: Any, end: int) -> Any:  # noqa: ANN401 (a record and another of its type)
    """What a record that ends there reads as."""
    return type(value)(**{one.name: getattr(value, one.name) for one in fields_of(value)[:end]})


def with_layers(
    newer_in_layer: Sequence[int],
    place: int,
    *,
    layer: Words | None = None,
    vit: Words | None = None,
    newer: Sequence[int] = (),
) -> Words:
    """The full config with other words for a layer, and optionally for more."""
    layers = [one.words() for one in FULL.layer_configs]
    layers[place] = layer or FULL.layer_configs[place].words(newer=newer_in_layer)
    return FULL.words(newer=newer, instead={"layer_configs": vector(layers), "vit_config": vit or VISION.words()})


def with_vit(vit: Words) -> Words:
    """The full config with other words for the vision part."""
    return with_layers((), 0, vit=vit)


def at(name: str, config: Config = FULL) -> int:
    """Where a field of the full config begins, in words from the beginning of the blob."""
    return len(config.words(list(vars(config)).index(name)))


def changed(words: Words, place: int, *new: int, cut: int = 1) -> Words:
    """Words with `cut` of them replaced; the word count of the outermost record is not touched."""
    return [*words[:place], *new, *words[place + cut :]]


def sized(words: Words) -> Words:
    """The outermost record with its word count corrected."""
    return record(words[1:])


def config_invalid() -> Iterator[Fact]:
    """Words that a reader must refuse, one fault in each."""
    full, names = FULL.words(), list(vars(FULL))

    def bad(reason: str, name: str, said: str, words: Words) -> Fact:
        return {"name": name, "description": said, "reason": reason, "words": hexed(words)}

    yield from fields_size(full)
    reason = "fields-truncated"
    yield bad(reason, "one-word-short", "the last word is missing", full[:-1])
    yield bad(reason, "one-word-more", "the record says a word more than there is", changed(full, 0, full[0] + 1))
    yield bad(reason, "count-huge", "the record says 4294967295 words", changed(full, 0, 0xFFFFFFFF))
    yield bad(reason, "count-wraps", "4 times its number, in 32 bits, is right", changed(full, 0, full[0] + 2**30))
    yield bad(reason, "in-text", "the record ends inside a text", record(full[1:4]))
    yield bad(reason, "in-layer", "the record ends inside a layer", record(full[1 : at("layer_configs") + 5]))
    layers = at("layer_configs")
    yield bad(reason, "layer-count-huge", "a layer says 4294967295 words", changed(full, layers + 1, 0xFFFFFFFF))
    rest = len(full) - layers - 2 + 1
    yield bad(
        reason, "layer-beyond", "a layer says a word more than the config has left", changed(full, layers + 1, rest)
    )
    yield bad(reason, "in-vit", "the record ends inside the vision part", record(full[1 : at("vit_config") + 3]))
    short = with_vit(changed(VISION.words(), 0, len(VISION.words()) - 1 - 5))
    yield bad(reason, "layer-in-vit", "the vision part ends inside its layer", short)
    reason = "fields-string"
    texts = {
        "65-words": ("65 words", [65, *text("x" * 260)[1:]]),
        "latin-1": ("a text in Latin-1", text("Gémma".encode("latin-1"))),
        "byte-80": ("the byte 0x80", text(b"\x80")),
        "utf-8-cut": ("a character that ends early", text("權".encode()[:2])),
        "utf-8-long": ("a NUL in two bytes", text(b"\xc0\x80")),
        "utf-8-surrogate": ("a surrogate", text(b"\xed\xa0\x80")),
        "utf-8-beyond": ("a character beyond U+10FFFF", text(b"\xf4\x90\x80\x80")),
        "nul-inside": ("a NUL before the last character", text(b"a\0b")),
        "nul-first": ("a NUL before all characters", text(b"\0abc")),
        "word-of-zeros": ("a word of zeros behind the text", [2, *text("abcd")[1:], 0]),
        "nul-only": ("one word of zeros where an empty text has none", [1, 0]),
    }
    old = len(text(FULL.display_name))
    for name, (said, words) in texts.items():
        yield bad(reason, f"text-{name}", said, sized(changed(full, at("display_name"), *words, cut=old)))
    last = len(full) - 1
    yield bad(reason, "text-in-vector", "the same in a vector of texts", sized(changed(full, last, *text(b"\xfc"))))
    for what, number in {"infinite": 0x7F800000, "minus-infinite": 0xFF800000, "nan": 0x7FC00000}.items():
        yield bad("fields-number", f"number-{what}", f"att_cap is {number:08x}", changed(full, at("att_cap"), number))
    yield bad("fields-number", "number-nan-last", "final_cap is a NaN", changed(full, at("final_cap"), 0xFFFFFFFF))
    for value in (2, 0xFFFFFFFF):
        name = "absolute_pe"
        yield bad("fields-bool", f"bool-{value:x}", f"{name} is {value}", changed(full, at(name), value))
    yield bad("fields-bool", "bool-layer", "ff_biases of a layer is 2", changed(full, layers + 2 + 7, 2))
    yield bad("fields-bool", "bool-layer-last", "use_qk_norm of a layer is 256", changed(full, layers + 2 + 14, 256))
    reason = "fields-vector"
    for name in ("layer_configs", "attention_window_sizes", "scale_base_names"):
        left = len(full) - at(name) - 1
        said = f"{name} has a word more elements than there are words"
        yield bad(reason, f"vector-{name}", said, changed(full, at(name), left + 1))
        yield bad(reason, f"vector-{name}-huge", "4294967295 elements", changed(full, at(name), 0xFFFFFFFF))
    yield bad(reason, "vector-cut", "the record ends behind a vector's number", record(full[1 : at(names[15]) + 1]))
    vit_layers = at("vit_config") + 1 + 5
    left = len(VISION.words()) - 1 - 5  # counting that of pool_dim, but the vision part ends there
    yield bad(reason, "vector-vit", "more elements than the vision part has words", changed(full, vit_layers, left))
    yield from late_invalid()


def late_invalid() -> Iterator[Fact]:
    """Faults in fields of later runtimes."""
    coders = CODERS.words()

    def bad(reason: str, name: str, said: str, words: Words) -> Fact:
        return {"name": name, "description": said, "reason": reason, "words": hexed(words)}

    for name in ("use_global_timescale", "is_encoder_decoder"):
        yield bad("fields-bool", f"late-{name}", f"{name} is 2", changed(coders, at(name, CODERS), 2))
    name = "global_rope_theta"
    wrong = changed(coders, at(name, CODERS), 0x7F800000)
    yield bad("fields-number", f"late-{name}", "the last field is infinite", wrong)
    for name, place in {"norm_v": 15, "hash_routing": 37}.items():
        layer = changed(LATE_LAYER.words(), 1 + place, 2)
        yield bad("fields-bool", f"late-layer-{name}", f"{name} of a layer is 2", with_layers((), 0, layer=layer))
    layer = changed(LATE_LAYER.words(), 1 + 35, 0x7FC00000)
    yield bad("fields-number", "late-layer-route_scale", "route_scale is a NaN", with_layers((), 0, layer=layer))
    for name in ("encoder_layer_configs", "decoder_attention_window_sizes"):
        left = len(coders) - at(name, CODERS) - 1
        said = f"{name} has a word more elements than there are words"
        yield bad("fields-vector", f"late-{name}", said, changed(coders, at(name, CODERS), left + 1))
    cut = record(coders[1 : at("encoder_layer_configs", CODERS) + 4])
    yield bad("fields-truncated", "late-in-layer", "the record ends inside a layer of the encoder", cut)


def fields_size(words: Words) -> Iterator[Fact]:
    """Bytes that are not a sequence of words."""
    data = word_bytes(words)
    for name, said, raw in (
        ("no-bytes", "no bytes", b""),
        ("one-byte", "one byte", data[:1]),
        ("byte-missing", "a byte less than whole words", data[:-1]),
        ("byte-more", "a byte more than whole words", data + b"\0"),
    ):
        yield {"name": name, "description": said, "reason": "fields-size", "bytes": raw.hex()}


# ----------------------------------------------------------------------------------------------------------------- toc

ENTRIES = [
    toc_entry("c_embedding", "sfp", 100, 8, 1.25),
    toc_entry("c_final_norm", "bf16", 1, 8),
    toc_entry("img_emb_bias", "f32", 1, 12),
    toc_entry("gating_ein_0", "i8", 3, 87),
    toc_entry("gating_ein_1", "nuq", 3, 87, 0.5),
    toc_entry("a", "f64", 2, 2),
    toc_entry("b", "u32", 2, 2),
    toc_entry("0123456789abcdef", "u64", 2, 2, -1.0),
    toc_entry("c", "u16", 3, 1),
    toc_entry("d", "u8", 1, 3, 0.25),
    toc_entry("e", "int8", 1, 3),
    toc_entry("gating_ein_2", "q4_0", 3, 87),
    toc_entry("gating_ein_3", "mxfp4", 3, 87),
]
NEWEST = 31  # the last number of a type of the runtime


def toc_cases() -> Iterator[Fact]:
    """Words that a reader must accept."""

    def good(name: str, said: str, words: Words, entries: Sequence[TocEntry]) -> Fact:
        listed = [asdict(one) for one in entries]
        return {"name": name, "description": said, "words": hexed(words), "entries": listed}

    yield good("one", "one tensor", toc(ENTRIES[:1]), ENTRIES[:1])
    yield good("every-type", "a tensor of each type", toc(ENTRIES), ENTRIES)
    newer = [*ENTRIES[0].words(newer=NEWER), *ENTRIES[1].words(newer=(1,)), *ENTRIES[2].words()]
    yield good("newer", "words behind the last field of two records", newer, ENTRIES[:3])
    strides = replace(ENTRIES[1], stride=0)
    older = [*record(strides.words()[1:-1]), *ENTRIES[2].words()]
    yield good("older", "a record ends before its last field", older, [strides, ENTRIES[2]])
    for number in (14, NEWEST):
        unknown = replace(ENTRIES[0], type=number, element_bytes=1, num_elements=850)
        yield good(f"type-{number}", f"type {number}, which a later runtime may have", toc([unknown]), [unknown])
    strided = [replace(one, stride=stride) for one, stride in zip(ENTRIES, (0, 1, 2**32 - 1), strict=False)]
    yield good("strides", "a stride is not compared with cols here, but in files", toc(strided), strided)
    for name in ("é", "權重", "a\U0001f600", "\x01\x7f"):
        named = replace(ENTRIES[0], name=name)
        yield good(f"text-{name.encode().hex()}", f"a name of the bytes {name.encode().hex()}", toc([named]), [named])
    large = replace(ENTRIES[0], rows=2**32 - 1, cols=2**32 - 1, num_elements=2**32 - 1)
    yield good("largest", "numbers of 32 bits", toc([large]), [large])


def toc_invalid() -> Iterator[Fact]:
    """Words that a reader must refuse."""
    two = toc(ENTRIES[:2])
    first = ENTRIES[0].words()
    type_at = 1 + len(text(ENTRIES[0].name))
    scale_at = type_at + 5

    def bad(reason: str, name: str, said: str, words: Words) -> Fact:
        return {"name": name, "description": said, "reason": reason, "words": hexed(words)}

    yield from fields_size(two)
    yield bad("fields-truncated", "cut", "the last word is missing", two[:-1])
    yield bad("fields-truncated", "one-number", "a number behind the last record", [*two, 9])
    yield bad(
        "fields-truncated", "count-huge", "the second record says 4294967295 words", changed(two, len(first), 2**32 - 1)
    )
    yield bad("fields-truncated", "in-text", "a record ends inside its name", record(first[1:3]))
    yield bad(
        "fields-string", "text-65-words", "a name of 65 words", record([65, *text("x" * 260)[1:], *first[type_at:]])
    )
    for raw in (b"\x80", b"a\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe6\xac", b"G\xe9"):
        said = f"a name that is not UTF-8: {raw.hex(' ')}"
        yield bad("fields-string", f"text-{raw.hex()}", said, record([*text(raw), *first[type_at:]]))
    yield bad("fields-string", "text-nul-inside", "a NUL in a name", record([*text("權\0重"), *first[type_at:]]))
    for what, number in {"infinite": 0x7F800000, "nan": 0x7FC00000}.items():
        yield bad("fields-number", f"scale-{what}", f"the scale is {number:08x}", changed(two, scale_at, number))
    for number in (0, NEWEST + 1, 2**16 + 1, 2**32 - 1):
        yield bad("toc-type", f"type-{number}", f"type {number}", changed(two, type_at, number))
    yield bad("toc-type", "type-missing", "a record that ends behind its name: type 0", record(first[1:type_at]))
    yield bad("toc-duplicate", "twice", "a name twice", [*two, *first])
    yield bad("toc-duplicate", "twice-at-once", "and right behind", [*first, *first])


# --------------------------------------------------------------------------------------------------------- .sbs files

EMBEDDING = noise(400, 24, size=7.0)
NORM, BIAS, GATING = noise(401, 8), noise(402, 5), noise(403, 3 * 87)
# Key, type, rows, columns, scale, stored bytes.
TENSORS = [
    ("c_embedding", "sfp", 3, 8, sfp_scale(EMBEDDING), encode_sfp(EMBEDDING)),
    ("c_final_norm", "bf16", 1, 8, 1.0, encode_bf16(NORM)),
    ("img_emb_bias", "f32", 1, 5, 1.0, encode_f32(BIAS)),
    ("gating_ein_0", "i8", 3, 87, 1.0, encode_i8(GATING)),
    ("gating_ein_10", "nuq", 3, 87, 0.5, b"".join(bytes(range(16)) + payload(404, n) for n in (128, 3))),
]
BLOBS: list[Blob] = [(key.encode(), data) for key, *_, data in TENSORS]
TOC = [toc_entry(key, kind, rows, cols, scale) for key, kind, rows, cols, scale, _ in TENSORS]
CONFIG = (b"config", word_bytes(FULL.words()))
TOKENIZER = (b"tokenizer", b"unavailable")


def toc_blob(entries: Sequence[TocEntry] = TOC) -> Blob:
    """The blob `toc`."""
    return b"toc", word_bytes(toc(entries))


def entry(name: str, key: str, kind: str, shape: tuple[int, ...], *, nbytes: int, scale: float) -> Fact:
    """The manifest's record of a tensor."""
    return {
        "name": name,
        "key": key,
        "offset": 0,
        "nbytes": nbytes,
        "type": TYPES[kind][0],
        "shape": shape,
        "scale_bits": hexed(words_of(scale)),
        "codec": 0,
    }


def by_toc(file: str, said: str, blobs: Sequence[Blob], *, version: int = 1) -> Case:
    """A file whose tensors come from the toc."""
    sizes = {key.decode(): len(data) for key, data in blobs}
    entries = [
        entry(key, key, kind, (rows, cols), nbytes=sizes[key], scale=scale)
        for key, kind, rows, cols, scale, _ in TENSORS
    ]
    expectations = {"catalog": "toc", "entries": entries}
    case = store(file, said, blobs, version=version, very_old=version == 1, expectations=expectations)
    return replace(case, kind="catalog_valid")


def other_types(file: str, said: str, types: Mapping[str, int]) -> Case:
    """A file with a tensor, 3 × 87, of each type, by its name and by its number in the toc."""
    shape = (3, 87)
    sizes = {name: stored_nbytes(name, shape) if name in TYPES else 100 + number for name, number in types.items()}
    known = [toc_entry(name, name if name in TYPES else "sfp", *shape) for name in types]
    listed = [replace(one, type=number) for one, number in zip(known, types.values(), strict=True)]
    blobs = [(name.encode(), payload(450 + i, nbytes)) for i, (name, nbytes) in enumerate(sizes.items())]
    entries = [
        entry(name, name, "sfp", shape, nbytes=sizes[name], scale=1.0) | {"type": number}
        for name, number in types.items()
    ]
    case = store(file, said, [*blobs, toc_blob(listed)], expectations={"catalog": "toc", "entries": entries})
    return replace(case, kind="catalog_valid")


# Layers 0, 2 and 10, neither in the order of the layers nor in that of their scales.
OLD = [
    ("$linear_w_10", 30), ("$gating_ein_0", 21), ("Ipre_att_ns_0", 129 + 8), ("2gating_ein_2", 16 + 128 + 16 + 3),
    ("$c_embedding", 50), ("Fc_final_norm", 32), ("$att_ein_2", 12), ("Bpost_ff_ns_0", 16), ("$linear_w_0", 9),
    ("$qkv_ein_0", 8), ("$att_ein_0", 7), ("$qkv_ein_10", 6), ("Fimg_head_bias", 20), ("Blinear_w_2", 14),
]  # fmt: skip
OLD_SCALED = ["att_ein_0", "qkv_ein_0", "gating_ein_0", "linear_w_0", "att_ein_2", "gating_ein_2", "linear_w_2",
              "qkv_ein_10", "linear_w_10"]  # fmt: skip
OLD_SCALES = [1.0 + i / 8 for i in range(1, 1 + len(OLD_SCALED))]
LETTERS = {"F": "f32", "B": "bf16", "$": "sfp", "2": "nuq", "I": "i8"}


def old_blobs(scales: bytes | None) -> list[Blob]:
    """A file from before 2025; stored bytes are 0 and 1, which are valid in each type."""
    blobs = [(key.encode(), bytes(b & 1 for b in payload(420 + i, nbytes))) for i, (key, nbytes) in enumerate(OLD)]
    return blobs if scales is None else [*blobs[:5], (b"Fscales", scales), *blobs[5:]]


def elements_of(kind: str, nbytes: int) -> int:
    """The largest number of elements that fills this many bytes; it is even for nuq."""
    return max(n for n in range(1, 2 * nbytes + 1) if stored_nbytes(kind, (n,)) == nbytes)


def by_letters(file: str, said: str, scales: bytes | None) -> Case:
    """A file whose tensors come from its keys."""
    given = dict(zip(OLD_SCALED, OLD_SCALES, strict=True)) if scales is not None else {}
    entries = []
    for key, nbytes in OLD:
        kind, name = LETTERS[key[0]], key[1:]
        entries.append(entry(name, key, kind, (elements_of(kind, nbytes),), nbytes=nbytes, scale=given.get(name, 1.0)))
    expectations = {"catalog": "letters", "entries": entries}
    case = store(file, said, old_blobs(scales), expectations=expectations)
    return replace(case, kind="catalog_valid")


def by_keys(file: str, said: str) -> Case:
    """A file whose blobs are bytes under their keys: some look like other kinds, some are never listed."""
    hidden = ("config", "tokenizer", "Fscales", "~packed", "~packed.idx")
    keys = ["a", "~packed", "~packed.id", "Fscales", "~7tkehle3apssvfl", "config", "~", "~packed.idx", "Config",
            "tokenizer", "~packed2"]  # fmt: skip
    blobs = [(key.encode(), payload(470 + i, 10 + i)) for i, key in enumerate(keys)]
    entries = [
        entry(key.decode(), key.decode(), "unknown", (len(data),), nbytes=len(data), scale=1.0)
        for key, data in blobs
        if key.decode() not in hidden
    ]
    case = store(file, said, blobs, expectations={"catalog": "keys", "entries": entries})
    return replace(case, kind="catalog_valid")


def catalog_cases() -> Iterator[Case]:
    """Files that describe their tensors in other ways than by a name index alone."""
    whole = [CONFIG, *BLOBS, TOKENIZER, toc_blob()]
    yield by_toc("toc", "a model: each type that has a codec, a config, a tokenizer, a toc", whole, version=2)
    yield by_toc(
        "toc-first", "the toc is the first blob, the others in another order", [toc_blob(), *BLOBS[::-1], CONFIG]
    )
    others = [(b"other", b"x"), *BLOBS, (b"Fc_final_norm", bytes(16)), toc_blob(), (b"Fscales", b"xyz")]
    yield by_toc("toc-others", "blobs that the toc doesn't name, some of them like those of old files", others)
    newer = [word for i, one in enumerate(TOC) for word in one.words(newer=NEWER[:i])]
    yield by_toc("toc-newer", "records with words that nobody knows yet", [*BLOBS, (b"toc", word_bytes(newer))])
    said = "numbers that follow from others are not compared"
    odd = [replace(one, element_bytes=77, num_elements=0) for one in TOC]
    yield by_toc("toc-odd-numbers", said, [*BLOBS, toc_blob(odd)])
    strides = [replace(one, stride=0) for one in TOC]
    yield by_toc("toc-no-strides", "a stride of 0, as in older files", [*BLOBS, toc_blob(strides)])
    said = "the runtime's other types: of activations and caches, and in blocks whose last one is stored in full"
    yield other_types("toc-types-9-to-13", said, {"u16": 9, "u8": 10, "int8": 11, "q4_0": 12, "mxfp4": 13})
    said = "types that a later runtime may have: a tensor is all of its blob, whatever its size"
    yield other_types("toc-newer-types", said, {"newer": 14, "權重": NEWEST})
    floats = [toc_entry("a", "f32", 2, 3, 0.5)]
    over = indexed(
        "index-over-toc",
        "the name index has the word: neither the toc, which is cut, nor a first letter",
        [(b"a", payload(440, 24)), (b"Fc_final_norm", payload(441, 8)), (b"toc", word_bytes(toc(floats))[:-1])],
        [tensor("a.weight", "a", "f32", (3, 2)), tensor("norm", "Fc_final_norm", "u8", (8,))],
    )
    yield replace(over, kind="catalog_valid", expectations={"catalog": "index"} | over.expectations)
    scales = word_bytes(words_of(*OLD_SCALES))
    yield by_letters("letters", "from before 2025: types are first letters, scales a blob of their own", scales)
    yield by_letters("letters-no-scales", "without scales: all are 1", None)
    yield by_keys("keys", "nothing says what its blobs are; what belongs to the runtime or to a packed file is hidden")
    yield from catalog_invalid()


def catalog_invalid() -> Iterator[Case]:
    """Files that a reader must refuse because of how they describe their tensors."""

    def bad(reason: str, file: str, description: str, blobs: Sequence[Blob]) -> Case:
        data = container(1, blobs, very_old=True)
        return Case(f"{file}.sbs", "catalog_invalid", data, description, reason)

    def with_toc(*entries: TocEntry, place: int | None = None, data: bytes = b"") -> list[Blob]:
        """All tensors, optionally with other bytes for one blob."""
        blobs = [(key, data if i == place else stored) for i, (key, stored) in enumerate(BLOBS)]
        return [*blobs, toc_blob(entries or TOC)]

    reason = "toc-missing-blob"
    strangers = {"": "missing", "-long": "a_key_of_more_than_16_bytes", "-case": "C_embedding", "-index": "~index"}
    for what, name in strangers.items():
        said = f"the toc names {name}, and the file has no such key"
        yield bad(reason, f"toc-missing{what}", said, with_toc(*TOC, replace(TOC[0], name=name)))
    yield bad(reason, "toc-no-name", "a tensor whose name is empty", with_toc(replace(TOC[0], name="")))
    reason = "toc-size"
    for place, (key, kind, *_, stored) in enumerate(TENSORS):
        yield bad(reason, f"toc-{kind}-short", f"{key} has a byte too few", with_toc(place=place, data=stored[:-1]))
        yield bad(reason, f"toc-{kind}-long", f"{key} has a byte too many", with_toc(place=place, data=stored + b"\0"))
    yield bad(reason, "toc-no-elements", "a tensor of 0 rows has a blob", with_toc(replace(TOC[1], rows=0)))
    wraps = replace(TOC[0], type=1, rows=3062868337, cols=3011351133)  # the product is 2**63 + 13
    said = "rows · cols · 4, in 64 bits, is the right 52"
    yield bad(reason, "toc-wraps", said, with_toc(wraps, place=0, data=bytes(52)))
    wraps = replace(TOC[0], rows=641, cols=6700417)  # the product is 2**32 + 1
    said = "rows · cols, in 32 bits, is the right 1"
    yield bad(reason, "toc-wraps-32", said, with_toc(wraps, place=0, data=b"\1"))
    huge = replace(TOC[0], rows=2**32 - 1, cols=2**32 - 1)
    yield bad(reason, "toc-huge", "4294967295 rows of 4294967295 in a small file", with_toc(huge))
    for what, rows in {"no-elements": 0, "huge": 2**32 - 1}.items():
        newer = replace(TOC[1], type=14, rows=rows, cols=2**26)
        yield bad(reason, f"toc-newer-{what}", f"{rows} rows of 2^26 elements of type 14", with_toc(newer))
    reason = "toc-stride"
    said = "the rows of a matrix are 128 elements apart in place of 87: what is between them is among the values"
    yield bad(reason, "toc-stride", said, with_toc(*TOC[:3], replace(TOC[3], stride=128)))
    yield bad(reason, "toc-stride-vector", "a stride of 1 in a vector of 8", with_toc(replace(TOC[1], stride=1)))
    newer = replace(TOC[1], type=14, stride=2**32 - 1)
    yield bad(reason, "toc-stride-newer", "a stride of 4294967295 in a type that is not known", with_toc(newer))
    for number in (0, NEWEST + 1, 2**16 + 1):
        said = f"type {number}, which no tensor of the runtime has"
        yield bad("toc-type", f"toc-type-{number}", said, with_toc(replace(TOC[0], type=number)))
    yield bad("toc-duplicate", "toc-duplicate", "a name twice", with_toc(*TOC, TOC[1]))
    yield bad(
        "fields-number", "toc-scale-nan", "a scale that is no number", with_toc(replace(TOC[0], scale=float("nan")))
    )
    cut = toc_blob()[1]
    yield bad("fields-truncated", "toc-cut", "the toc's last word is missing", [*BLOBS, (b"toc", cut[:-4])])
    for what, place in {"record": 0, "name": 1}.items():
        words = [2**32 - 1 if i == place else word for i, word in enumerate(TOC[0].words())]
        reason = "fields-string" if place else "fields-truncated"
        yield bad(reason, f"toc-{what}-huge", f"a {what} of 4294967295 words", [*BLOBS, (b"toc", word_bytes(words))])
    yield bad("fields-size", "toc-cut-one-byte", "its last byte is", [*BLOBS, (b"toc", cut[:-1])])
    reason = "scales-count"
    scales = word_bytes(words_of(*OLD_SCALES))
    yield bad(reason, "letters-scale-missing", "a scale too few", old_blobs(scales[:-4]))
    yield bad(reason, "letters-scale-more", "a scale too many", old_blobs(scales + scales[:4]))
    yield bad(reason, "letters-scale-cut", "the last scale has three bytes", old_blobs(scales[:-1]))
    for what, number in {"infinite": 0x7F800000, "nan": 0xFFC00000}.items():
        wrong = scales[:-4] + word_bytes([number])
        yield bad("scales-number", f"letters-scale-{what}", f"the last scale is {number:08x}", old_blobs(wrong))
    twice = [*old_blobs(None), (b"Bc_embedding", bytes(8))]
    yield bad("letters-duplicate", "letters-twice", "a tensor under two letters", twice)


# ----------------------------------------------------------------------------------------------------------- tokenizer

LETTERS_OF_THE = ("!", "t", "h", "e", "\u0120", "th", "the", "\u0120the", "<|end|>")
BYTE_LEVEL_ONE = Bpe(BYTE_LEVEL, 0, LETTERS_OF_THE, (1, 2, 5, 3, 4, 6), (8,))
METASPACE_TOKENS = ("<unk>", "<s>", "<0x00>", "<0xFF>", "\u2581", "a", "\u2581a", "權", "\u2581\u2581")
METASPACE_ONE = Bpe(SPACES | BYTE_FALLBACK, 0, METASPACE_TOKENS, (4, 5, 4, 4), (0, 1))


def bpe_cases() -> Iterator[Fact]:
    """Words that a reader must accept."""

    def good(name: str, said: str, one: Bpe, words: Words | None = None) -> Fact:
        stored = words or one.words()
        tokens = [token.encode() if isinstance(token, str) else token for token in one.tokens]
        listed = {"flags": one.flags, "unk_id": one.unk_id, "tokens_hex": [token.hex() for token in tokens]}
        listed |= {"merges": one.merges, "added_ids": one.added_ids}
        if bpe_of(stored) != replace(one, tokens=tuple(tokens)):
            raise ValueError(f"{name}: the record does not say what it was made of")
        return {"name": name, "description": said, "words": hexed(stored), "fields": listed}

    yield good("byte-level", "characters stand for bytes; three merges, and an added token", BYTE_LEVEL_ONE)
    yield good("metaspace", "U+2581 stands for a space, and there are tokens of bytes", METASPACE_ONE)
    yield good("metaspace-no-bytes", "the same without them", Bpe(SPACES, 1, ("a", "<unk>", "\u2581"), (), (1,)))
    yield good("one-token", "a single token, no merge, none added", Bpe(BYTE_LEVEL, 0, ("a",)))
    gaps = Bpe(BYTE_LEVEL, 0, ("", "a", "", "", "b", "ab", "", "<|end|>"), (1, 4), (7,))
    yield good("gaps", "ids without a token are empty texts", gaps)
    lengths = tuple("x" * nbytes for nbytes in (*range(1, 10), 255, 256))
    yield good("lengths", "texts of 1 to 9 bytes, of 255 and 256", Bpe(BYTE_LEVEL, 0, lengths))
    odd = (b"a\0b", b"\0\0\0a", b"abcd\0\0\0a", b"\xff", b"\xe6\xac")
    yield good("odd-bytes", "zeros that are not a whole word, bytes that are not UTF-8", Bpe(BYTE_LEVEL, 0, odd))
    yield good("same", "a text twice; a merge that makes no token", Bpe(SPACES, 0, ("a", "a"), (0, 1)))
    yield good("all-added", "each token is added", replace(METASPACE_ONE, added_ids=tuple(range(9))))
    yield good("newer", "words behind the last field", METASPACE_ONE, METASPACE_ONE.words(newer=NEWER))
    yield good("newer-flag", "a flag of a newer runtime", replace(BYTE_LEVEL_ONE, flags=BYTE_LEVEL | 8))
    short = replace(BYTE_LEVEL_ONE, added_ids=())
    yield good("ends-after-merges", "the record ends before added_ids", short, short.words(end=4))
    shorter = replace(short, merges=())
    yield good("ends-after-tokens", "and before the merges", shorter, shorter.words(end=3))


def bpe_invalid() -> Iterator[Fact]:
    """Words that a reader must refuse."""
    whole = BYTE_LEVEL_ONE.words()
    merges_at = 4 + sum(len(text(token)) for token in BYTE_LEVEL_ONE.tokens)

    def bad(reason: str, name: str, said: str, words: Words) -> Fact:
        return {"name": name, "description": said, "reason": reason, "words": hexed(words)}

    def but(reason: str, name: str, said: str, **changes: Any) -> Fact:  # noqa: ANN401 (fields, each of its own type)
        return bad(reason, name, said, replace(BYTE_LEVEL_ONE, **changes).words())

    yield from fields_size(whole)
    yield bad("fields-truncated", "cut", "the last word is missing", whole[:-1])
    yield bad("fields-truncated", "count-huge", "the record says 4294967295 words", changed(whole, 0, 2**32 - 1))
    yield bad("fields-truncated", "in-text", "the record ends inside a token", record([BYTE_LEVEL, 0, 1, 2, 97]))
    yield bad("fields-truncated", "in-tokens", "tokens of several words: the last one is missing",
              record([BYTE_LEVEL, 0, 2, *text("abcdefgh")]))  # fmt: skip
    yield bad("fields-string", "text-65-words", "a token of 65 words", record([4, 0, 1, *text("x" * 260), 0, 0]))
    yield bad("fields-string", "text-huge", "a token of 4294967295 words", changed(whole, 4, 2**32 - 1))
    for name, words in {"only": [1, 0], "first": [2, 0, 97], "last": [2, 97, 0]}.items():
        said = f"a word of zeros in a token: {name}"
        yield bad("fields-string", f"text-zeros-{name}", said, record([4, 0, 1, *words, 0, 0]))
    for name, place in {"tokens": 3, "merges": merges_at, "added": len(whole) - 2}.items():
        left = len(whole) - place - 1
        said = f"{name}: a word more elements than there are words"
        yield bad("fields-vector", f"vector-{name}", said, changed(whole, place, left + 1))
        yield bad("fields-vector", f"vector-{name}-huge", "4294967295 elements", changed(whole, place, 2**32 - 1))
    yield bad("bpe-size", "word-behind", "a word behind the record", [*whole, 0])
    yield bad("bpe-size", "twice", "the record twice", [*whole, *whole])
    yield but("bpe-tokens", "no-tokens", "no tokens", tokens=(), merges=(), added_ids=())
    yield bad("bpe-tokens", "no-fields", "a record without fields", [0])
    yield but("bpe-flags", "flags-6", "byte-level, and U+2581 for spaces", flags=BYTE_LEVEL | SPACES)
    for number in (9, 2**32 - 1):
        yield but("bpe-unknown", f"unknown-{number}", f"token {number} of 9 is the unknown one", unk_id=number)
        yield but("bpe-merges", f"merge-{number}", f"a merge has token {number} of 9", merges=(1, 2, 5, number))
        yield but("bpe-added", f"added-{number}", f"token {number} of 9 is added", added_ids=(8, number))
    yield but("bpe-merges", "merges-odd", "the last merge has one token", merges=(1, 2, 5))
    yield but("bpe-added", "added-twice", "a token is added twice", added_ids=(7, 7, 8))
    yield but("bpe-added", "added-descending", "added tokens in descending order", added_ids=(8, 7))


# --------------------------------------------------------------------------------------------------------- gemma.json


def gemma_vectors() -> dict[str, list[Fact]]:
    """The lists of gemma.json."""
    return {
        "gemma_cpp": list(gemma_configs()),
        "written": configs_written(),
        "transcribed": configs_transcribed(),
        "config_valid": list(config_cases()),
        "config_invalid": list(config_invalid()),
        "toc_valid": list(toc_cases()),
        "toc_invalid": list(toc_invalid()),
        "bpe_valid": list(bpe_cases()),
        "bpe_invalid": list(bpe_invalid()),
    }
