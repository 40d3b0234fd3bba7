"""Tied weights: which tensor is the output head of which embedding, and whether a configuration says they are one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# How exporters name the embedding, longest first; the head has _HEAD in the same place.
_EMBEDDINGS = (
    "model.language_model.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "model.embed_tokens.weight",
)
_HEAD = "lm_head.weight"
# Their configs leave out tie_word_embeddings where it has its default, true.
_TIED_FAMILIES = ("gemma", "paligemma")


def head_of(embedding: str) -> str | None:
    """Return the name of the output head that belongs to an embedding; None for the name of another tensor."""
    if embedding == "embed_tokens.weight":
        return _HEAD
    for ending in _EMBEDDINGS:
        before = embedding.removesuffix(ending)
        if before != embedding and (not before or before.endswith(".")):
            return before + _HEAD
    return None


def embedding_of(head: str, names: Iterable[str]) -> str | None:
    """Return the embedding among some names that a head belongs to; None without one."""
    return next((name for name in names if head_of(name) == head), None)


def why_tied(config: Mapping[str, Any]) -> str:
    """Return why the head is the embedding, or an empty text when nothing says so."""
    flags = _flags(config)
    if any(flag is True for flag in flags):
        return "config.json ties it"
    types = [part.get("model_type") for part in _parts(config)]
    if not flags and any(isinstance(name, str) and name.startswith(_TIED_FAMILIES) for name in types):
        return "models of this family tie it unless config.json says otherwise"
    return ""


def is_untied(config: Mapping[str, Any]) -> bool:
    """Whether config.json says that the head has weights of its own."""
    flags = _flags(config)
    return bool(flags) and not any(flag is True for flag in flags)


def _flags(config: Mapping[str, Any]) -> list[Any]:
    return [part["tie_word_embeddings"] for part in _parts(config) if "tie_word_embeddings" in part]


def _parts(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    text = config.get("text_config")
    return [config, *([text] if isinstance(text, dict) else [])]
