"""Checkpoints as people have them: tokenizers. Each situation with the exact note or error."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import blobstore
from blobstore import cli
from blobstore.errors import MissingExtraError, UsageError
from blobstore.gemma.tokenizer import pieces_of
from blobstore.tokenizer import proto
from blobstore.tokenizer.fitting import of_pieces
from tests.checkpoints import LFS_POINTER
from tests.gemma_checkpoints import sound_recipe, tokenizer
from tests.tokenizer_files import (
    CONTROL,
    HEAD,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    added_token,
    document_of,
    dumped,
)

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 96  # of the recipe's embedding
PIECES = [*HEAD, *((f"p{number}", NORMAL) for number in range(len(HEAD), ROWS))]


NO_TOKENIZER = (
    "no-tokenizer: tokenizer: there is no usable tokenizer.model: pass one with --tokenizer: "
    "gemma.cpp can't generate text"
)


def model_of(pieces: list[tuple[str, int]]) -> bytes:
    return of_pieces([(text.encode(), 0.0, kind) for text, kind in pieces], "")


def write(folder: Path, model: bytes | None, **files: object) -> Path:
    """Write a checkpoint with a tokenizer.model, and JSON files by name."""
    replace(sound_recipe("gemma3"), tokenizer=model).write(folder)
    for name, value in files.items():
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        (folder / f"{name}.json").write_bytes(raw)
    return folder


def out(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.sbs"


def with_added(text: str) -> bytes:
    """A tokenizer.json with one token more than the pieces."""
    document = document_of(PIECES)
    document["added_tokens"].append(added_token(ROWS, text))
    return dumped(document)


def notes(folder: Path, **options: Any) -> list[str]:  # noqa: ANN401 (of convert)
    """Convert, verify, and return the notes on the tokenizer: those of convert, which check has, too."""
    done = blobstore.convert(folder, out(folder), weights="bf16", **options)
    given = {"tokenizer": options["tokenizer"]} if "tokenizer" in options else {}
    assert blobstore.verify(out(folder), against=folder, **given).ok
    told = [note for note in done.notes if "token" in note and not note.startswith(("stop tokens", "read "))]
    if not options:
        assert blobstore.preview_conversion(folder, weights="bf16").notes == done.notes
        found = blobstore.check(folder, weights="bf16").findings
        texts = {finding.message for finding in found}
        assert all(any(text in note for text in texts) for note in told)
    return told


def converted(folder: Path) -> list[tuple[str, int]]:
    """The pieces of the converted file."""
    with blobstore.open(out(folder)) as store:
        return [(text.decode(), kind) for text, kind in pieces_of(bytes(store.raw("tokenizer")))]


def test_a_model_that_agrees_is_copied(tmp_path: Path) -> None:
    model = model_of(PIECES)
    folder = write(tmp_path, model, tokenizer=dumped(document_of(PIECES)), added_tokens={"<start_of_turn>": 4})
    assert notes(folder) == []
    with blobstore.open(out(folder)) as store:
        assert bytes(store.raw("tokenizer")) == model


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer", {"added_tokens": [added_token(94, "<tool>"), added_token(95, "</tool>", special=True)]}),
        ("tokenizer_config", {"added_tokens_decoder": {"94": {"content": "<tool>"}, "95": {"content": "</tool>"}}}),
        ("added_tokens", {"<tool>": 94, "</tool>": 95}),
    ],
)
def test_added_tokens_become_pieces(tmp_path: Path, name: str, value: object) -> None:
    folder = write(tmp_path, model_of(PIECES[:94]), **{name: value})
    assert notes(folder) == [f"tokenizer: 2 pieces added from {name}.json: 94 '<tool>', 95 '</tool>'"]
    assert converted(folder) == [*PIECES[:94], ("<tool>", USER_DEFINED), ("</tool>", USER_DEFINED)]


def test_rows_that_a_trainer_added_get_pieces_with_the_added_token(tmp_path: Path) -> None:
    folder = write(tmp_path, model_of(PIECES[:90]), added_tokens={"<tool>": 91})
    assert notes(folder) == [
        "tokenizer: 1 piece added from added_tokens.json: 91 '<tool>'",
        "tokenizer: 5 rows without a token get pieces of the type UNUSED: 90 to 95",
    ]
    padding = [(f"<padding_{number}>", UNUSED) for number in range(90, 96)]
    assert converted(folder) == [*PIECES[:90], padding[0], ("<tool>", USER_DEFINED), *padding[2:]]


def test_fewer_pieces_than_rows_is_a_warning(tmp_path: Path) -> None:
    folder = write(tmp_path, model_of(PIECES[:90]))
    what = "it has 90 pieces, but the config's vocabulary has 96"
    effect = "gemma.cpp stops when it samples a token that has no piece"
    assert notes(folder) == [f"tokenizer-size: tokenizer: {what}: {effect}"]
    for path in (folder, out(folder)):
        found = [one for one in blobstore.check(path).findings if one.code == "tokenizer-size"]
        assert [(one.severity, one.message, one.effect) for one in found] == [("warning", what, effect)]


def test_a_renamed_token_renames_its_piece(tmp_path: Path) -> None:
    folder = write(tmp_path, model_of(PIECES), tokenizer={"added_tokens": [added_token(11, "<tool_call>")]})
    assert notes(folder) == ["tokenizer: 1 piece renamed as in tokenizer.json: 11 'p11' → '<tool_call>'"]
    assert converted(folder) == [*PIECES[:11], ("<tool_call>", USER_DEFINED), *PIECES[12:]]


def test_a_damaged_model_is_not_changed(tmp_path: Path) -> None:
    folder = write(tmp_path, b"\n\x03abc", added_tokens={"<a>": 1})
    with pytest.raises(UsageError) as caught:
        blobstore.convert(folder, out(folder))
    assert caught.value.reason == "not-a-tokenizer"
    assert str(folder / "tokenizer.model") in caught.value.message


def test_tokens_beyond_the_embedding_are_left_out(tmp_path: Path) -> None:
    """As Gemma 3's own tokenizer.json has it."""
    model = model_of(PIECES)
    folder = write(tmp_path, model, tokenizer={"added_tokens": [added_token(96, "<image_soft_token>", special=True)]})
    what = "tokenizer: left out, beyond the 96 rows of the vocabulary: 96 '<image_soft_token>'"
    assert notes(folder) == [what]
    assert converted(folder) == PIECES


def test_files_that_disagree_are_told(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        model_of(PIECES),
        tokenizer={"added_tokens": [added_token(11, "<a>")]},
        tokenizer_config={"added_tokens_decoder": {"11": {"content": "<b>"}}},
    )
    assert notes(folder) == [
        "tokenizer: tokenizer.json has other tokens than tokenizer_config.json, which is not used: 11 '<b>'",
        "tokenizer: 1 piece renamed as in tokenizer.json: 11 'p11' → '<a>'",
    ]


@pytest.mark.parametrize("given", [False, True])
def test_a_tokenizer_json_alone_becomes_a_model(tmp_path: Path, given: bool) -> None:
    raw = dumped(document_of(PIECES[:95]))
    folder = write(tmp_path / "c", None, **({} if given else {"tokenizer": raw}))
    (tmp_path / "other.json").write_bytes(raw)
    options = {"tokenizer": tmp_path / "other.json"} if given else {}
    name = "other.json" if given else "tokenizer.json"
    assert notes(folder, **options) == [
        f"tokenizer: a SentencePiece model is made from {name}: 96 pieces",
        "tokenizer: 1 row without a token gets a piece of the type UNUSED: 95",
    ]
    assert converted(folder) == [*PIECES[:95], ("<padding_95>", UNUSED)]
    assert converted(folder)[0] == ("<pad>", CONTROL)


def test_tokens_that_tokenizer_json_lacks_are_added(tmp_path: Path) -> None:
    decoder = {"94": {"content": "<a>"}, "11": {"content": "<b>"}, "4": {"content": "<start_of_turn>"}}
    folder = write(
        tmp_path,
        None,
        tokenizer=dumped(document_of(PIECES[:94])),
        tokenizer_config={"added_tokens_decoder": decoder},
        added_tokens={"<c>": 95, "p20": 93},
    )
    files = "tokenizer.json, tokenizer_config.json, added_tokens.json"
    assert notes(folder) == [
        "tokenizer: left out, since tokenizer.json has them otherwise: 11 '<b>', 93 'p20'",
        f"tokenizer: a SentencePiece model is made from {files}: 96 pieces",
    ]
    assert converted(folder) == [*PIECES[:94], ("<a>", USER_DEFINED), ("<c>", USER_DEFINED)]


def test_tokens_of_several_files_are_added(tmp_path: Path) -> None:
    files = {"tokenizer": {"added_tokens": [added_token(94, "<a>")]}, "added_tokens": {"<a>": 94, "<b>": 95}}
    assert notes(write(tmp_path, model_of(PIECES[:94]), **files)) == [
        "tokenizer: 2 pieces added from tokenizer.json, added_tokens.json: 94 '<a>', 95 '<b>'"
    ]


@pytest.mark.parametrize("has_model", [True, False])
def test_a_token_that_was_added_with_its_row(tmp_path: Path, has_model: bool) -> None:
    """As transformers leaves it: tokenizer.model without the token, tokenizer.json with it, one more row."""
    recipe = sound_recipe("gemma3")
    folder = replace(recipe, size=replace(recipe.size, vocabulary=ROWS + 1)).write(tmp_path / "c")
    (folder / "tokenizer.model").write_bytes(model_of(PIECES))
    (folder / "tokenizer.json").write_bytes(with_added("<tool>"))
    if not has_model:
        (folder / "tokenizer.model").unlink()
    done = blobstore.convert(folder, out(folder), weights="bf16", strict=True)
    line = "vocabulary padded from 97 to 128 rows with copies of row 0, <pad>: gemma.cpp needs a multiple of 32"
    assert line in done.notes
    pieces = converted(folder)
    assert pieces[ROWS] == ("<tool>", USER_DEFINED)
    assert len(pieces) == 128
    assert blobstore.check(out(folder), strict=True).ok
    assert blobstore.verify(out(folder), against=folder).ok
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").unlink(missing_ok=True)
    assert blobstore.verify(out(folder), against=folder).ok  # with the file's own tokenizer


@pytest.mark.parametrize("family", ["gemma3vlm", "paligemma2"])
def test_the_token_of_an_image_takes_no_row(tmp_path: Path, family: str) -> None:
    """As published: it is in tokenizer.json only, and its row is the first of the 64 spare ones."""
    folder = sound_recipe(family).write(tmp_path / "c")
    (folder / "tokenizer.model").write_bytes(model_of(PIECES))
    (folder / "tokenizer.json").write_bytes(with_added("<image>"))
    done = blobstore.convert(folder, out(folder), strict=True)
    line = (
        "the last 64 of the embedding's 160 rows are kept outside the vocabulary: the tokenizer has no pieces for them"
    )
    assert line in done.notes
    assert converted(folder) == PIECES
    assert blobstore.verify(out(folder), against=folder).ok


def test_a_given_model_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", model_of(PIECES), added_tokens={"<tool>": 11})
    (tmp_path / "t.model").write_bytes(tokenizer(ROWS))
    told = notes(folder, tokenizer=tmp_path / "t.model")
    assert told == ["left out added_tokens.json, tokenizer.model (of the tokenizer)"]
    with blobstore.open(out(folder)) as store:
        assert bytes(store.raw("tokenizer")) == tokenizer(ROWS)


def test_check_takes_the_tokenizer_that_convert_is_given(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", model_of(PIECES[:90]))
    (tmp_path / "t.model").write_bytes(tokenizer(ROWS))
    assert not blobstore.check(folder, strict=True).ok
    assert blobstore.check(folder, tokenizer=tmp_path / "t.model", strict=True).ok
    blobstore.convert(folder, out(folder))
    for named in (folder, out(folder)):
        with pytest.raises(blobstore.UsageError, match="needless-flag: --tokenizer"):
            blobstore.check(named, tokenizer=tmp_path / "t.model", for_="any")


def test_a_tokenizer_that_sentencepiece_cannot_express_is_named(tmp_path: Path) -> None:
    raw = dumped(document_of(PIECES) | {"pre_tokenizer": {"type": "ByteLevel"}})
    folder = write(tmp_path, None, tokenizer=raw)
    assert notes(folder) == [
        "tokenizer.json can't become a SentencePiece model: its model is byte-level BPE",
        NO_TOKENIZER,
    ]
    with pytest.raises(UsageError) as caught:
        blobstore.convert(folder, out(folder), tokenizer=folder / "tokenizer.json")
    what = "can't become a SentencePiece model: its model is byte-level BPE; pass a tokenizer.model"
    assert (caught.value.reason, caught.value.message) == (
        "not-a-tokenizer",
        f"{str(folder / 'tokenizer.json')!r} {what}",
    )


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_config", "added_tokens"])
def test_a_file_that_is_not_there_yet_is_told(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, model_of(PIECES), **{name: LFS_POINTER})
    what = "can't be read (a Git LFS pointer, fetch the file itself: git lfs pull)"
    assert notes(folder)[0] == f"{str(folder / name) + '.json'!r} {what}: tokens that it adds are left out"


def test_without_a_model_a_tokenizer_json_that_is_broken_is_none(tmp_path: Path) -> None:
    folder = write(tmp_path, None, tokenizer=LFS_POINTER)
    what = "can't be read (a Git LFS pointer, fetch the file itself: git lfs pull)"
    assert notes(folder)[0] == f"{str(folder / 'tokenizer.json')!r} {what}: taken as missing"


def test_without_protobuf_there_are_two_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, model_of(PIECES[:95]), added_tokens={"<tool>": 95})

    def missing() -> None:
        raise ModuleNotFoundError(name="google.protobuf")

    monkeypatch.setattr(proto, "_classes", missing)
    what = (
        "1 of the tokens in added_tokens.json has to go into the tokenizer, which needs protobuf: "
        "pip install protobuf; or --tokenizer tokenizer.model takes that file as it is"
    )
    with pytest.raises(MissingExtraError) as caught:
        blobstore.convert(folder, out(folder))
    assert (caught.value.reason, caught.value.message) == ("missing-extra", what)
    assert cli.main(["convert", str(folder), "-o", str(out(folder))]) == 1
    assert what in capsys.readouterr().err
    assert any(finding.message == what for finding in blobstore.check(folder).findings)
    assert not (out(folder)).exists()
    blobstore.convert(folder, out(folder), tokenizer=folder / "tokenizer.model")
    assert len(converted(folder)) == 95


# ------------------------------------------------------------------------------ with the vocabulary that the file gets


def resized(folder: Path, family: str, rows: int, model: bytes | None, added: dict[str, int]) -> Path:
    recipe = sound_recipe(family)
    recipe = replace(recipe, size=replace(recipe.size, vocabulary=rows), tokenizer=model)
    recipe.write(folder)
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


def test_one_token_more_is_padded_and_gets_its_piece(tmp_path: Path) -> None:
    folder = resized(tmp_path, "gemma3", 97, model_of(PIECES), {"<tool>": 96, "<none>": 97})
    assert notes(folder) == [
        "tokenizer: 1 piece added from added_tokens.json: 96 '<tool>'",
        "tokenizer: left out, beyond the 97 rows of the vocabulary: 97 '<none>'",
    ]
    padding = [(f"<padding_{number}>", UNUSED) for number in range(97, 128)]
    assert converted(folder) == [*PIECES, ("<tool>", USER_DEFINED), *padding]


@pytest.mark.parametrize(
    ("added", "rows"), [({"<image_soft_token>": 96}, 96), ({"<image_soft_token>": 96, "<tool>": 97}, 160)]
)
def test_rows_of_a_vision_model_are_spare_unless_an_added_token_has_one(
    tmp_path: Path, added: dict[str, int], rows: int
) -> None:
    folder = resized(tmp_path, "gemma3vlm", 96, model_of(PIECES), added)  # and 64 more
    told = notes(folder)
    assert len(converted(folder)) == rows
    with blobstore.open(out(folder)) as store:
        assert store.config is not None
        assert store.config.vocab_size == rows
    left = "tokenizer: left out, beyond the 96 rows of the vocabulary: 96 '<image_soft_token>'"
    assert (left in told) == (rows == 96)


def test_the_row_of_pad_is_that_of_tokenizer_json(tmp_path: Path) -> None:
    pieces = [PIECES[1], PIECES[0], *PIECES[2:]]
    folder = resized(tmp_path, "gemma3", 97, None, {})
    (folder / "tokenizer.json").write_bytes(dumped(document_of(pieces)))
    found = [finding.message for finding in blobstore.check(folder).findings if finding.code == "padded-vocabulary"]
    assert found == [
        "vocabulary padded from 97 to 128 rows with copies of row 1, <pad>: gemma.cpp needs a multiple of 32"
    ]
