"""Plans by name: what becomes of every tensor, tied weights, and what is refused before anything is written."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore import key_for
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.cli import main
from blobstore.converting import plan as module
from blobstore.converting.plan import PlannedAlias, plan_by_name
from blobstore.errors import CheckpointError
from tests.checkpoints import (
    EMBEDDING,
    HEAD,
    SINGLE,
    own,
    small,
    tensor_maps,
    write_config,
    write_own,
    write_peer,
    write_shards,
)
from tests.tensor_strategies import metadata_maps

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.converting.plan import Plan
    from tests.checkpoints import Array, Tensors

# How exporters name the embedding, and the head that goes with it.
EMBEDDINGS = {
    "model.embed_tokens.weight": "lm_head.weight",
    "embed_tokens.weight": "lm_head.weight",
    "model.decoder.embed_tokens.weight": "lm_head.weight",
    "language_model.model.embed_tokens.weight": "language_model.lm_head.weight",
    "model.language_model.embed_tokens.weight": "lm_head.weight",
}
TIED: list[dict[str, Any]] = [
    {"tie_word_embeddings": True},
    {"text_config": {"tie_word_embeddings": True}},
    {"tie_word_embeddings": True, "text_config": {"hidden_size": 4}},
]
NOT_TIED: list[dict[str, Any] | None] = [
    None,
    {},
    {"tie_word_embeddings": False},
    {"tie_word_embeddings": None},
    {"tie_word_embeddings": "true"},
    {"tie_word_embeddings": 1},
    {"text_config": None},
    {"text_config": {"tie_word_embeddings": False}},
    {"text_config": ["tie_word_embeddings"]},
    {"vision_config": {"tie_word_embeddings": True}},
]
WEIGHTS = np.arange(6, dtype=np.int16).reshape(2, 3)


def plan_of(
    folder: Path, tensors: Tensors, config: dict[str, Any] | None = None, metadata: dict[str, str] | None = None
) -> Plan:
    write_peer(folder / SINGLE, tensors, metadata)
    if config is not None:
        write_config(folder, config)
    with open_checkpoint(folder) as checkpoint:
        return plan_by_name(checkpoint)


def refused(folder: Path) -> CheckpointError:
    with open_checkpoint(folder) as checkpoint, pytest.raises(CheckpointError) as caught:
        plan_by_name(checkpoint)
    return caught.value


@given(tensor_maps, metadata_maps)
def test_every_tensor_is_planned_once_as_it_is(tmp_path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    plan = plan_of(tmp_path, tensors, metadata=metadata)
    planned = {tensor.name: (tensor.key, tensor.type.dtype, tensor.shape, tensor.nbytes) for tensor in plan.tensors}
    assert len(planned) == len(plan.tensors)
    assert planned == {
        name: (key_for(name) if array.nbytes else "", array.dtype, array.shape, array.nbytes)
        for name, array in tensors.items()
    }
    assert plan.nbytes == sum(array.nbytes for array in tensors.values())
    assert plan.metadata == metadata


def test_tensors_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    write_shards(tmp_path, [small("z", "m"), small("a")])
    with open_checkpoint(tmp_path) as checkpoint:
        plan = plan_by_name(checkpoint)
        sources = [checkpoint.tensors[tensor.name] for tensor in plan.tensors]
        places = [(source.path, source.stored.offset) for source in sources if source.stored]
    assert places == sorted(places)
    assert [tensor.name for tensor in plan.tensors][-1] == "a"


@pytest.mark.parametrize("config", TIED, ids=repr)
@pytest.mark.parametrize(("embedding", "head"), EMBEDDINGS.items())
def test_a_head_that_the_config_ties_and_the_checkpoint_leaves_out_gets_its_name(
    tmp_path: Path, embedding: str, head: str, config: dict[str, Any]
) -> None:
    plan = plan_of(tmp_path, {embedding: WEIGHTS, "model.norm.weight": WEIGHTS[0]}, config)
    ((alias),) = plan.aliases
    assert (alias.name, alias.target) == (head, embedding)
    assert "config.json" in alias.why
    assert {tensor.name for tensor in plan.tensors} == {embedding, "model.norm.weight"}


@pytest.mark.parametrize("config", NOT_TIED, ids=repr)
def test_without_a_config_that_ties_there_is_no_alias(tmp_path: Path, config: dict[str, Any] | None) -> None:
    assert plan_of(tmp_path, {EMBEDDING: WEIGHTS}, config).aliases == []


@pytest.mark.parametrize("config", [None, TIED[0], NOT_TIED[2]], ids=repr)
@pytest.mark.parametrize(("embedding", "head"), EMBEDDINGS.items())
def test_a_head_with_the_same_bytes_is_stored_once(
    tmp_path: Path, embedding: str, head: str, config: dict[str, Any] | None
) -> None:
    plan = plan_of(tmp_path, {embedding: WEIGHTS, head: WEIGHTS.copy()}, config)
    assert plan.aliases == [PlannedAlias(head, embedding, "it has the same bytes")]
    assert [tensor.name for tensor in plan.tensors] == [embedding]
    assert plan.nbytes == WEIGHTS.nbytes


def test_a_head_with_the_same_bytes_is_found_in_another_shard(tmp_path: Path) -> None:
    large = np.arange(5 << 20, dtype=np.uint32)  # compared in more than one chunk
    write_shards(tmp_path, [{HEAD: large}, {EMBEDDING: large}])
    with open_checkpoint(tmp_path) as checkpoint:
        assert [alias.name for alias in plan_by_name(checkpoint).aliases] == [HEAD]


@pytest.mark.parametrize("config", [None, TIED[0]], ids=repr)
@pytest.mark.parametrize(
    "head",
    [
        np.array([[0, 1, 2], [3, 4, 256 + 5]], dtype=np.int16),
        WEIGHTS.view(np.uint16),
        WEIGHTS.reshape(3, 2),
        WEIGHTS[:1],
    ],
    ids=["one-byte", "dtype", "shape", "shorter"],
)
def test_a_head_that_differs_is_a_tensor_of_its_own(tmp_path: Path, head: Array, config: dict[str, Any] | None) -> None:
    plan = plan_of(tmp_path, {EMBEDDING: WEIGHTS, HEAD: head}, config)
    assert plan.aliases == []
    assert {tensor.name for tensor in plan.tensors} == {EMBEDDING, HEAD}


@pytest.mark.parametrize(
    "name", ["my_embed_tokens.weight", "encoder.embed_tokens.weight", "xmodel.embed_tokens.weight", "embed_tokens.bias"]
)
def test_what_is_not_named_as_an_embedding_is_tied_to_nothing(tmp_path: Path, name: str) -> None:
    assert plan_of(tmp_path, {name: WEIGHTS}, TIED[0]).aliases == []


def test_an_embedding_without_elements_is_tied_to_nothing(tmp_path: Path) -> None:
    tensors = {EMBEDDING: np.zeros((0, 3), dtype=np.float32)} | small("a")
    assert plan_of(tmp_path, tensors, TIED[0]).aliases == []


def test_two_embeddings_give_the_head_once(tmp_path: Path) -> None:
    tensors = {EMBEDDING: WEIGHTS, "model.decoder.embed_tokens.weight": WEIGHTS + 1}
    plan = plan_of(tmp_path, tensors, TIED[0])
    assert [(alias.name, alias.target) for alias in plan.aliases] == [(HEAD, plan.tensors[0].name)]


def test_notes_of_the_checkpoint_are_in_the_plan(tmp_path: Path) -> None:
    index = write_shards(tmp_path, [small("a", "stray")])
    listed = json.loads(index.read_text())
    del listed["weight_map"]["stray"]
    index.write_text(json.dumps(listed))
    with open_checkpoint(tmp_path) as checkpoint:
        assert any("'stray'" in note for note in plan_by_name(checkpoint).lines)


def test_a_file_of_more_tensors_than_old_runtimes_take_says_who_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensor = own({"": np.zeros(1, dtype=np.uint8)})[""]
    write_own(tmp_path / SINGLE, {f"t.{i}": tensor for i in range(16_384)})
    done = blobstore.convert(tmp_path, tmp_path / "m.sbs")
    (note,) = (note for note in done.notes if "16385 blobs" in note)
    assert note in blobstore.preview_conversion(tmp_path).notes
    assert "0d8948f" in note
    assert "2025-10, 2026-04 take at most 16384" in note
    assert main(["info", "--json", str(tmp_path / "m.sbs")]) == 0
    assert json.loads(capsys.readouterr().out)["readers"] == note
    with blobstore.open(tmp_path / "m.sbs") as store:
        assert len(store) == 16_384
        assert store["t.16383"].tolist() == [0]
    assert blobstore.verify(tmp_path / "m.sbs", against=tmp_path).ok
    assert note in blobstore.rewrite(tmp_path / "m.sbs", tmp_path / "n.sbs", container=1).notes
    assert blobstore.verify(tmp_path / "n.sbs").ok


def test_tensors_without_elements_do_not_count(tmp_path: Path) -> None:
    byte, empty = own({"a": np.zeros(1, dtype=np.uint8), "b": np.zeros(0, dtype=np.uint8)}).values()
    write_own(tmp_path / SINGLE, {f"t.{i}": byte for i in range(16_382)} | {f"e.{i}": empty for i in range(50)})
    with open_checkpoint(tmp_path) as checkpoint:
        assert len(plan_by_name(checkpoint).tensors) == 16_432


BAD = {
    "": "at least one character",
    "x" * 4097: "4097 bytes",
    "é" * 2049: "4098 bytes",
    "a\0b": "NUL",
}


@pytest.mark.parametrize("elements", [1, 0], ids=["with-elements", "without"])
@pytest.mark.parametrize("name", BAD, ids=lambda name: ascii(name[:8]))
def test_a_bad_name_is_found_before_anything_is_written(tmp_path: Path, name: str, elements: int) -> None:
    write_own(tmp_path / SINGLE, own({"fine": np.zeros(1), name: np.zeros(elements)}))
    error = refused(tmp_path)
    assert error.reason == "bad-tensors"
    assert BAD[name] in error.message
    assert "fine" not in error.message


def test_too_many_dimensions_are_found_before_anything_is_written(tmp_path: Path) -> None:
    write_own(tmp_path / SINGLE, own({"deep": np.zeros((1,) * 33), "deepest": np.zeros((0,) * 40)}))
    error = refused(tmp_path)
    assert error.reason == "bad-tensors"
    assert "'deep' has 33 dimensions" in error.message
    assert "'deepest' has 40 dimensions" in error.message


def test_two_names_with_one_key_are_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No two names are known whose keys collide: a key has 75 bits of SHA-256.
    monkeypatch.setattr(module, "keys_for", lambda names: ["~aaaaaaaaaaaaaaa"] * len(names))
    write_own(tmp_path / SINGLE, own({"one": np.zeros(1), "empty": np.zeros(0), "other": np.zeros(1)}))
    error = refused(tmp_path)
    assert error.reason == "bad-tensors"
    assert "'one'" in error.message
    assert "'other'" in error.message
    assert "'empty'" not in error.message


def test_everything_that_is_wrong_is_reported_at_once(tmp_path: Path) -> None:
    stored = own({"fine": np.zeros(1), "deep": np.zeros((1,) * 33)} | {name: np.zeros(1) for name in BAD})
    write_own(tmp_path / SINGLE, stored)
    error = refused(tmp_path)
    assert error.reason == "bad-tensors"
    for text in ("'deep'", *BAD.values()):
        assert text in error.message


def test_of_many_wrong_tensors_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    deep = own({"": np.zeros((1,) * 33)})[""]
    write_own(tmp_path / SINGLE, {f"deep.{i}": deep for i in range(100)})
    error = refused(tmp_path)
    assert "'deep.7'" in error.message
    assert "92 more" in error.message


@pytest.mark.parametrize("tensors", [{}, {"empty": np.zeros((0, 2))}], ids=["none", "without-elements"])
def test_a_checkpoint_without_bytes_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    write_own(tmp_path / SINGLE, own(tensors))
    error = refused(tmp_path)
    assert error.reason == "no-tensors"
    assert str(tmp_path) in error.message


@given(tensor_maps, metadata_maps, st.booleans())
def test_a_plan_as_json_has_everything(tmp_path: Path, tensors: Tensors, metadata: dict[str, str], tied: bool) -> None:
    plan = plan_of(tmp_path, {**tensors, EMBEDDING: WEIGHTS}, {"tie_word_embeddings": tied}, metadata)
    preview = blobstore.preview_conversion(tmp_path, as_="names")
    shown = json.loads(json.dumps(asdict(preview)))
    assert shown["tensors"] == [
        {
            "name": t.name,
            "key": t.key,
            "type": str(t.type),
            "shape": list(t.shape),
            "nbytes": t.nbytes,
            "sources": [t.name],
        }
        for t in plan.tensors
    ]
    aliases = [{"name": alias.name, "target": alias.target, "why": alias.why} for alias in plan.aliases]
    assert shown["aliases"] == aliases
    assert (shown["metadata"], shown["notes"], shown["nbytes"]) == (plan.metadata, plan.notes, plan.nbytes)
