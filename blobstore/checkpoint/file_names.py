"""What a file of a checkpoint's folder is, by its name: another format, of the training, or not weights at all."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase

from blobstore.errors import CheckpointError
from blobstore.fileio.places import exists, folder_of, join, name_in
from blobstore.index.file_names import file_name_fault

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
# What people pass by mistake, and the fix.
_FOREIGN = {
    ".h5": "a Keras file: convert from the original checkpoint",
    ".sbs": "an .sbs file already",
    ".task": "a MediaPipe bundle for phones: convert from the original checkpoint",
    ".tflite": "a TensorFlow Lite file: convert from the original checkpoint",
    ".onnx": "an ONNX file: convert from the original checkpoint",
    ".msgpack": "a Flax file: convert from the original checkpoint",
    ".npz": "an npz file: save its arrays as safetensors first",
}
CONFIG = "config.json"
_OF_THE_TRAINING, _OF_THE_TOKENIZER = "of the training", "of the tokenizer"
# What transformers and sentence-transformers read to load a model, its tokenizer and its processor; all of it is data.
_MODEL_FILES = {
    "settings of the model": (CONFIG, "generation_config.json"),
    _OF_THE_TOKENIZER: (
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "source.spm"),
        *("target.spm", "chat_template.jinja", "chat_template.json"),
    ),
    "of the processor": ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    "of sentence-transformers": ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
}
_WHY_MODEL_FILE = {name: why for why, names in _MODEL_FILES.items() for name in names}
MODEL_FILES: tuple[str, ...] = tuple(_WHY_MODEL_FILE)
_TEMPLATES = "additional_chat_templates"
_MODULE = re.compile("[0-9]+_[A-Za-z]+")  # of sentence-transformers, such as 1_Pooling
_IN_FOLDERS = re.compile(f"{_MODULE.pattern}/config\\.json|{_TEMPLATES}/[^/]+\\.jinja")
# Files of a model that was divided among devices: each has a part of every tensor.
_PART = re.compile(r"(consolidated\.)([0-9]{2})(\.(?:pth|safetensors))").fullmatch
# Patterns of names in small letters, a folder's with a slash at its end. The first that matches counts.
_UNUSED = {
    _OF_THE_TRAINING: (
        "optimizer* scheduler* scaler* training_args* rng_state* random_states* trainer_state* trainer_log* "
        "training_loss* train_results* eval_results* all_results* *_optim_states.pt *_model_states.pt latest "
        "zero_to_fp32.py checkpoint-*/ global_step*/ pytorch_model_fsdp*/ runs/ logs/ wandb/"
    ),
    _OF_THE_TOKENIZER: f"tokenizer* tokenization_*.json sentencepiece* chat_template* {_TEMPLATES}/",
    "of the processor": "image_processor* video_preprocessor*",
    "of sentence-transformers": "[0-9]_*/",
    "not of the model": (
        "readme* license* licence* notice* *_policy* changelog* citation* .* *.md *.txt *.pdf *.png *.jpg *.jpeg *.gif "
        "*.webp *.svg *.html *.ipynb *.sh *.lock *.log assets/ images/ figures/"
    ),
    "code": "*.py __pycache__/",
    "of an adapter": "adapter_*",
    "weights in another file or format, by its name": (
        "*.safetensors *.bin *.pt *.pth *.ckpt *.gguf *.h5 *.msgpack *.onnx *.onnx_data *.tflite *.task *.ot *.npz "
        "*.sbs *.sbs.idx *.pte *.distcp *.safetensors.index.json *.bin.index.json original/ onnx/ openvino/ coreml/ "
        "gguf/ metal/"
    ),
}


def is_of_tokenizer(name: str) -> bool:
    """Whether a file is the tokenizer's or a chat template, by its name, with ``/`` if it is in a folder."""
    return name.startswith(f"{_TEMPLATES}/") or why_unused(name) == _OF_THE_TOKENIZER


def why_unused(name: str) -> str:
    """Say why nothing of a file goes into a conversion, by its name; a folder's ends in a slash."""
    if name in _WHY_MODEL_FILE:
        return _WHY_MODEL_FILE[name]
    lower = name.lower()
    for why, patterns in _UNUSED.items():
        if any(fnmatchcase(lower, pattern) for pattern in patterns.split()):
            return why
    return "not known"


def is_model_file(name: str) -> bool:
    """Whether a file of this name belongs to a model, and is data: that is what conversions carry and exports write."""
    return not file_name_fault(name) and (name in _WHY_MODEL_FILE or _IN_FOLDERS.fullmatch(name) is not None)


def has_model_files(folder: str) -> bool:
    """Whether a folder of this name, inside a checkpoint's, may have such files."""
    return folder == _TEMPLATES or _MODULE.fullmatch(folder) is not None


def is_pickled(name: str) -> bool:
    """Whether a file has weights in PyTorch's pickled format, by its name."""
    return name.lower().endswith(_PICKLED) and why_unused(name) != _OF_THE_TRAINING


def is_weights(name: str) -> bool:
    """Whether a file has tensors that a conversion reads, or is an index of such files, by its name."""
    return name.endswith((".safetensors", ".index.json")) or is_pickled(name)


def refuse_foreign(path: str) -> None:
    """Refuse a file of another format by its name, or an index of such files.

    Raises:
        CheckpointError: ``not-safetensors``.
    """
    extension = os.path.splitext(path.lower().removesuffix(".index.json"))[1]
    if extension in _FOREIGN:
        raise CheckpointError("not-safetensors", f"{path!r} is {_FOREIGN[extension]}")


def refuse_part(path: str) -> None:
    """Refuse one of several files that have a part of every tensor, by its name.

    Raises:
        CheckpointError: ``no-checkpoint``.
    """
    folder, name = folder_of(path), name_in(path)
    part = _PART(name)
    others = exists(join(folder, f"{part[1]}01{part[3]}")) if part else False
    if part and (int(part[2]) or others):
        what = f"{path!r} has a part of every tensor, as a model that was divided among devices"
        raise CheckpointError(
            "no-checkpoint", f"{what}: join the parts first, or take the model saved for transformers"
        )
