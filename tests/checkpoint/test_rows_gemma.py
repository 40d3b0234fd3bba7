"""Names, vocabularies, config.json and values of checkpoints as people have them: what is done with each, and said."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore import cli
from blobstore.checking.runtime import unpadded
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.checkpoint.wrappers import unwrap
from blobstore.converting.choices import LAYOUTS, WEIGHTS, Choices
from blobstore.errors import CheckpointError
from tests.adapters import pair, write_adapter
from tests.checkpoints import SINGLE, own, write_config, write_index, write_own, write_peer
from tests.gemma_checkpoints import (
    NEW,
    OLD,
    SOUND,
    Recipe,
    Size,
    convert,
    plan_of,
    small_recipe,
    sound_recipe,
    tokenizer,
)
from tests.models import FAMILIES, VISION, tiny

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from blobstore.checking.findings import Finding
    from blobstore.checkpoint.tensors import SourceTensor
    from tests.gemma_checkpoints import Array, Config

NORM = "model.norm.weight"
LAYER = "model.layers.0."


def refused(folder: Path, **options: Any) -> str:  # noqa: ANN401 (convert's)
    """Convert, which has to be refused, and return the message. Nothing is written."""
    with pytest.raises(CheckpointError) as caught:
        blobstore.convert(folder, folder.parent / "refused.sbs", **options)
    assert not (folder.parent / "refused.sbs").exists()
    return caught.value.message


def told(folder: Path, code: str, **options: Any) -> str:  # noqa: ANN401 (check's)
    """Check a checkpoint, and return the message of the one finding that has a code; `convert` says it, too."""
    (message,) = (found.message for found in blobstore.check(folder, **options).findings if found.code == code)
    assert message in "\n".join(blobstore.convert(folder, folder.parent / "told.sbs", **options).notes)
    return message


def with_rows(recipe: Recipe, rows: int, *, pieces: int | None = None, **config: object) -> tuple[Recipe, Config]:
    """Return a text-only recipe with an embedding of so many rows, and its config.json."""
    new = replace(recipe, size=replace(recipe.size, vocabulary=rows), tokenizer=tokenizer(pieces or rows))
    return new, new.config() | config


def renamed(tensors: Mapping[str, Array], before: str, after: str) -> dict[str, Array]:
    return {name.replace(before, after, 1): array for name, array in tensors.items()}


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("prefix", "tools"),
    [
        ("_orig_mod.", ["torch.compile"]),
        ("module.", ["DataParallel or DeepSpeed"]),
        ("base_model.model.", ["peft"]),
        ("_fsdp_wrapped_module.", ["FSDP"]),
        ("_checkpoint_wrapped_module.", ["activation checkpointing"]),
        ("module._orig_mod.", ["torch.compile", "DataParallel or DeepSpeed"]),
        ("_orig_mod.module.", ["torch.compile", "DataParallel or DeepSpeed"]),
    ],
)
@pytest.mark.parametrize("kind", ["auto", "names"])
def test_a_prefix_of_every_name_is_taken_off_and_told(
    tmp_path: Path, prefix: str, tools: list[str], kind: blobstore.conversion.ConversionKind
) -> None:
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    folder = recipe.write(tmp_path / "c", {f"{prefix}{name}": array for name, array in tensors.items()})
    done = blobstore.convert(folder, tmp_path / "out.sbs", as_=kind)
    part = prefix.removeprefix("module.").removesuffix("module.") if len(tools) > 1 else prefix
    parts = [part, "module."][: len(tools)]
    lines = [f"{one!r} is taken off all {len(tensors)} names of tensors: {tool} had put it there"
             for one, tool in zip(parts, tools, strict=True)]  # fmt: skip
    assert [line for line in done.notes if "taken off" in line] == lines
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert {*store} == {*tensors, "lm_head.weight"}


def test_wrappers_inside_names_are_taken_off(tmp_path: Path) -> None:
    recipe = small_recipe("gemma2")
    inside = renamed(recipe.tensors(), "layers.0.", "layers.0._checkpoint_wrapped_module.")
    folder = recipe.write(tmp_path / "c", inside)
    count = sum(name.startswith(LAYER) for name in recipe.tensors())
    assert told(folder, "wrapped-names") == (
        f"'_checkpoint_wrapped_module.' is taken off {count} of {len(inside)} names of tensors: "
        "activation checkpointing had put it there"
    )


def test_a_tied_head_that_only_the_index_lists_loses_its_prefix_too(tmp_path: Path) -> None:
    tensors = {f"module.{name}": np.ones((2, 2), np.float32) for name in ("model.embed_tokens.weight", "model.w")}
    write_peer(tmp_path / "model-00001-of-00001.safetensors", tensors)
    write_index(tmp_path, dict.fromkeys([*tensors, "module.lm_head.weight"], "model-00001-of-00001.safetensors"))
    write_config(tmp_path, {"model_type": "llama", "tie_word_embeddings": True})
    done = blobstore.convert(tmp_path, tmp_path / "out.sbs")
    assert [(alias.name, alias.target) for alias in done.aliases] == [("lm_head.weight", "model.embed_tokens.weight")]


def test_a_file_that_is_left_out_is_a_finding(tmp_path: Path) -> None:
    folder = small_recipe("gemma2").write(tmp_path / "c")
    (folder / "optimizer.pt").write_bytes(b"x")
    (found,) = (found for found in blobstore.check(folder).findings if found.code == "file-left-out")
    (item,) = (item for item in blobstore.preview_conversion(folder).left_out if item.kind == "file")
    assert (found.subject, found.message) == (item.name, item.why)
    assert item.name == "optimizer.pt"


def test_a_prefix_that_not_all_names_have_is_a_name_of_the_model() -> None:
    names = ["module.a", "module.b", "head.c"]
    assert not unwrap(names).names
    assert not unwrap(["module."]).names


def test_an_adapter_keeps_its_names(tmp_path: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    write_peer(tmp_path / SINGLE, {name: np.ones((2, 3), np.float32)})
    with open_checkpoint(tmp_path) as checkpoint:
        assert {*checkpoint.tensors} == {name}
        assert not checkpoint.told


def test_names_that_become_one_are_refused(tmp_path: Path) -> None:
    write_peer(tmp_path / SINGLE, {name: np.ones(2, np.float32) for name in ("a._orig_mod.b", "a.b")})
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    what = "'a._orig_mod.b' and 'a.b' are both 'a.b' without the names of wrappers: rename one"
    assert (caught.value.reason, caught.value.message) == ("name-clash", what)


@given(st.lists(st.lists(st.sampled_from(["_orig_mod", "module", "_fsdp_wrapped_module", "a", "b"]), min_size=1)))
def test_unwrapping_is_complete_and_loses_no_name(parts: list[list[str]]) -> None:
    names = list(dict.fromkeys(".".join([*part, "weight"]) for part in parts))
    try:
        new = unwrap(names).names
    except CheckpointError:
        return  # two are the same name
    after = [new.get(name, name) for name in names]
    assert len({*after}) == len(names)
    assert not unwrap(after).names
    assert all(not {"_orig_mod", "_fsdp_wrapped_module"} & {*name.split(".")} for name in after)


@pytest.mark.parametrize("family", VISION)
def test_flat_names_of_the_vision_part_are_taken(tmp_path: Path, family: str) -> None:
    flat = ("model.language_model.", "model.vision_tower.", "model.multi_modal_projector.")
    plan = plan_of(small_recipe(family, prefixes=flat).write(tmp_path / "c"), Choices())
    assert plan.config is not None
    assert len(plan.config.vit_config.layer_configs) == 2
    assert not plan.left_out


@pytest.mark.parametrize("vision", ["vision_tower.vision_model.", "model.vision_tower."])
def test_the_unused_head_of_the_vision_part_is_left_out(tmp_path: Path, vision: str) -> None:
    recipe = small_recipe("paligemma2", prefixes=("model.language_model.", vision, "model.multi_modal_projector."))
    heads = {f"{vision}head.{name}": np.ones(3, np.float32) for name in ("probe", "mlp.fc1.weight")}
    folder = recipe.write(tmp_path / "c", recipe.tensors() | heads)
    done = blobstore.convert(folder, tmp_path / "out.sbs")
    assert [(item.name, item.kind) for item in done.left_out if item.kind == "tensor"] == [(n, "tensor") for n in heads]
    line = f"left out 2 tensors {', '.join(map(repr, heads))}: the vision part's own head, which no Gemma uses"
    assert line in done.notes
    found = [found for found in blobstore.check(folder).findings if found.code == "tensor-left-out"]
    assert [found.subject for found in found] == [*heads]


def test_buffers_are_left_out_with_the_reason(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    name = f"{LAYER}self_attn.rotary_emb_local.inv_freq"
    folder = recipe.write(tmp_path / "c", recipe.tensors() | {name: np.ones(2, np.float32)})
    done = blobstore.convert(folder, tmp_path / "out.sbs")
    assert f"left out the tensor {name!r}: gemma.cpp computes RoPE's frequencies itself" in done.notes


@pytest.mark.parametrize("family", VISION)
@pytest.mark.parametrize("prefixes", [OLD, NEW])
def test_without_its_vision_part_a_model_is_the_text_model(
    tmp_path: Path, family: str, prefixes: tuple[str, str, str]
) -> None:
    recipe = small_recipe(family, prefixes=prefixes)
    text = {name: array for name, array in recipe.tensors().items() if name.startswith(prefixes[0])}
    folder = recipe.write(tmp_path / "c", text)
    message = "config.json has a vision part, but no tensor is of one: the text model is converted"
    assert told(folder, "no-vision") == message
    with blobstore.open(tmp_path / "told.sbs") as store:
        assert store.config is not None
        assert not store.config.vit_config.layer_configs
        assert {*text} < {*store}


def test_a_text_model_with_the_prefix_of_a_vision_model_is_taken(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3", prefixes=("language_model.model.", "", ""))
    done = blobstore.convert(recipe.write(tmp_path / "c"), tmp_path / "out.sbs")
    assert [alias.name for alias in done.aliases] == ["language_model.lm_head.weight"]


@pytest.mark.parametrize(
    ("family", "prefixes"),
    [
        ("gemma2", ("", "", "")),
        ("gemma3", ("", "", "")),
        ("gemma3vlm", ("language_model.", "vision_tower.", "multi_modal_projector.")),
        ("paligemma2", ("language_model.", "vision_tower.", "multi_modal_projector.")),
    ],
)
def test_models_saved_without_a_head_are_taken(tmp_path: Path, family: str, prefixes: tuple[str, str, str]) -> None:
    recipe = small_recipe(family, prefixes=prefixes)
    folder = recipe.write(tmp_path / "c")
    plan = convert(folder, tmp_path / "out.sbs")
    usual = convert(small_recipe(family).write(tmp_path / "usual"), tmp_path / "usual.sbs")
    assert plan.config == usual.config
    with (
        blobstore.open(tmp_path / "out.sbs", by="keys") as ours,
        blobstore.open(tmp_path / "usual.sbs", by="keys") as its,
    ):
        assert all(np.array_equal(ours[key], its[key]) for key in its)
    assert blobstore.verify(tmp_path / "out.sbs", against=folder).ok


def test_an_untied_head_is_refused_with_the_fix(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    tensors = recipe.tensors()
    folder = recipe.write(tmp_path / "c", tensors | {"lm_head.weight": tensors[recipe.embedding] * 2})
    message = refused(folder)
    assert "untied-head: lm_head.weight: it differs from 'model.embed_tokens.weight'" in message
    assert "this model can't run there; --as names keeps every tensor" in message
    assert blobstore.convert(folder, tmp_path / "names.sbs", as_="names").names == len(tensors) + 1


# ---------------------------------------------------------------------------------------------------------- vocabulary


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weights", [weights for weights in WEIGHTS if weights != "q4_0"])  # too few columns
@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_is_padded_and_comes_back(tmp_path: Path, family: str, weights: str, layout: str) -> None:
    rows = 97
    recipe = small_recipe(family, size=Size(vocabulary=rows), tokenizer=tokenizer(rows))
    folder = recipe.write(tmp_path / "c")
    path = tmp_path / "out.sbs"
    plan = convert(folder, path, Choices(weights, layout))
    line = "vocabulary padded from 97 to 128 rows with copies of row 0, <pad>: gemma.cpp needs a multiple of 32"
    assert [item.message for item in plan.told if item.code == "padded-vocabulary"] == [line]
    with blobstore.open(path) as store, blobstore.open(path, by="keys") as keys:
        assert store.config is not None
        assert store.config.vocab_size == 128
        assert json.loads(store.metadata["blobstore.convert"])["vocabulary"] == rows
        embedding = keys["c_embedding"]
        assert embedding.shape == (128, 20)
        source = store[recipe.embedding]
        assert source.shape == (rows + 64 * recipe.vision, 20)
        assert np.array_equal(embedding[:rows], source[:rows])
        if weights != "i8":  # whose groups don't end with rows
            assert np.array_equal(embedding[rows:], np.repeat(embedding[:1], 31, axis=0))
    verified = blobstore.verify(path, against=folder)
    assert verified.ok
    assert not [found for found in blobstore.check(path).findings if found.code in ("vocabulary", "tokenizer-size")]


def test_a_padded_file_that_is_changed_is_still_known_as_padded(tmp_path: Path) -> None:
    recipe = small_recipe("gemma2", size=replace(SOUND, vocabulary=33), tokenizer=tokenizer(33))
    blobstore.convert(recipe.write(tmp_path / "c"), tmp_path / "out.sbs")
    blobstore.rewrite(tmp_path / "out.sbs", tmp_path / "less.sbs", drop=["pre_att_ns_0"])
    assert {found.code for found in blobstore.check(tmp_path / "less.sbs").findings if found.severity != "note"} == {
        "missing-tensor"
    }
    with pytest.raises(blobstore.UsageError, match="was changed after it was converted"):
        blobstore.verify(tmp_path / "less.sbs", against=tmp_path / "c")


@pytest.mark.parametrize("said", ['{"vocabulary": 1}', '{"vocabulary": 99}', '{"vocabulary": true}', "[]", "no JSON"])
def test_a_size_that_no_padding_explains_is_not_believed(said: str) -> None:
    config = replace(tiny("gemma2"), vocab_size=64)
    assert unpadded({"blobstore.convert": said}, config) is None
    assert unpadded({"blobstore.convert": '{"vocabulary": 33}'}, config) == 33


def test_padding_is_undone_by_export(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3", size=Size(vocabulary=33), tokenizer=tokenizer(33))
    folder = recipe.write(tmp_path / "c")
    blobstore.convert(folder, tmp_path / "out.sbs", weights="bf16")
    blobstore.export(tmp_path / "out.sbs", tmp_path / "back")
    with open_checkpoint(folder) as before, open_checkpoint(tmp_path / "back") as after:
        assert {*before.tensors} == {*after.tensors}
        assert all(tensor.same_bytes(after.tensors[name]) for name, tensor in before.tensors.items())


def test_without_padding_it_is_refused(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3", size=Size(vocabulary=33), tokenizer=tokenizer(33))
    folder = recipe.write(tmp_path / "c")
    assert refused(folder, pad=False) == (
        "vocabulary: embed_tokens.weight: a vocabulary of 33 is not a multiple of 32: gemma.cpp stops on machines with "
        "AVX-512, with top_k 1; pad the embedding, or leave out --no-pad; --as names keeps every tensor"
    )
    with pytest.raises(blobstore.UsageError, match="--no-pad"):
        blobstore.convert(folder, tmp_path / "out.sbs", as_="names", pad=False)


PAD_PIECES = b"\x0a\x09\x0a\x05<unk>\x18\x02\x0a\x09\x0a\x05<pad>\x18\x03" + b"\x0a\x03\x0a\x01x" * 31


@pytest.mark.parametrize(
    ("config", "generation", "pieces", "row"),
    [
        ({}, {}, None, 0),
        ({"pad_token_id": 3}, {}, None, 3),
        ({"pad_token_id": 3}, {"pad_token_id": 4}, None, 4),
        ({"pad_token_id": 33}, {}, None, 0),  # outside
        ({"pad_token_id": -1}, {}, None, 0),
        ({"pad_token_id": 1, "eos_token_id": 1}, {}, None, 0),  # a copy of a stop token would be sampled for it
        ({"pad_token_id": 3}, {"eos_token_id": [1, 3]}, None, 0),
        ({"pad_token_id": 3}, {}, PAD_PIECES, 1),
    ],
)
def test_the_row_that_is_copied_is_that_of_pad(
    tmp_path: Path, config: Config, generation: Config, pieces: bytes | None, row: int
) -> None:
    recipe = small_recipe("gemma2", size=Size(vocabulary=33), tokenizer=pieces)
    folder = recipe.write(tmp_path / "c", None, recipe.config() | config)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    plan = convert(folder, tmp_path / "out.sbs", Choices("f32"))
    line = f"vocabulary padded from 33 to 64 rows with copies of row {row}, <pad>: gemma.cpp needs a multiple of 32"
    assert line in plan.lines
    with blobstore.open(tmp_path / "out.sbs", by="keys") as keys:
        embedding = keys["c_embedding"]
        assert all(np.array_equal(padding, embedding[row]) for padding in embedding[33:])


@pytest.mark.parametrize("rows", [31, 32, 33, 64])
def test_fewer_pieces_than_rows_are_told(tmp_path: Path, rows: int) -> None:
    recipe = small_recipe("gemma2", size=replace(SOUND, vocabulary=rows), tokenizer=tokenizer(30))
    folder = recipe.write(tmp_path / "c")
    (found,) = (found for found in blobstore.check(folder).findings if found.code == "tokenizer-size")
    assert found.severity == "warning"
    whose = "the vocabulary without its padding" if rows % 32 else "the config's vocabulary"
    assert found.message == f"it has 30 pieces, but {whose} has {rows}"
    assert found.effect == "gemma.cpp stops when it samples a token that has no piece"
    done = blobstore.convert(folder, tmp_path / "out.sbs")
    assert f"tokenizer-size: tokenizer: {found.message}: {found.effect}" in done.notes
    assert "tokenizer-size" in refused(folder, strict=True)
    (again,) = (found for found in blobstore.check(tmp_path / "out.sbs").findings if found.code == "tokenizer-size")
    assert again.message == found.message


@pytest.mark.parametrize(
    ("pieces", "image", "spare_and_why"),
    [
        (96, None, (64, "the tokenizer has no pieces for them")),
        (97, 96, (64, "the tokenizer has no pieces for them")),  # the token that stands for an image needs no row
        (97, None, (0, "the tokenizer has 97 pieces")),
        (160, 96, (0, "the tokenizer has 160 pieces")),
        (None, 96, (64, "exporters append that many to a vocabulary of 96")),
        (None, None, (0, "without a tokenizer nothing says that the last 64 are spare")),
    ],
)
@pytest.mark.parametrize("family", VISION)
def test_rows_are_spare_only_if_the_tokenizer_has_no_pieces_for_them(
    tmp_path: Path, family: str, pieces: int | None, image: int | None, spare_and_why: tuple[int, str]
) -> None:
    spare, why = spare_and_why
    recipe = small_recipe(family, tokenizer=tokenizer(pieces) if pieces else None)
    folder = recipe.write(tmp_path / "c", None, recipe.config() | {"image_token_index": image})
    plan = convert(folder, tmp_path / "out.sbs")
    (line,) = (item.message for item in plan.told if item.code == "spare-rows")
    which = "the last 64 of the embedding's 160 rows are kept outside the vocabulary"
    assert line == (f"{which}: {why}" if spare else f"all 160 rows of the embedding are the vocabulary: {why}")
    assert plan.config is not None
    assert plan.config.vocab_size == 160 - spare
    with blobstore.open(tmp_path / "out.sbs") as store:
        assert store[recipe.embedding].shape == (160, 20)
    assert blobstore.verify(tmp_path / "out.sbs", against=folder).ok


@pytest.mark.parametrize("family", VISION)
def test_an_embedding_resized_to_the_tokenizer_keeps_its_last_rows(tmp_path: Path, family: str) -> None:
    """As transformers' resize_token_embeddings(len(tokenizer)) leaves it: 96 tokens, that of images, and one more."""
    recipe = small_recipe(family, tokenizer=tokenizer(98))
    tensors = recipe.tensors()
    tensors[recipe.embedding] = tensors[recipe.embedding][:98]
    config = recipe.config()
    config["text_config"]["vocab_size"] = 98
    plan = plan_of(recipe.write(tmp_path / "c", tensors, config), Choices())
    assert plan.tensors[0].shape == (128, 20)
    assert [item.message for item in plan.told] == [
        "all 98 rows of the embedding are the vocabulary: the tokenizer has 98 pieces",
        "vocabulary padded from 98 to 128 rows with copies of row 0, <pad>: gemma.cpp needs a multiple of 32",
    ]


# --------------------------------------------------------------------------------------------------------- config.json


def written(folder: Path) -> Any:  # noqa: ANN401 (a ModelConfig, whose fields the tests name)
    return plan_of(folder, Choices()).config


def test_stop_tokens_are_the_checkpoints_own(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    folder = recipe.write(tmp_path / "c", None, recipe.config() | {"eos_token_id": [9, 8, 7]})
    assert (written(folder).eos_id, written(folder).secondary_eos_id) == (9, 8)
    line = "config.json names 3 stop tokens, a file holds two: 9 and 8 are written, 7 left out"
    assert line in blobstore.convert(folder, tmp_path / "out.sbs").notes
    folder = recipe.write(tmp_path / "many", None, recipe.config() | {"eos_token_id": [*range(9999)]})
    assert max(map(len, blobstore.preview_conversion(folder).notes)) < 200


def test_caps_windows_and_positions_are_written(tmp_path: Path) -> None:
    recipe = small_recipe("gemma2")
    config = recipe.config() | {
        "attn_logit_softcapping": None,
        "final_logit_softcapping": 12.0,
        "sliding_window": 64,
        "layer_types": ["full_attention", "sliding_attention"],
        "max_position_embeddings": 1024,
    }
    made = written(recipe.write(tmp_path / "c", None, config))
    assert (made.att_cap, made.final_cap, made.max_seq_len) == (0.0, 12.0, 1024)
    assert made.attention_window_sizes == (1024, 64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "unsupported-config: rope_scaling: config.json says 'yarn'; no gemma.cpp scales positions this way: ",
        ),
        (
            {"hidden_activation": "silu"},
            (
                "unsupported-config: hidden_activation: config.json says 'silu', "
                "every gemma.cpp computes with gelu_pytorch_tanh: "
            ),
        ),
        (
            {"use_bidirectional_attention": True},
            (
                "unsupported-model: use_bidirectional_attention: config.json says True, as EmbeddingGemma's does: "
                "no gemma.cpp has bidirectional attention for text; "
            ),
        ),
    ],
)  # fmt: skip
def test_what_no_runtime_computes_is_refused_with_a_way_out(tmp_path: Path, values: Config, message: str) -> None:
    recipe = small_recipe("gemma3")
    folder = recipe.write(tmp_path / "c", None, recipe.config() | values)
    assert refused(folder) == f"{message}--as names keeps every tensor"


def test_a_linear_scaling_is_told(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    config = recipe.config() | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    done = blobstore.convert(recipe.write(tmp_path / "c", None, config), tmp_path / "out.sbs")
    line = (
        "rope_scaling divides positions by 8; no gemma.cpp does, not even for its own files: long prompts lose quality"
    )
    assert line in done.notes


def test_another_base_is_written_for_the_runtimes_that_read_it(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3", size=SOUND, tokenizer=tokenizer(96))
    folder = recipe.write(tmp_path / "c", None, recipe.config() | {"rope_theta": 5e5})
    assert written(folder).global_rope_theta == 5e5
    done = blobstore.convert(folder, tmp_path / "out.sbs")
    assert done.runs_in == ("latest",)
    assert "the file runs correctly in gemma.cpp latest; not in 2025-10 (ignored-fields) and 2026-04 (ignored-fields)" in done.notes  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    ("config", "called"),
    [
        ({"model_type": "gemma"}, "Gemma 1, or another model of its architecture ('gemma')"),
        ({"model_type": "gemma3n"}, "Gemma 3n ('gemma3n')"),
        ({"model_type": "recurrent_gemma"}, "RecurrentGemma ('recurrent_gemma')"),
        ({"model_type": "shieldgemma2"}, "ShieldGemma 2 ('shieldgemma2')"),
        ({"model_type": "t5gemma2"}, "T5Gemma 2 ('t5gemma2')"),
    ],
)
def test_a_model_that_no_runtime_runs_is_named_with_the_way_out(tmp_path: Path, config: Config, called: str) -> None:
    folder = small_recipe("gemma2").write(tmp_path / "c", None, config)
    what = f"this is {called}, which gemma.cpp doesn't run: --as names keeps every tensor"
    assert refused(folder) == f"unsupported-model: model_type: {what}"
    (found,) = blobstore.check(folder).findings
    assert (found.code, found.message) == ("unsupported-model", what)
    assert blobstore.convert(folder, tmp_path / "out.sbs", as_="names").model is None


def test_embeddinggemma_is_named(tmp_path: Path) -> None:
    """Its names have no prefix, and its config.json no other mark."""
    recipe = small_recipe("gemma3", prefixes=("", "", ""))
    folder = recipe.write(tmp_path / "c", None, recipe.config() | {"use_bidirectional_attention": True})
    assert refused(folder) == (
        "unsupported-model: use_bidirectional_attention: config.json says True, as EmbeddingGemma's does: no gemma.cpp "
        "has bidirectional attention for text; --as names keeps every tensor"
    )


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (replace(SOUND, side=32), "1024 patches, pooled by 4: Gemma 3's are 4096, by 4"),
        (replace(SOUND, side=64, patch=7), "it is 7, but gemma.cpp cuts images into patches of 14"),
    ],
)
def test_images_whose_size_corrupts_the_runtimes_memory_are_refused(tmp_path: Path, size: Size, message: str) -> None:
    recipe = small_recipe("gemma3vlm", size=size, tokenizer=tokenizer(96))
    folder = recipe.write(tmp_path / "c")
    said = refused(folder)
    assert f"{message}; given an image, gemma.cpp corrupts memory: --as names keeps every tensor" in said
    checkup = blobstore.check(folder)
    assert not checkup.ok
    assert any((found.severity, found.message) == ("error", message) for found in checkup.findings)
    assert blobstore.convert(folder, tmp_path / "out.sbs", as_="names").model is None


def test_strict_refuses_an_image_part_that_gemma_cpp_has_no_sizes_for(tmp_path: Path) -> None:
    """Without it, a PaliGemma like that is converted, and the note says what images do."""
    recipe = small_recipe("paligemma2", size=replace(SOUND, patch=7), tokenizer=tokenizer(96))
    folder = recipe.write(tmp_path / "c")
    message = "it is 7, but gemma.cpp cuts images into patches of 14"
    assert f"vision-config: config.vit_config.patch_width: {message}" in refused(folder, strict=True)
    assert any(message in note for note in blobstore.convert(folder, tmp_path / "out.sbs").notes)


def test_images_that_are_pooled_otherwise_are_refused(tmp_path: Path) -> None:
    recipe = sound_recipe("gemma3vlm")
    folder = recipe.write(tmp_path / "c", None, recipe.config() | {"mm_tokens_per_image": 64})
    assert refused(folder) == (
        "unsupported-config: mm_tokens_per_image: config.json says 64, the runtime makes 256 tokens of 4096 patches; "
        "--as names keeps every tensor"
    )


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize(("name", "weights"), [(NORM, "sfp"), (NORM, "bf16"), (f"{LAYER}mlp.up_proj.weight", "bf16")])
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_a_value_that_is_not_finite_is_named(tmp_path: Path, name: str, weights: str, value: float, dtype: str) -> None:
    code = "not-a-number" if np.isnan(value) else "infinite"
    recipe = small_recipe("gemma3", size=SOUND, tokenizer=tokenizer(96), dtype=dtype)
    tensors = recipe.tensors()
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[[7, 9]] = value
    index = [7] if name == NORM else [0, 7]
    folder = recipe.write(tmp_path / "c", tensors)
    assert told(folder, code, weights=weights) == f"it has {value} at index {index}"
    assert f"{code}: {name}: it has {value} at index {index}" in refused(folder, weights=weights, strict=True)
    assert blobstore.check(folder, weights=weights).ok
    assert not blobstore.check(folder, weights=weights, strict=True).ok


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weights", ["bf16", "f32"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_an_adapter_makes_not_finite_is_named(
    tmp_path: Path, weights: str, layout: str, value: float
) -> None:
    """Of merged tensors values are looked at as they are written; strictly before anything is."""
    recipe = small_recipe("gemma3", size=SOUND, tokenizer=tokenizer(96))
    tensors = recipe.tensors()
    tensors[f"{LAYER}mlp.up_proj.weight"] = tensors[f"{LAYER}mlp.up_proj.weight"].copy()
    tensors[f"{LAYER}mlp.up_proj.weight"][3, 4] = value
    folder = recipe.write(tmp_path / "c", tensors)
    out, width = tensors[f"{LAYER}mlp.up_proj.weight"].shape
    factors = [pair(f"{LAYER}mlp.{name}", out, width) for name in ("gate_proj", "up_proj")]
    lora = write_adapter(tmp_path / "lora", factors[0] | factors[1], r=2)
    code = "not-a-number" if np.isnan(value) else "infinite"
    what = f"{code}: {LAYER}mlp.up_proj.weight: it has {value} at index [3, 4]"
    done = blobstore.convert(folder, tmp_path / "out.sbs", weights=weights, layout=layout, adapters=lora)
    (note,) = (note for note in done.notes if note.startswith(("not-a-number", "infinite")))
    assert note.startswith(what)
    assert what in refused(folder, weights=weights, layout=layout, adapters=lora, strict=True)
    found = blobstore.check(folder, weights=weights, adapters=lora).findings
    assert [one.subject for one in found if one.code == code] == [f"{LAYER}mlp.up_proj.weight"]


@pytest.mark.parametrize("weights", ["bf16", "sfp"])
def test_what_an_adapter_changes_is_not_made_only_to_be_looked_at(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe("gemma3", size=SOUND, tokenizer=tokenizer(96))
    tensors = recipe.tensors()
    out, width = tensors[f"{LAYER}mlp.up_proj.weight"].shape
    lora = write_adapter(tmp_path / "lora", pair(f"{LAYER}mlp.up_proj", out, width), r=2)
    looked_at: list[str] = []

    def check_values(sources: Iterable[SourceTensor]) -> list[Finding]:
        looked_at.extend(source.name for source in sources)
        return []

    monkeypatch.setattr("blobstore.conversion.check_values", check_values)
    blobstore.convert(recipe.write(tmp_path / "c", tensors), tmp_path / "out.sbs", weights=weights, adapters=lora)
    assert NORM in looked_at
    assert f"{LAYER}mlp.up_proj.weight" not in looked_at


def test_the_command_refuses_with_the_status_of_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small_recipe("gemma2", size=replace(SOUND, vocabulary=33), tokenizer=tokenizer(30))
    folder = str(recipe.write(tmp_path / "c"))
    out = str(tmp_path / "out.sbs")
    for flag, code in (("--no-pad", "vocabulary"), ("--strict", "tokenizer-size")):
        assert cli.main(["convert", folder, "-o", out, flag]) == 1
        assert f"cannot-convert: {code}: " in capsys.readouterr().err
        assert cli.main(["convert", folder, "--dry-run", flag]) == 1
        capsys.readouterr()
    assert not (tmp_path / "out.sbs").exists()
    assert cli.main(["convert", folder, "-o", out, "--json"]) == 0
    line = "vocabulary padded from 33 to 64 rows with copies of row 0, <pad>: gemma.cpp needs a multiple of 32"
    assert line in json.loads(capsys.readouterr().out)["notes"]


def test_a_right_checkpoint_is_right_strictly(tmp_path: Path) -> None:
    recipe = small_recipe("gemma2", size=SOUND, tokenizer=tokenizer(96))
    done = blobstore.convert(recipe.write(tmp_path / "c"), tmp_path / "out.sbs", strict=True)
    assert done.runs_in == ("2025-10", "2026-04", "latest")


# --------------------------------------------------------------------------------------------------------- other kinds

OTHER: dict[str, tuple[Config, dict[str, Array]]] = {
    "fp8": ({"quantization_config": {"quant_method": "fp8"}}, {
        f"{LAYER}self_attn.q_proj.weight": np.ones((4, 4), ml_dtypes.float8_e4m3fn),
        f"{LAYER}self_attn.q_proj.weight_scale_inv": np.ones((1, 1), np.float32),
    }),
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, {
        f"{LAYER}self_attn.q_proj.qweight": np.ones((4, 4), np.int32),
        f"{LAYER}self_attn.q_proj.g_idx": np.arange(4, dtype=np.int32),
        f"{LAYER}self_attn.q_proj.scales": np.ones((1, 4), np.float16),
    }),
    "awq": ({"quantization_config": {"quant_method": "awq", "bits": 4}}, {
        f"{LAYER}self_attn.q_proj.qweight": np.ones((4, 4), np.int32),
        f"{LAYER}self_attn.q_proj.qzeros": np.ones((1, 4), np.int32),
    }),
    "bitsandbytes": ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, {
        f"{LAYER}self_attn.q_proj.weight": np.ones((8, 1), np.uint8),
        f"{LAYER}self_attn.q_proj.weight.absmax": np.ones(2, np.float32),
        f"{LAYER}self_attn.q_proj.weight.quant_state.bitsandbytes__nf4": np.ones(9, np.uint8),
    }),
    "mlx": ({"quantization": {"group_size": 64, "bits": 4}}, {
        f"{LAYER}self_attn.q_proj.weight": np.ones((4, 2), np.uint32),
        f"{LAYER}self_attn.q_proj.scales": np.ones((4, 1), ml_dtypes.bfloat16),
        f"{LAYER}self_attn.q_proj.biases": np.ones((4, 1), ml_dtypes.bfloat16),
    }),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER)
def test_quantised_weights_are_kept_by_name_as_they_are(tmp_path: Path, kind: str) -> None:
    config, tensors = OTHER[kind]
    write_own(tmp_path / SINGLE, own(tensors))
    write_config(tmp_path, {"model_type": "llama"} | config)
    blobstore.convert(tmp_path, tmp_path / "out.sbs")
    with open_checkpoint(tmp_path) as checkpoint, blobstore.open(tmp_path / "out.sbs") as store:
        assert {*store} == {*tensors}
        for name, tensor in checkpoint.tensors.items():
            assert (store.info(name).type, store.info(name).shape) == (tensor.type, tensor.shape)
            assert np.array_equal(store[name].view(np.uint8), tensors[name].view(np.uint8))


@pytest.mark.parametrize("kind", OTHER)
def test_a_quantised_gemma_is_refused_with_the_way_out(tmp_path: Path, kind: str) -> None:
    config, more = OTHER[kind]
    recipe = small_recipe("gemma3")
    tensors = {name: array for name, array in recipe.tensors().items() if "layers.0.self_attn.q_proj" not in name}
    folder = recipe.write(tmp_path / "c", tensors | more, recipe.config() | config)
    said = refused(folder)
    assert "quantised" in said or "stored as u32" in said
    assert said.endswith("--as names keeps every tensor")
    assert blobstore.convert(folder, tmp_path / "out.sbs", as_="names").tensors == len(tensors) + len(more)


# ----------------------------------------------------------------------------------------------------- nothing is lost

EXTRAS = [
    "lm_head.weight",
    "model.extra.weight",
    f"{LAYER}self_attn.rotary_emb.inv_freq",
    f"{LAYER}self_attn.q_proj.bias",
    f"{LAYER}self_attn.q_proj.lora_A.weight",
    "model.layers.7.mlp.up_proj.weight",
    "vision_tower.vision_model.head.probe",
    "model.vision_tower.head.probe",
    "vision_tower.vision_model.embeddings.position_ids",
    "multi_modal_projector.linear.weight",
    "module.model.norm.weight",
    "_orig_mod.x",
    "head.weight",
]


@given(
    family=st.sampled_from([*FAMILIES]),
    extra=st.dictionaries(
        st.sampled_from(EXTRAS) | st.text("abn._", min_size=1, max_size=9),
        st.sampled_from([(3,), (160, 20), (96, 20), (24, 20), ()]),
        max_size=3,
    ),
    without=st.none() | st.integers(0, 60),
    dtype=st.sampled_from([ml_dtypes.bfloat16, np.float32, np.int64]),
)
def test_every_tensor_is_used_or_left_out_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    family: str,
    extra: dict[str, tuple[int, ...]],
    without: int | None,
    dtype: Any,  # noqa: ANN401 (numpy's)
) -> None:
    recipe = small_recipe(family)
    tensors = recipe.tensors() | {name: np.ones(shape, dtype) for name, shape in extra.items()}
    if without is not None:
        tensors.pop([*tensors][without % len(tensors)])
    folder = recipe.write(tmp_path_factory.mktemp("c"), tensors)
    fault = ""
    try:
        plan = plan_of(folder, Choices())
    except CheckpointError as error:
        fault = str(error)
    if fault:
        assert "--as names" in fault or fault.startswith("name-clash")
        return
    unwrapped = unwrap(tensors).names
    names = {unwrapped.get(name, name) for name in tensors}
    used = {piece.source for tensor in [*plan.tensors, *plan.extras] for piece in tensor.pieces}
    used |= {alias.name for alias in plan.aliases}
    left_out = {item.name for item in plan.left_out}
    assert not used & left_out
    assert names <= used | left_out
    by_name = plan_of(folder, Choices(), "names")
    assert names <= {tensor.name for tensor in by_name.tensors} | {alias.name for alias in by_name.aliases}
