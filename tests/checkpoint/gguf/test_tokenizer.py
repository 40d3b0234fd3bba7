"""The tokenizer in a GGUF file becomes the SentencePiece model that it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore.checkpoint.gguf.file import open_gguf
from blobstore.checkpoint.gguf.tokenizer import LISTS, read_pieces
from blobstore.gemma.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, check_pieces, pieces_of
from tests.adapters import write_adapter
from tests.gemma_checkpoints import TOKENIZER, Recipe, Size
from tests.gguf_files import write_gemma, write_gguf
from tests.tokenizer.test_bpe import byte_level
from tests.tokenizer_files import dumped

if TYPE_CHECKING:
    from pathlib import Path

# As llama.cpp's converter writes them: text, score, type; and what SentencePiece has.
PIECES: list[tuple[tuple[str, float, int], tuple[str, float, int]]] = [
    (("<pad>", -1000.0, CONTROL), ("<pad>", 0.0, CONTROL)),
    (("<eos>", -1000.0, CONTROL), ("<eos>", 0.0, CONTROL)),
    (("<bos>", -1000.0, CONTROL), ("<bos>", 0.0, CONTROL)),
    (("<unk>", -1000.0, CONTROL), ("<unk>", 0.0, UNKNOWN)),
    (("<start_of_turn>", -1000.0, CONTROL), ("<start_of_turn>", 0.0, USER_DEFINED)),
    (("<end_of_turn>", -1000.0, CONTROL), ("<end_of_turn>", 0.0, USER_DEFINED)),
    (("  ", -1000.0, USER_DEFINED), ("▁▁", 0.0, USER_DEFINED)),
    ((" a", -1000.0, USER_DEFINED), (" a", 0.0, USER_DEFINED)),  # as a piece has the other text
    (("▁a", -1.5, NORMAL), ("▁a", -1.5, NORMAL)),
    (("b", -2.0, NORMAL), ("b", -2.0, NORMAL)),
    *(((f"<0x{value:02X}>", 0.0, BYTE),) * 2 for value in range(256)),
]


def lists(pieces: list[tuple[str, float, int]]) -> dict[str, Any]:
    return {"tokenizer.ggml.model": "llama"} | {
        key: list(values) for key, values in zip(LISTS, zip(*pieces, strict=True), strict=True)
    }


def made(rows: int) -> list[tuple[str, float, int]]:
    given = [before for before, _ in PIECES]
    return [*given, *((f"p{i}", -float(i), NORMAL) for i in range(len(given), rows))]


def test_pieces_are_what_the_converter_has_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {}, lists([before for before, _ in PIECES]))
    with open_gguf(path) as file:
        pieces = read_pieces(file)
    assert pieces == [(text.encode(), score, kind) for _, (text, score, kind) in PIECES]


def test_a_gemma_gets_its_own_tokenizer(tmp_path: Path) -> None:
    recipe = Recipe("gemma3", tokenizer=None, size=Size(vocabulary=288))
    metadata = lists(made(288)) | {"tokenizer.ggml.eos_token_id": 5}
    source = write_gemma(tmp_path / "m.gguf", recipe, metadata=metadata)
    done = blobstore.convert(source, tmp_path / "m.sbs")
    assert "tokenizer: a SentencePiece model is made from the GGUF file: 288 pieces" in done.notes
    assert not any("tokenizer.ggml.tokens" in note for note in done.notes)
    with blobstore.open(tmp_path / "m.sbs") as store:
        assert store.tokenizer is not None
        assert check_pieces(store.tokenizer).faults == ()
        texts = [text for text, _ in pieces_of(store.tokenizer)]
        assert texts[: len(PIECES)] == [text.encode() for _, (text, _, _) in PIECES]
    assert blobstore.verify(tmp_path / "m.sbs", against=source).ok
    assert any("tokenizer.ggml.tokens" in note for note in blobstore.preview_conversion(source, as_="names").notes)


def test_a_tokenizer_beside_the_file_comes_first(tmp_path: Path) -> None:
    recipe = Recipe("gemma3", tokenizer=None)
    source = write_gemma(tmp_path / "m.gguf", recipe, metadata=lists(made(266)))
    (tmp_path / "tokenizer.model").write_bytes(TOKENIZER)
    blobstore.convert(source, tmp_path / "m.sbs")
    with blobstore.open(tmp_path / "m.sbs") as store:
        assert store.tokenizer == TOKENIZER


def test_tokens_of_an_adapter_are_added_to_it(tmp_path: Path) -> None:
    recipe = Recipe("gemma3", tokenizer=None)
    recipe = Recipe("gemma3", tokenizer=None, size=type(recipe.size)(vocabulary=288))
    source = write_gemma(tmp_path / "m.gguf", recipe, metadata=lists(made(288)))
    name = "model.embed_tokens.weight"
    write_adapter(tmp_path / "lora", {name: np.ones((289, recipe.tensors()[name].shape[1]), np.float32)})
    (tmp_path / "lora" / "added_tokens.json").write_text('{"<tool>": 288}')
    done = blobstore.convert(source, tmp_path / "m.sbs", adapters=tmp_path / "lora")
    assert "tokenizer: 1 piece added from added_tokens.json: 288 '<tool>'" in done.notes
    with blobstore.open(tmp_path / "m.sbs") as store:
        assert store.tokenizer is not None
        assert [*pieces_of(store.tokenizer)][288] == (b"<tool>", USER_DEFINED)


ONE = lists([("a", 0.0, NORMAL)])
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "of another kind": ({"tokenizer.ggml.model": "gpt2"}, "tokenizer.ggml.model is 'gpt2', and only 'llama' is"),
    "none": ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model is None"),
    "without scores": ({LISTS[1]: None}, "it lacks one of tokenizer.ggml.tokens, tokenizer.ggml.scores"),
    "scores in arrays": ({LISTS[1]: [[0.0]]}, "it lacks one of tokenizer.ggml.tokens, tokenizer.ggml.scores"),
    "of unequal length": ({LISTS[1]: [0.0, 1.0]}, "it has 1 tokens, 2 scores and 1 types"),
    "not texts": ({LISTS[0]: [1]}, "are not texts, scores and types"),
    "not types": ({LISTS[2]: [7]}, "are not texts, scores and types"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_tokenizer_that_can_not_be_taken_is_told(tmp_path: Path, what: str) -> None:
    changes, why = WRONG[what]
    source = write_gemma(tmp_path / "m.gguf", Recipe("gemma3", tokenizer=None), metadata=ONE | changes)
    notes = blobstore.preview_conversion(source).notes
    assert any(note.startswith("the GGUF file's own tokenizer can't be taken: ") and why in note for note in notes)
    assert any("there is no usable tokenizer.model: pass one with --tokenizer" in note for note in notes)


# ----------------------------------------------------------------------------------------------------- byte-level BPE

TOKENS = ["a", "b", "c", "ab", "abc", "\u0120", "<|end|>", "<think>", "[PAD8]"]
BPE = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [NORMAL] * 6 + [CONTROL, USER_DEFINED, UNUSED],
    "tokenizer.ggml.merges": ["a b", "ab c"],
}
QWEN3 = Recipe("qwen3", tokenizer=None)


def test_a_qwen3_gets_the_tokenizer_that_its_own_checkpoint_gives_it(tmp_path: Path) -> None:
    source = write_gemma(tmp_path / "m.gguf", QWEN3, metadata=BPE)
    done = blobstore.convert(source, tmp_path / "m.sbs")
    assert not any("tokenizer.ggml" in note for note in done.notes)
    folder = QWEN3.write(tmp_path / "hf")
    (folder / "tokenizer.json").write_bytes(dumped(byte_level()))
    blobstore.convert(folder, tmp_path / "hf.sbs")
    with blobstore.open(tmp_path / "m.sbs") as ours, blobstore.open(tmp_path / "hf.sbs") as theirs:
        assert ours.tokenizer == theirs.tokenizer
        assert ours.tokenizer is not None
    assert blobstore.verify(tmp_path / "m.sbs", against=source).ok


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("tokenizer.ggml.model", "bert", "only 'gpt2' is byte-level BPE"),
        ("tokenizer.ggml.merges", None, "it lacks one of"),
        ("tokenizer.ggml.token_type", [1], "9 tokens and 1 types"),
        ("tokenizer.ggml.token_type", ["x"] * 9, "are not texts, types and texts"),
        ("tokenizer.ggml.tokens", ["a"] * 9, "the same text"),
        ("tokenizer.ggml.pre", "llama-bpe", "llama-bpe"),
        (
            "tokenizer.ggml.merges",
            ["a"],
            "the GGUF file's own tokenizer can't be taken: a merge is 'a', not two tokens",
        ),
        (
            "tokenizer.ggml.token_type",
            [UNUSED] * 9,
            "the GGUF file's own tokenizer can't be taken: its model has no vocab",
        ),
    ],
)
def test_what_can_not_be_taken_of_a_bpe_tokenizer_is_told(tmp_path: Path, key: str, value: Any, told: str) -> None:  # noqa: ANN401 (metadata is anything)
    source = write_gemma(tmp_path / "m.gguf", QWEN3, metadata=BPE | {key: value})
    assert any(told in note for note in blobstore.convert(source, tmp_path / "m.sbs").notes)
