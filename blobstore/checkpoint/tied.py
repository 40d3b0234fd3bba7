"""Tied weights: names of the embedding and of the output head, and whether a config says that they are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# How exporters name the embedding, longest first; the head has _HEAD in the same place.
_EMBEDDINGS = (
    "model.language_model.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "model.embed_tokens.weight",
)
_HEAD = "lm_head.weight"
_OTHER_HEADS = {"t5gemma": "lm_head.out_proj.weight"}  # by model_type
# Their configs leave out tie_word_embeddings where it has its default, true.
_TIED_FAMILIES = ("gemma", "paligemma")


def why_tied(config: dict[str, Any]) -> str:
    """Return why the head is the embedding, or an empty text when nothing says so."""
    parts = _parts(config)
    flags = [part["tie_word_embeddings"] for part in parts if "tie_word_embeddings" in part]
    if any(flag is True for flag in flags):
        return "config.json ties it"
    types = [part.get("model_type") for part in parts]
    if not flags and any(isinstance(name, str) and name.startswith(_TIED_FAMILIES) for name in types):
        return "models of this family tie it unless config.json says otherwise"
    return ""


def _parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a config, and in it that of the text model, if it has one."""
    text = config.get("text_config")
    return [config, *([text] if isinstance(text, dict) else [])]


def head_of(embedding: str, config: dict[str, Any]) -> str | None:
    """Return the name of the output head that belongs to an embedding; None for the name of another tensor.

    Args:
        embedding: A tensor's name.
        config: ``config.json``; empty without one.
    """
    model_type = config.get("model_type")
    head = _OTHER_HEADS.get(model_type, _HEAD) if isinstance(model_type, str) else _HEAD
    if embedding == "embed_tokens.weight":
        return head
    for ending in _EMBEDDINGS:
        before = embedding.removesuffix(ending)
        if before != embedding and (not before or before.endswith(".")):
            return before + head
    return None


def is_untied(config: dict[str, Any]) -> bool:
    """Whether config.json says that the head has weights of its own."""
    return any(part.get("tie_word_embeddings") is False for part in _parts(config)) and not why_tied(config)


def untied(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config whose head has weights of its own: as it is, if nothing ties it."""
    if not why_tied(config):
        return config
    text = config.get("text_config")
    changed = config | {"tie_word_embeddings": False}
    if isinstance(text, dict) and "tie_word_embeddings" in text:
        changed["text_config"] = text | {"tie_word_embeddings": False}
    return changed


def ties_of(names: Iterable[str], config: dict[str, Any]) -> dict[str, str]:
    """Return the heads that a checkpoint leaves out because they are tied → the embedding of each."""
    known = dict.fromkeys(names)
    ties: dict[str, str] = {}
    if why_tied(config):
        for embedding in known:
            head = head_of(embedding, config)
            if head is not None and head not in known:
                ties.setdefault(head, embedding)
    return ties
