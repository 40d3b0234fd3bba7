"""Converted files in models of transformers: ``make test-transformers``. The models are small, with random weights."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import sentencepiece

from blobstore.converting.gemma_plan import Choices
from blobstore.gemma.tokenizer import pieces_of
from blobstore.tokenizer.added import added_in_json
from blobstore.tokenizer.fitting import MadeTokenizer, Tokenizer
from blobstore.tokenizer.from_json import parse_tokenizer
from tests.checkpoints import SINGLE
from tests.gemma_checkpoints import TOKENIZER, convert
from tests.tokenizer.test_peers import lines, trained

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

pytestmark = [
    pytest.mark.transformers,
    # Of the library itself, whichever version.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 128,
    "query_pre_attn_scalar": 8,
}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 40,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "patch_size": 14,
    "image_size": 112,
    "vision_use_head": False,  # as in the published checkpoints
}
FAMILIES = ["gemma2", "gemma3", "gemma3-vision", "paligemma2"]
both_layouts = pytest.mark.parametrize("layout", ["split", "stock"])
each_family = pytest.mark.parametrize("family", FAMILIES)


class Libraries(NamedTuple):
    """The modules that a test needs."""

    transformers: ModuleType
    torch: ModuleType
    ours: ModuleType
    peer: ModuleType


# Without the libraries this is an error, not a skip: the marker was asked for.
@pytest.fixture(scope="module")
def libraries() -> Libraries:
    return Libraries(*map(importlib.import_module, ("transformers", "torch", "blobstore.torch", "safetensors.torch")))


def made(libraries: Libraries, family: str, seed: int = 0) -> Any:  # noqa: ANN401 (a module)
    library, torch = libraries.transformers, libraries.torch
    torch.manual_seed(seed)
    if family == "gemma2":
        model = library.Gemma2ForCausalLM(library.Gemma2Config(**TEXT))
    elif family == "gemma3":
        model = library.Gemma3ForCausalLM(library.Gemma3TextConfig(**TEXT))
    elif family == "gemma3-vision":
        parts = {"text_config": {"model_type": "gemma3_text", **TEXT}, "vision_config": VISION}
        model = library.Gemma3ForConditionalGeneration(library.Gemma3Config(**parts, mm_tokens_per_image=4))
    else:
        parts = {"text_config": {"model_type": "gemma2", **TEXT}, "vision_config": VISION}
        config = library.PaliGemmaConfig(**parts, projection_dim=TEXT["hidden_size"])
        model = library.PaliGemmaForConditionalGeneration(config)
    # transformers begins with norms of 0 and biases of 0: mistaking one for another would not show.
    for parameter in model.parameters():
        parameter.data.uniform_(-1, 1)
    return model.to(torch.bfloat16).eval()


def converted(folder: Path, layout: str) -> Path:
    (folder / "tokenizer.model").write_bytes(TOKENIZER)
    convert(folder, folder / "m.sbs", Choices(weights="bf16", layout=layout))
    return folder / "m.sbs"


def same(torch: ModuleType, model: Any, other: Any) -> bool:  # noqa: ANN401 (modules)
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]) for name, tensor in ours.items()
    )


@each_family
@both_layouts
def test_a_file_is_the_models_state(tmp_path: Path, libraries: Libraries, family: str, layout: str) -> None:
    torch, ours = libraries.torch, libraries.ours
    model, other, third = (made(libraries, family, seed) for seed in range(3))
    model.save_pretrained(tmp_path)
    # The names of the model itself: save_pretrained writes those of older versions for models with a vision part.
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    libraries.peer.save_file(state, tmp_path / SINGLE, {"format": "pt"})
    path = converted(tmp_path, layout)
    loaded = ours.load_file(path)
    assert loaded["lm_head.weight"] is next(
        tensor for name, tensor in loaded.items() if name.endswith("embed_tokens.weight")
    )
    other.load_state_dict(loaded, strict=True)
    assert same(torch, other, model)
    assert ours.load_model(third, path) == ([], [])
    assert same(torch, third, model)
    tokens = torch.arange(8)[None]
    assert torch.equal(other(input_ids=tokens).logits, model(input_ids=tokens).logits)


@each_family
@both_layouts
def test_what_transformers_saves_comes_back_through_a_file(
    tmp_path: Path, libraries: Libraries, family: str, layout: str
) -> None:
    torch = libraries.torch
    model = made(libraries, family)
    model.save_pretrained(tmp_path)
    state = libraries.ours.load_file(converted(tmp_path, layout))
    other = type(model).from_pretrained(None, config=model.config, state_dict=state, dtype=torch.bfloat16)
    assert same(torch, other, model)


# ----------------------------------------------------------------------------------------------------------- tokenizers


def test_a_saved_tokenizer_has_the_same_tokens_as_the_model_made_of_it(tmp_path: Path, libraries: Libraries) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained())
    peer = libraries.transformers.GemmaTokenizer.from_pretrained(tmp_path)
    peer.add_tokens(["<tool call>"])
    peer.add_special_tokens({"additional_special_tokens": ["<|x|>"]})
    peer.save_pretrained(tmp_path)
    raw = (tmp_path / "tokenizer.json").read_bytes()
    added = [("<mask>", 4), ("<tool\u2581call>", 4), ("<|x|>", 4)]  # transformers adds the first one
    for tokenizer in (
        MadeTokenizer(parse_tokenizer(raw), "tokenizer.json"),
        Tokenizer(trained(), added_in_json(raw, lambda: raw), "tokenizer.json"),
    ):
        assert tokenizer.rows == len(peer) == 903
        made = tokenizer.fitted(903).raw
        assert [*pieces_of(made)] == [*pieces_of(trained()), *((text.encode(), kind) for text, kind in added)]
        model = sentencepiece.SentencePieceProcessor(model_proto=made)
        for text in ("a <tool call> b<|x|>the", *lines(1000, 4)):
            assert model.encode(text) == peer(text, add_special_tokens=False).input_ids, text
