"""SentencePiece models as protocol buffers, read and written by the package protobuf.

The fields are those of sentencepiece_model.proto of https://github.com/google/sentencepiece. The schema is in a pool of
its own: sentencepiece and transformers each register that file in the common one. Fields that it doesn't list are kept.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from blobstore.errors import FormatError, MissingExtraError
from blobstore.gemma.tokenizer import BPE, NORMAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PACKAGE = "blobstore_sentencepiece"
# Of descriptor.proto: types of fields, and how often they appear.
_FLOAT, _UINT64, _INT32, _BOOL, _MESSAGE, _BYTES = 2, 4, 5, 8, 11, 12
_OPTIONAL, _REPEATED = 1, 3
_Fields = dict[int, tuple[str, int]]  # number → name and type

# Texts are bytes here, which is the same on the wire: a model's pieces need not be UTF-8. Enums are int32, as well.
_PIECE: _Fields = {1: ("piece", _BYTES), 2: ("score", _FLOAT), 3: ("type", _INT32)}
_TRAINER: _Fields = {
    2: ("model_prefix", _BYTES),
    3: ("model_type", _INT32),
    4: ("vocab_size", _INT32),
    6: ("self_test_sample_size", _INT32),
    7: ("input_format", _BYTES),
    10: ("character_coverage", _FLOAT),
    11: ("input_sentence_size", _UINT64),
    12: ("mining_sentence_size", _INT32),
    13: ("training_sentence_size", _INT32),
    14: ("seed_sentencepiece_size", _INT32),
    15: ("shrinking_factor", _FLOAT),
    16: ("num_threads", _INT32),
    17: ("num_sub_iterations", _INT32),
    18: ("max_sentence_length", _INT32),
    19: ("shuffle_input_sentence", _BOOL),
    20: ("max_sentencepiece_length", _INT32),
    21: ("split_by_unicode_script", _BOOL),
    22: ("split_by_whitespace", _BOOL),
    23: ("split_by_number", _BOOL),
    24: ("treat_whitespace_as_suffix", _BOOL),
    25: ("split_digits", _BOOL),
    26: ("allow_whitespace_only_pieces", _BOOL),
    32: ("vocabulary_output_piece_score", _BOOL),
    33: ("hard_vocab_limit", _BOOL),
    34: ("use_all_vocab", _BOOL),
    35: ("byte_fallback", _BOOL),
    36: ("required_chars", _BYTES),
    40: ("unk_id", _INT32),
    41: ("bos_id", _INT32),
    42: ("eos_id", _INT32),
    43: ("pad_id", _INT32),
    44: ("unk_surface", _BYTES),
    45: ("unk_piece", _BYTES),
    46: ("bos_piece", _BYTES),
    47: ("eos_piece", _BYTES),
    48: ("pad_piece", _BYTES),
    49: ("train_extremely_large_corpus", _BOOL),
    50: ("enable_differential_privacy", _BOOL),
    51: ("differential_privacy_noise_level", _FLOAT),
    52: ("differential_privacy_clipping_threshold", _UINT64),
    53: ("pretokenization_delimiter", _BYTES),
    54: ("seed_sentencepieces_file", _BYTES),
    55: ("auto_character_coverage", _BOOL),
}
_TRAINER_LISTS: _Fields = {
    1: ("input", _BYTES),
    5: ("accept_language", _BYTES),
    30: ("control_symbols", _BYTES),
    31: ("user_defined_symbols", _BYTES),
}
_NORMALIZER: _Fields = {
    1: ("name", _BYTES),
    2: ("precompiled_charsmap", _BYTES),
    3: ("add_dummy_prefix", _BOOL),
    4: ("remove_extra_whitespaces", _BOOL),
    5: ("escape_whitespaces", _BOOL),
    6: ("normalization_rule_tsv", _BYTES),
}


class Piece(NamedTuple):
    """A piece of a SentencePiece model: its text, as UTF-8; its score; its type, such as NORMAL."""

    text: bytes
    score: float
    type: int


def parse_model(raw: bytes, why: str) -> Any:  # noqa: ANN401 (a class made at run time)
    """Parse a SentencePiece model.

    Args:
        raw: Its bytes.
        why: What it is needed for, and what to do without it: for the error if protobuf is missing.

    Raises:
        MissingExtraError: ``missing-extra``.
        FormatError: ``tokenizer-model`` when it is not such a model.
    """
    model_class, decode_error = _model_class(why)
    try:
        return model_class.FromString(raw)
    except decode_error as error:
        raise FormatError("tokenizer-model", f"this is not a SentencePiece model: {error}") from None


def new_model(
    pieces: Sequence[Piece], special: Mapping[str, int], *, byte_fallback: bool, escape: bool, why: str
) -> Any:  # noqa: ANN401 (as above)
    """Return a BPE model without a normalizer: text is taken as it is, and begins without a space.

    Args:
        pieces: In the order of their ids.
        special: Of ``unk``, ``bos``, ``eos`` and ``pad``, those that there are → the id.
        byte_fallback: Whether characters without a piece become pieces of type BYTE.
        escape: Whether spaces are U+2581 in pieces.
        why: As for `parse_model`.

    Raises:
        MissingExtraError: ``missing-extra``.
    """
    model = _model_class(why)[0]()
    append_pieces(model, pieces)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = BPE, len(pieces), byte_fallback
    for role in ("unk", "bos", "eos", "pad"):
        place = special.get(role, -1)
        setattr(trainer, f"{role}_id", place)
        if place >= 0:
            setattr(trainer, f"{role}_piece", pieces[place].text)
    normalizer.name, normalizer.escape_whitespaces = b"identity", escape
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = False
    return model


def append_pieces(model: Any, pieces: Sequence[Piece]) -> None:  # noqa: ANN401 (as above)
    """Add pieces at the end of a model."""
    for text, score, kind in pieces:
        piece = model.pieces.add(piece=text, score=score)
        if kind != NORMAL:  # SentencePiece leaves out the default
            piece.type = kind


def dump_model(model: Any) -> bytes:  # noqa: ANN401 (as above)
    """Return a model's bytes: fields by number, so that the same model always has the same."""
    raw: bytes = model.SerializeToString(deterministic=True)
    return raw


def _model_class(why: str) -> tuple[Any, type[Exception]]:
    """Return the class of models, and the error of its parser."""
    try:
        return _classes()
    except ModuleNotFoundError as error:
        if error.name not in ("google", "google.protobuf"):
            raise
        raise MissingExtraError("missing-extra", why) from error


@cache
def _classes() -> tuple[Any, type[Exception]]:
    import_module("google.protobuf")  # first: its absence has one name, whatever is imported of it
    descriptor_pb2, descriptor_pool, message_factory, message = (
        import_module(f"google.protobuf.{name}")
        for name in ("descriptor_pb2", "descriptor_pool", "message_factory", "message")
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_schema(descriptor_pb2.FileDescriptorProto))
    model_class = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelProto"))
    return model_class, message.DecodeError


def _schema(descriptor: Any) -> Any:  # noqa: ANN401 (a class, and what it makes)
    """Return the descriptor of a file that declares the messages."""
    file = descriptor(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2")
    for name, fields, lists in (
        ("Piece", _PIECE, {}),
        ("TrainerSpec", _TRAINER, _TRAINER_LISTS),
        ("NormalizerSpec", _NORMALIZER, {}),
    ):
        message = file.message_type.add(name=name)
        for label, some in ((_OPTIONAL, fields), (_REPEATED, lists)):
            for number, (field, kind) in some.items():
                message.field.add(name=field, number=number, type=kind, label=label)
    message = file.message_type.add(name="ModelProto")
    for number, field, label, message_name in (
        (1, "pieces", _REPEATED, "Piece"),
        (2, "trainer_spec", _OPTIONAL, "TrainerSpec"),
        (3, "normalizer_spec", _OPTIONAL, "NormalizerSpec"),
        (5, "denormalizer_spec", _OPTIONAL, "NormalizerSpec"),
    ):
        type_name = f".{_PACKAGE}.{message_name}"
        message.field.add(name=field, number=number, type=_MESSAGE, label=label, type_name=type_name)
    return file
