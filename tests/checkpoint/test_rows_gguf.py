"""GGUF, as people have it: what is taken, what is told, what is refused, each with its exact note or error."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore.errors import BlobStoreError, CheckpointError, MissingExtraError, UsageError
from tests.checkpoints import LFS_POINTER, write_peer
from tests.gemma_checkpoints import Recipe, Size
from tests.gguf_files import blocks, quantised, raw_gguf, tensor, write_gemma, write_gguf

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.conversion import ConversionPreview
    from blobstore.gemma import ModelConfig
    from tests.gguf_files import Tensors

ONE = np.ones((2, 32), np.float32)
GEMMA3 = Recipe("gemma3", tokenizer=None)
NOT_CONVERTED = "not converted of the GGUF metadata"
LOSSY = (
    "3 tensors are quantised (1 q4_0, 2 q8_0): their decoded values are converted, which are not the original"
    " checkpoint's"
)
VISION = "the vision part of a model, for llama.cpp: only the text model is converted"
HF_NAMES = (
    "names and values are those of Hugging Face's checkpoints, where norms are stored without the 1 that GGUF adds;"
    " config.json is made of the metadata"
)


@pytest.fixture(autouse=True)
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def preview(path: str | Path, **options: Any) -> ConversionPreview:  # noqa: ANN401 (preview_conversion's)
    return blobstore.preview_conversion(path, **options)


def refused(path: str | Path, **options: Any) -> str:  # noqa: ANN401 (preview_conversion's)
    """Return why a path isn't converted; check and the command line say the same."""
    with pytest.raises(BlobStoreError) as caught:
        preview(path, **options)
    assert str(caught.value) == str(caught.value).strip()
    findings = [finding for finding in blobstore.check(path).findings if finding.severity == "error"]
    if not isinstance(caught.value, CheckpointError) or not caught.value.faults:
        assert [(one.code, one.message) for one in findings] == [(caught.value.reason, caught.value.message)]
    return str(caught.value)


def config_of(path: str | Path, **options: Any) -> ModelConfig:  # noqa: ANN401 (convert's)
    blobstore.convert(path, "config.sbs", **options)
    with blobstore.open("config.sbs") as store:
        assert store.config is not None
        return store.config


def test_what_is_lossy_and_what_is_not_converted_is_told(tmp_path: Path) -> None:
    metadata = {
        "general.name": "a small one",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "quantize.imatrix.file": "imatrix.dat",
        "llama.context_length": 32,
        "small": [1, 2],
        "tokenizer.ggml.tokens": ["a"] * 100,
        "tokenizer.chat_template": "x" * 70_000,
    }
    tensors: Tensors = {"a": quantised(ONE, "q8_0"), "b": quantised(ONE, "q8_0"), "c": quantised(ONE, "q4_0"), "d": ONE}
    told = preview(write_gguf(tmp_path / "m.gguf", tensors, metadata))
    assert told.notes == (
        LOSSY,
        f"{NOT_CONVERTED}: tokenizer.ggml.tokens, tokenizer.chat_template",
    )
    assert told.metadata == {
        "general.architecture": "llama",
        "general.name": "a small one",
        "llama.context_length": "32",
        "small": "[1, 2]",
    }
    assert [(one.name, one.type) for one in told.tensors] == [("a", "f32"), ("b", "f32"), ("c", "f32"), ("d", "f32")]


def test_a_type_that_the_package_can_not_decode_is_refused_by_name(tmp_path: Path) -> None:
    tensors: Tensors = {f"t{i}": blocks("q8_1", 1, 32) for i in range(10)} | {"ok": ONE}
    told = refused(write_gguf(tmp_path / "m.gguf", tensors))
    assert told.startswith("no-decoder: ")
    assert "the package gguf can't decode 't0' (q8_1), 't1' (q8_1)" in told
    assert told.endswith("and 2 more: update it, or convert the original checkpoint")


def test_without_the_package_only_quantised_tensors_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = write_gguf(tmp_path / "plain.gguf", {"a": ONE})
    quantised_ = write_gguf(tmp_path / "q.gguf", {"a": quantised(ONE, "q8_0")})
    for name in [name for name in sys.modules if name.split(".")[0] == "gguf"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert [one.name for one in preview(plain).tensors] == ["a"]
    with pytest.raises(MissingExtraError, match=r"has quantised tensors \(q8_0\), which the package gguf decodes: pip"):
        preview(quantised_)


@pytest.mark.parametrize("given", ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf", "."])
def test_all_parts_of_a_split_model_are_read(tmp_path: Path, given: str) -> None:
    write_parts(tmp_path)
    told = preview(given)
    assert [one.name for one in told.tensors] == ["a", "b", "c"]
    assert [os.path.basename(path) for path in told.read] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert told.metadata == {"general.architecture": "llama", "general.name": "whole"}


def write_parts(folder: Path, total: int = 3) -> None:
    for number, name in enumerate("abc"):
        metadata = {"general.name": "whole"} if number == 0 else {}
        path = folder / f"m-0000{number + 1}-of-00003.gguf"
        write_gguf(path, {name: ONE * number}, metadata, split=(number, 3, total))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    write_parts(tmp_path)
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    told = refused("m-00001-of-00003.gguf")
    assert told == (
        "missing-shard: 'm-00001-of-00003.gguf': it is one of 3 parts, and the folder lacks"
        " m-00002-of-00003.gguf: download the rest"
    )
    (tmp_path / "m-00002-of-00003.gguf").symlink_to("gone")
    assert refused("m-00001-of-00003.gguf") == told


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_parts(tmp_path)
    shutil.copy("m-00001-of-00003.gguf", "m-00002-of-00003.gguf")
    assert refused("m-00001-of-00003.gguf").startswith(
        "bad-shard: 'm-00002-of-00003.gguf': it says that it is part 1 of 3"
    )
    write_parts(tmp_path, total=7)
    assert refused(".").startswith(
        f"bad-shard: {os.path.join('.', 'm-00001-of-00003.gguf')!r}: it says that the model has 7 tensors, and its 3"
    )


def test_a_part_under_another_name_is_refused(tmp_path: Path) -> None:
    write_parts(tmp_path)
    os.rename("m-00001-of-00003.gguf", "first.gguf")
    assert refused("first.gguf").startswith("bad-shard: 'first.gguf': it says that it is part 1 of 3: give the parts")


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    for number in (0, 1):
        write_gguf(tmp_path / f"m-0000{number + 1}-of-00002.gguf", {"a": ONE}, split=(number, 2, 2))
    assert "duplicate-tensor: 'a' is in" in refused("m-00001-of-00002.gguf")


def test_of_several_models_in_a_folder_one_has_to_be_passed(tmp_path: Path) -> None:
    for name in ("m-Q8_0.gguf", "m-F16.gguf"):
        write_gguf(tmp_path / name, {"a": ONE})
    assert refused(".") == "no-checkpoint: '.' has several GGUF models, m-F16.gguf, m-Q8_0.gguf: pass one file"


def test_safetensors_beside_a_model_are_the_checkpoint(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", {"a": ONE})
    write_peer(tmp_path / "model.safetensors", {"b": ONE})
    assert [one.name for one in preview(".").tensors] == ["b"]
    assert [one.name for one in preview("m.gguf").tensors] == ["a"]


@pytest.mark.parametrize("given", [".", "m.gguf"])
def test_a_vision_part_beside_the_model_is_left_out(tmp_path: Path, given: str) -> None:
    write_gguf(tmp_path / "m.gguf", {"a": ONE})
    write_gguf(tmp_path / "mmproj-model-f16.gguf", {"v.blk.0.ln1.weight": ONE}, architecture="clip")
    told = preview(given)
    assert [one.name for one in told.tensors] == ["a"]
    assert [(one.name, one.kind, one.why) for one in told.left_out] == [("mmproj-model-f16.gguf", "file", VISION)]
    assert len(told.notes) == 1
    assert "mmproj-model-f16.gguf" in told.notes[0]


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_a_gemma_is_for_gemma_cpp_under_hugging_faces_names(tmp_path: Path, family: str) -> None:
    recipe = Recipe(family, tokenizer=None)
    source = write_gemma(tmp_path / "m.gguf", recipe)
    told = preview(source)
    assert told.notes[:2] == (f"{NOT_CONVERTED}: tokenizer.ggml.tokens", HF_NAMES)
    assert told.wrapping == "pt"
    assert {part.name for part in told.parts} | {"lm_head.weight"} >= {
        name for name in recipe.shapes() if "k_proj" not in name and "v_proj" not in name
    }
    assert {one.name for one in preview(source, as_="names").tensors} == set(recipe.shapes())


def test_a_gemma_that_gemma_cpp_does_not_run_is_named_and_kept_by_name(tmp_path: Path) -> None:
    messages = dict.fromkeys(("gemma", "gemma3n", "gemma-embedding"), "which gemma.cpp doesn't run")
    messages["gemma4"] = "this is a GGUF file of 'gemma4', with names that are not known here: convert its Hugging Face"
    for architecture, message in messages.items():
        source = write_gguf(tmp_path / "m.gguf", {"token_embd.weight": ONE}, architecture=architecture)
        assert message in refused(source)
        assert [one.name for one in preview(source, as_="names").tensors] == ["token_embd.weight"]


def test_other_models_keep_their_names_and_bytes(tmp_path: Path) -> None:
    source = write_gguf(
        tmp_path / "m.gguf", {"token_embd.weight": ONE, "blk.0.attn_q.weight": ONE, "output_norm.weight": ONE[0]}
    )
    blobstore.convert(source, "m.sbs")
    with blobstore.open("m.sbs") as store:
        assert set(store) == {"token_embd.weight", "blk.0.attn_q.weight", "output_norm.weight"}
        np.testing.assert_array_equal(store["output_norm.weight"], ONE[0])


def test_a_chat_template_in_the_metadata_is_one(tmp_path: Path) -> None:
    source = write_gemma(tmp_path / "m.gguf", GEMMA3, metadata={"tokenizer.chat_template": "{{ bos_token }}"})
    assert preview(source).wrapping == "it"
    assert "wrapping it: the checkpoint has a chat template" in preview(source).notes


def test_the_config_is_what_the_metadata_says(tmp_path: Path) -> None:
    recipe = Recipe("gemma2", tokenizer=None, size=replace(Size(), layers=4))
    metadata = {
        "gemma2.attn_logit_softcapping": 40.0,
        "gemma2.final_logit_softcapping": 20.0,
        "gemma2.context_length": 1000,
        "gemma2.attention.sliding_window": 100,
        "tokenizer.ggml.eos_token_id": 5,
        "tokenizer.ggml.eot_token_id": 7,
    }
    config = config_of(write_gemma(tmp_path / "m.gguf", recipe, metadata=metadata))
    assert (config.att_cap, config.final_cap, config.max_seq_len) == (40, 20, 1000)
    assert config.attention_window_sizes == (100, 1000, 100, 1000)
    assert (config.eos_id, config.secondary_eos_id) == (5, 7)


def test_windows_of_a_gemma_3_follow_the_metadata(tmp_path: Path) -> None:
    def windows(**own: Any) -> tuple[int, ...]:  # noqa: ANN401 (metadata)
        recipe = replace(GEMMA3, size=replace(Size(), layers=7))
        metadata = {"gemma3." + key.replace("__", "."): value for key, value in own.items()}
        return config_of(write_gemma(tmp_path / "m.gguf", recipe, metadata=metadata)).attention_window_sizes

    local, whole = 512, 32768
    assert windows() == (*[local] * 5, whole, local)
    assert windows(attention__sliding_window_pattern=2) == (local, whole, local, whole, local, whole, local)
    assert windows(attention__sliding_window_pattern=[True, False, *[True] * 5]) == (local, whole, *[local] * 5)
    assert windows(attention__sliding_window=None) == (whole,) * 7


def test_rope_of_a_gemma_3_follows_the_metadata(tmp_path: Path) -> None:
    def config(**own: Any) -> ModelConfig:  # noqa: ANN401 (metadata)
        metadata = {"gemma3.rope." + key.replace("__", "."): value for key, value in own.items()}
        return config_of(write_gemma(tmp_path / "m.gguf", GEMMA3, metadata=metadata))

    assert config().use_global_timescale
    assert not config(freq_base=1e4).use_global_timescale
    assert config(freq_base=2e6, freq_base_swa=2e4).global_rope_theta == 2e6
    metadata = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    notes = preview(write_gemma(tmp_path / "m.gguf", GEMMA3, metadata=metadata)).notes
    assert any(note.startswith("rope_scaling divides positions by 8") for note in notes)
    metadata = {"gemma3.rope.scaling.type": "yarn", "gemma3.rope.scaling.factor": 8.0}
    assert "rope_scaling: config.json says 'yarn'" in refused(
        write_gemma(tmp_path / "m.gguf", GEMMA3, metadata=metadata)
    )


@pytest.mark.parametrize(("family", "layers", "scale"), [("gemma2", 2, 0), ("gemma2", 46, 1), ("gemma3", 62, 1)])
def test_queries_are_scaled_as_llama_cpp_does(tmp_path: Path, family: str, layers: int, scale: int) -> None:
    size = replace(Size(), layers=layers, width=32, heads=4, kv_heads=2, head=4)
    config = config_of(write_gemma(tmp_path / "m.gguf", Recipe(family, tokenizer=None, size=size)))
    assert config.query_scale == scale


def test_metadata_of_another_model_is_refused(tmp_path: Path) -> None:
    metadata = {"gemma3.embedding_length": 24, "gemma3.attention.head_count": "four"}
    told = refused(write_gemma(tmp_path / "m.gguf", GEMMA3, metadata=metadata))
    assert "config-disagrees: hidden_size: config.json says 24, the tensors say 20" in told
    assert "config-disagrees: num_attention_heads: config.json says 'four'" in told


def test_a_model_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    tensors = {"token_embd.weight": ONE}
    told = refused(write_gguf(tmp_path / "m.gguf", tensors, architecture="gemma3"))
    assert told.startswith("cannot-convert: missing-tensor: model.layers.0.mlp.gate_proj.weight")


def test_a_name_of_both_kinds_is_refused(tmp_path: Path) -> None:
    tensors = {"token_embd.weight": ONE, "model.embed_tokens.weight": ONE}
    told = refused(write_gguf(tmp_path / "m.gguf", tensors, architecture="gemma3"))
    assert told.startswith("duplicate-tensor: 'model.embed_tokens.weight' is in")


@pytest.mark.parametrize("name", ["m.gguf", "sha256-0123"])
def test_a_gguf_file_is_known_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    write_gguf(tmp_path / name, {"a": ONE})
    assert [one.name for one in preview(name).tensors] == ["a"]
    assert blobstore.check(name).ok


WRONG = {
    "a Git LFS pointer": (LFS_POINTER, "this is not a GGUF file, but a Git LFS"),
    "a web page": (b"<!doctype html>", "this is not a GGUF file, but a web page"),
    "empty": (b"", "the file ends at 0"),
    "no tensors": (raw_gguf(), "no-tensors"),
    "truncated": (raw_gguf(tensors=[tensor("a", [8])], data=bytes(16)), "truncated download?"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_only_has_the_name_is_refused(tmp_path: Path, what: str) -> None:
    raw, told = WRONG[what]
    (tmp_path / "m.gguf").write_bytes(raw)
    assert told in refused("m.gguf")


def test_a_gguf_file_that_is_named_safetensors_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.safetensors", {"a": ONE})
    told = refused("m.safetensors")
    assert told.startswith("not-safetensors: ")
    assert "is a GGUF file: name it .gguf, and blobstore convert reads it" in told


def test_the_source_is_not_replaced(tmp_path: Path) -> None:
    write_parts(tmp_path)
    for part in ("m-00001-of-00003.gguf", "m-00003-of-00003.gguf"):
        with pytest.raises(UsageError, match="same-file"):
            blobstore.convert("m-00001-of-00003.gguf", part)
