"""Converted files in models of transformers: ``make test-transformers``. The models are small, with random weights."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import sentencepiece

import blobstore
from blobstore.converting.choices import Choices
from blobstore.converting.hf_keys_t5gemma import KEYS
from blobstore.gemma.tokenizer import pieces_of
from blobstore.tokenizer.added import added_in_json
from blobstore.tokenizer.fitting import MadeTokenizer, Tokenizer
from blobstore.tokenizer.from_json import parse_tokenizer
from tests import gemma4_runtime
from tests.checkpoints import SINGLE
from tests.gemma4_checkpoints import A4B, E2B, E4B
from tests.gemma4_checkpoints import TINY as GEMMA4
from tests.gemma_checkpoints import TOKENIZER, Size, T5GemmaRecipe, convert, small_recipe
from tests.models import FORMS
from tests.qwen3 import logits
from tests.t5gemma_runtime import Runtime
from tests.tokenizer.test_peers import lines, trained

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from tests.gemma4_checkpoints import Gemma4

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
QWEN3: dict[str, Any] = {key: value for key, value in TEXT.items() if key != "query_pre_attn_scalar"}
QWEN3 |= {"rope_theta": 1e6, "max_position_embeddings": 64}
FAMILIES = ["gemma2", "gemma3", "gemma3-vision", "paligemma2", "qwen3", "qwen3-untied"]
each_family_and_layout = pytest.mark.parametrize(
    ("family", "layout"), [*((family, layout) for family in FAMILIES for layout in FORMS), ("t5gemma", "stock")]
)


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


def made(libraries: Libraries, family: str, seed: int = 0, **more: int) -> Any:  # noqa: ANN401 (a module)
    library, torch = libraries.transformers, libraries.torch
    torch.manual_seed(seed)
    if family == "gemma2":
        model = library.Gemma2ForCausalLM(library.Gemma2Config(**TEXT))
    elif family == "gemma3":
        model = library.Gemma3ForCausalLM(library.Gemma3TextConfig(**TEXT))
    elif family == "t5gemma":
        modules = {
            part: TEXT | more | {"num_hidden_layers": layers} for part, layers in (("encoder", 3), ("decoder", 2))
        }
        config = library.T5GemmaConfig(**modules, vocab_size=TEXT["vocab_size"])
        model = library.T5GemmaForConditionalGeneration(config)
    elif family.startswith("qwen3"):
        tie = {"tie_word_embeddings": family == "qwen3"}
        model = library.Qwen3ForCausalLM(library.Qwen3Config(**QWEN3, **tie))
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


@each_family_and_layout
def test_a_file_is_the_models_state(tmp_path: Path, libraries: Libraries, family: str, layout: str) -> None:
    torch, ours = libraries.torch, libraries.ours
    model, other, third = (made(libraries, family, seed) for seed in range(3))
    model.save_pretrained(tmp_path)
    head = "lm_head.out_proj.weight" if family == "t5gemma" else "lm_head.weight"
    # The names of the model itself: save_pretrained writes those of older versions for models with a vision part.
    own = family == "qwen3-untied"  # has a head of its own
    state = {name: tensor for name, tensor in model.state_dict().items() if own or name != head}
    libraries.peer.save_file(state, tmp_path / SINGLE, {"format": "pt"})
    path = converted(tmp_path, layout)
    loaded = ours.load_file(path)
    embeddings = [tensor for name, tensor in loaded.items() if name.endswith("embed_tokens.weight")]
    assert (loaded[head] is embeddings[0]) is not own  # of the decoder, where there are two
    other.load_state_dict(loaded, strict=True)
    assert same(torch, other, model)
    assert ours.load_model(third, path) == ([], [])
    assert same(torch, third, model)
    tokens = {"input_ids": torch.arange(8)[None]}
    if family == "t5gemma":
        tokens["decoder_input_ids"] = torch.arange(5)[None]
    assert torch.equal(other(**tokens).logits, model(**tokens).logits)


@each_family_and_layout
def test_what_transformers_saves_comes_back_through_a_file(
    tmp_path: Path, libraries: Libraries, family: str, layout: str
) -> None:
    torch = libraries.torch
    model = made(libraries, family)
    model.save_pretrained(tmp_path)
    state = libraries.ours.load_file(converted(tmp_path, layout))
    other = type(model).from_pretrained(None, config=model.config, state_dict=state, dtype=torch.bfloat16)
    assert same(torch, other, model)


def test_a_t5gemma_by_name_is_the_models_state(tmp_path: Path, libraries: Libraries) -> None:
    model, other = (made(libraries, "t5gemma", seed) for seed in range(2))
    model.save_pretrained(tmp_path)
    blobstore.convert(tmp_path, tmp_path / "m.sbs", as_="names")
    assert libraries.ours.load_model(other, tmp_path / "m.sbs") == ([], [])
    assert same(libraries.torch, other, model)


def test_the_logits_of_a_t5gemma_are_those_of_its_file(tmp_path: Path, libraries: Libraries) -> None:
    """With what gemma.cpp's source says that it computes; windows are shorter than the texts."""
    torch, saved_model = libraries.torch, made(libraries, "t5gemma", sliding_window=4)
    saved_model.save_pretrained(tmp_path)
    # In f32 throughout, RoPE too; other implementations of attention leave out the soft cap.
    exact = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = type(saved_model).from_pretrained(tmp_path, **exact).eval()
    blobstore.convert(tmp_path, tmp_path / "m.sbs", weights="f32")
    prompt, answer = [5, 9, 2, 77, 31, 8, 64, 3, 100, 12], [2, 40, 41, 99, 17, 6, 88, 23]
    tokens = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([answer])}
    with torch.no_grad():
        expected = model(**tokens).logits[0].numpy()
    with blobstore.open(tmp_path / "m.sbs", by="keys") as store:
        assert store.config is not None
        assert {*store.config.encoder_attention_window_sizes} == {4, 8192}
        assert np.allclose(Runtime(store, store.config).logits(prompt, answer), expected, rtol=0, atol=1e-4)


def test_a_t5gemma_has_the_names_and_shapes_that_the_other_tests_assume(libraries: Libraries) -> None:
    size = Size(2, 32, 48, 4, 2, 8, 128)
    recipe = T5GemmaRecipe(size=size, encoder_layers=3)
    model = made(libraries, "t5gemma")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == recipe.shapes() | {recipe.head_name: (128, 32)}
    said = model.config.to_dict()
    assert {*said} <= {*KEYS["t5gemma"]}
    for part in ("encoder", "decoder"):
        assert {*said[part]} <= {*KEYS["module"]}
        assert said[part].items() >= recipe.config()[part].items()


@pytest.mark.parametrize("family", ["qwen3", "qwen3-untied"])
def test_the_names_of_a_qwen3_and_what_it_computes_are_as_other_tests_have_them(
    libraries: Libraries, family: str
) -> None:
    torch = libraries.torch
    model = made(libraries, family).float()
    recipe = small_recipe("qwen3", own_head=family != "qwen3", size=Size(2, 32, 48, 4, 2, 8, 128))
    shapes = recipe.shapes() | {recipe.head_name: recipe.shapes()[recipe.embedding]}
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert {name: array.shape for name, array in state.items()} == shapes
    tokens = np.array([3, 1, 4, 1, 5, 92, 65])
    config = {"rope_theta": 1e6, "head_dim": 8, "num_hidden_layers": 2}
    with torch.no_grad():
        theirs = model(input_ids=torch.from_numpy(tokens)[None]).logits[0].numpy()
    assert np.allclose(logits(state, config, tokens), theirs, rtol=1e-4, atol=1e-4)
    assert np.ptp(theirs) > 1


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


# ------------------------------------------------------------------------------------------------------ any other model


SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 32,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
# model_type, class of the config, and of the model, options
OTHERS = [
    ("llama", "LlamaConfig", "LlamaForCausalLM", {**GROUPED, "tie_word_embeddings": False}),
    ("llama-tied", "LlamaConfig", "LlamaForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    ("qwen2", "Qwen2Config", "Qwen2ForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    ("qwen3", "Qwen3Config", "Qwen3ForCausalLM", {**GROUPED, "head_dim": 4, "tie_word_embeddings": False}),
    ("bert", "BertConfig", "BertForMaskedLM", SIZES),
]
each_other = pytest.mark.parametrize("other", OTHERS, ids=[other[0] for other in OTHERS])
SPECIAL = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
WORDS = ["[UNK]", "[PAD]", "a", "model", "is", "stored", "once"]


def saved(libraries: Libraries, folder: Path, other: tuple[str, str, str, dict[str, Any]], **options: object) -> Any:  # noqa: ANN401 (a module)
    """Save a small model with a tokenizer → the model."""
    _, config, kind, sizes = other
    libraries.torch.manual_seed(0)
    model = getattr(libraries.transformers, kind)(getattr(libraries.transformers, config)(**sizes)).eval()
    model.save_pretrained(folder, **options)
    tokenizers = importlib.import_module("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["[PAD]", "<extra>"])
    fast = libraries.transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, chat_template="{{ messages }}", **SPECIAL
    )
    fast.save_pretrained(folder)
    return model


def check_loads(libraries: Libraries, source: Path, folder: Path, model: Any) -> None:  # noqa: ANN401 (a module)
    """Check that an exported folder is loaded as the model, and the tokenizer, that were saved."""
    library, torch = libraries.transformers, libraries.torch
    loaded, report = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert same(torch, loaded.eval(), model)
    tokens = torch.arange(2, 7)[None]
    assert torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)
    bare = library.AutoModel.from_pretrained(folder).eval()
    before = library.AutoModel.from_pretrained(source).eval()
    assert same(torch, bare, before) or model.config.model_type == "bert"  # which adds a pooler of random values
    text = "a model is stored <extra> twice"
    first, second = (library.AutoTokenizer.from_pretrained(place) for place in (source, folder))
    assert first(text)["input_ids"] == second(text)["input_ids"]  # some families make a tokenizer of another kind of it
    assert second.chat_template == "{{ messages }}"
    assert library.PreTrainedTokenizerFast.from_pretrained(folder)(text)["input_ids"] == [2, 3, 4, 5, 7, 0]


@each_other
@pytest.mark.parametrize("shards", [False, True])
def test_an_exported_folder_is_loaded_as_the_model_that_was_converted(
    tmp_path: Path, libraries: Libraries, other: tuple[str, str, str, dict[str, Any]], shards: bool
) -> None:
    source = tmp_path / "source"
    model = saved(libraries, source, other, **({"max_shard_size": "5KB"} if shards else {}))
    done = blobstore.convert(source, tmp_path / "m.sbs", as_="names")
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= {*done.carried}
    assert blobstore.verify(tmp_path / "m.sbs", against=source).ok
    exported = blobstore.export(tmp_path / "m.sbs", f"{tmp_path}/back/", max_shard_size=5000 if shards else None)
    assert (len(exported.files) > 1) == shards
    check_loads(libraries, source, tmp_path / "back", model)
    assert (tmp_path / "back" / "config.json").read_bytes() == (source / "config.json").read_bytes()


@each_other
def test_so_is_one_that_was_rewritten_packed_and_unpacked(
    tmp_path: Path, libraries: Libraries, other: tuple[str, str, str, dict[str, Any]]
) -> None:
    source = tmp_path / "source"
    model = saved(libraries, source, other)
    blobstore.convert(source, tmp_path / "a.sbs", as_="names", index="external")
    blobstore.rewrite(tmp_path / "a.sbs", tmp_path / "b.sbs", sort=True, container=1, index="embedded")
    blobstore.pack(tmp_path / "b.sbs", tmp_path / "p.sbs")
    blobstore.unpack(tmp_path / "p.sbs", tmp_path / "u.sbs")
    for name in ("p", "u"):
        blobstore.export(tmp_path / f"{name}.sbs", f"{tmp_path}/{name}/")
        check_loads(libraries, source, tmp_path / name, model)


def test_a_head_with_the_embeddings_values_that_is_not_tied_is_not_lost(tmp_path: Path, libraries: Libraries) -> None:
    source = tmp_path / "source"
    model = saved(libraries, source, OTHERS[0])
    model.lm_head.weight.data.copy_(model.model.embed_tokens.weight.data)
    model.save_pretrained(source)
    done = blobstore.convert(source, tmp_path / "a.sbs", as_="names")
    assert [alias.name for alias in done.aliases] == ["lm_head.weight"]
    blobstore.export(tmp_path / "a.sbs", f"{tmp_path}/back/")
    check_loads(libraries, source, tmp_path / "back", model)


# ---------------------------------------------------------------------------------------------------------- Gemma 4


def gemma4(libraries: Libraries, recipe: Gemma4) -> Any:  # noqa: ANN401 (a config)
    own = ("model_type", "architectures", "dtype", "transformers_version")
    return libraries.transformers.Gemma4TextConfig(**{key: v for key, v in recipe.config().items() if key not in own})


@pytest.mark.parametrize("name", [*GEMMA4, "e2b", "e4b", "26b"])
def test_the_data_of_a_gemma_4_is_what_transformers_has(libraries: Libraries, name: str) -> None:
    recipe = (GEMMA4 | {"e2b": E2B, "e4b": E4B, "26b": A4B})[name]
    config = gemma4(libraries, recipe)
    with libraries.torch.device("meta"):
        model = libraries.transformers.Gemma4ForCausalLM(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    del shapes["lm_head.weight"]
    assert shapes == recipe.shapes()
    assert recipe.config().keys() - {"dtype", "architectures"} <= config.to_dict().keys()
    written = json.loads(config.to_json_string(use_diff=False))
    assert {key: written[key] for key in recipe.config() if key not in ("dtype", "architectures")} == {
        key: value for key, value in recipe.config().items() if key not in ("dtype", "architectures")
    }


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("name", GEMMA4)
def test_a_gemma_4_comes_back_through_a_file(tmp_path: Path, libraries: Libraries, name: str, layout: str) -> None:
    torch = libraries.torch
    model = libraries.transformers.Gemma4ForCausalLM(gemma4(libraries, GEMMA4[name]))
    for tensor in model.state_dict().values():
        tensor.uniform_(0.25, 1.75)
    model = model.to(torch.bfloat16).eval()
    model.save_pretrained(tmp_path)
    state = libraries.ours.load_file(converted(tmp_path, layout))
    other = type(model).from_pretrained(None, config=model.config, state_dict=state, dtype=torch.bfloat16)
    assert same(torch, other, model)


@pytest.mark.parametrize("name", GEMMA4)
def test_what_gemma_cpp_computes_of_a_gemma_4_is_what_transformers_does(
    tmp_path: Path, libraries: Libraries, name: str
) -> None:
    torch = libraries.torch
    recipe = replace(GEMMA4[name], width=16, window=3)  # both round the square root of the width, if it isn't whole
    config = gemma4(libraries, recipe)
    config.final_logit_softcapping = 2.0
    model = libraries.transformers.Gemma4ForCausalLM(config)
    torch.manual_seed(0)
    for key, tensor in model.state_dict().items():
        is_norm = tensor.ndim == 1
        tensor.copy_((tensor.uniform_(0.5, 1.5) if is_norm else tensor.normal_(0, 0.4)).to(torch.bfloat16))
        assert key
    model = model.eval()
    tokens = [2, 7, 1, 8, 2, 8, 1, 7]
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    with blobstore.open(converted(tmp_path, "split"), by="keys") as store:
        assert store.config is not None
        ours = gemma4_runtime.logits(store.config, gemma4_runtime.read(store), tokens)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
