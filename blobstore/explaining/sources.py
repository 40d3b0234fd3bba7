"""Codes of what is converted: checkpoints, their tokenizers, adapters; and of the conversion itself."""

from __future__ import annotations

from blobstore.explaining.entry import Entry

_BY_NAME = "blobstore convert --as names keeps every tensor."

CHECKPOINT = {
    "no-checkpoint": Entry(
        "There is no checkpoint at the path, or several that could be meant.",
        "Pass the folder that has config.json and the weights, or one file.",
    ),
    "not-safetensors": Entry(
        "The file has another format than a checkpoint's: the message says which.",
        "Pass a safetensors, GGUF or PyTorch checkpoint. An .sbs file needs no conversion.",
    ),
    "two-checkpoints": Entry(
        "The folder has two checkpoints, and taking the wrong one would go unnoticed.",
        "Pass the file that you mean, or move the other one out of the folder.",
    ),
    "one-shard": Entry("The file is one of several that make a checkpoint.", "Pass its folder."),
    "missing-shard": Entry(
        "Some of the checkpoint's files are missing.", "Download the rest, or copy it into the folder."
    ),
    "bad-shard-index": Entry(
        "The index of the checkpoint's files is damaged, or names files elsewhere.",
        "Download it again; if an export was interrupted, export again.",
    ),
    "bad-shard": Entry("The parts of a GGUF model don't belong together.", "Download all of them again."),
    "duplicate-tensor": Entry(
        "A name stands for two tensors of the checkpoint.", "Remove the file that doesn't belong to it, or rename one."
    ),
    "name-clash": Entry(
        "Two names become the same without the words that a tool put in front of them.", "Rename one of the tensors."
    ),
    "safetensors-header": Entry("The header of a safetensors file is damaged or cut off.", "Download the file again."),
    "safetensors-entry": Entry(
        "The header of a safetensors file describes a tensor wrongly.", "Download the file again."
    ),
    "safetensors-layout": Entry(
        "The tensors of a safetensors file overlap, leave gaps, or end beyond the file: a download was cut off.",
        "Download the file again.",
    ),
    "gguf": Entry("A GGUF file is damaged, cut off, or of a version that isn't read.", "Download the file again."),
    "no-decoder": Entry(
        "The tensors are quantised in a way that the installed package gguf doesn't decode.",
        "pip install --upgrade gguf, or convert the original checkpoint.",
    ),
    "bad-pickle": Entry(
        "A .bin or .pt file isn't what torch.save writes, or holds more than tensors.",
        "Save it anew with torch.save(model.state_dict(), …), or take the checkpoint in safetensors.",
    ),
    "needs-download": Entry(
        "PyTorch's pickled files can't be read from a server.", "Download the checkpoint, or take one in safetensors."
    ),
    "no-tensors": Entry(
        "There are no tensors to work on.",
        "Is it the right file? A pickled one has to hold a state dict.",
    ),
    "unsupported-tensor": Entry(
        "A tensor is sparse, quantised or on another device, and has no stored form.",
        "Save it as a plain one, on the CPU.",
    ),
    "unsupported-dtype": Entry(
        "The dtype has no element type here, or the library that should get it has no such dtype.",
        "Convert the array to one of the types in the message.",
    ),
    "bad-config": Entry("config.json, or a file like it, is not a JSON object.", "Download it again."),
    "too-large": Entry("A small file, such as config.json, is too large to be one.", "Is it another file?"),
    "missing-extra": Entry(
        "What this needs is an optional package, which isn't installed.", "Install what the message names."
    ),
    "not-a-tokenizer": Entry(
        "The file is not a tokenizer, or not one that gemma.cpp could use: the message says what it is.",
        "Pass the model's own tokenizer.model or tokenizer.json with --tokenizer.",
    ),
}
ADAPTERS = {
    "no-adapter": Entry(
        "There is no adapter at the path.",
        "Pass the folder that has adapter_config.json and adapter_model.safetensors.",
    ),
    "adapter": Entry(
        "The checkpoint is an adapter, or has unmerged ones in it.",
        "Convert the base with --adapter FOLDER; a model with adapters inside is merged with peft first.",
    ),
    "adapter-base": Entry(
        "The base is quantised, and an adapter is added to floats.", "Take the original checkpoint as the base."
    ),
    "adapter-config": Entry(
        "adapter_config.json can't be read, or a value in it has another form.", "Save the adapter again with peft."
    ),
    "adapter-names": Entry(
        "Tensors of the adapter have no counterpart in the base, or several.",
        "Pass the model that the adapter was trained on; adapter_config.json names it.",
    ),
    "adapter-option": Entry(
        "The adapter uses something that isn't merged here: the message names it.",
        "Merge it with peft (merge_and_unload), save the model, and convert that.",
    ),
    "adapter-tensor": Entry(
        "A tensor of the adapter is missing, has another shape, or contradicts adapter_config.json.",
        "Is it the right base, and is the adapter complete? Save it again with peft.",
    ),
    "other-adapters": Entry(
        "The file was made with other adapters than those given.",
        "Pass each that the message names with --adapter, in its order.",
    ),
}
CONVERSION = {
    "cannot-convert": Entry(
        "The checkpoint can't be converted as you asked. The message lists what is wrong, each with a code of its own.",
        f"Look up those codes. {_BY_NAME}",
    ),
    "missing-config": Entry(
        "config.json is missing, or doesn't say what only it can say.",
        f"Download the checkpoint's own config.json. {_BY_NAME}",
    ),
    "unsupported-model": Entry("gemma.cpp runs no model of this kind.", _BY_NAME),
    "unsupported-config": Entry(
        "config.json asks for something that gemma.cpp doesn't compute, so the results would be wrong.",
        f"Is it this checkpoint's own config.json? {_BY_NAME}",
    ),
    "config-disagrees": Entry(
        "config.json and the tensors contradict each other: they belong to two models.",
        f"Download the checkpoint again. {_BY_NAME}",
    ),
    "shape": Entry(
        "A tensor has another shape than config.json says.",
        f"Is the checkpoint complete, and config.json its own? {_BY_NAME}",
    ),
    "quantised": Entry(
        "The weights are quantised, or have a type that isn't a float.",
        "Convert from the original checkpoint, in bf16, f16 or f32.",
    ),
    "untied-head": Entry(
        "The checkpoint has a head that differs from the embedding, and gemma.cpp uses the embedding as the head.",
        f"No gemma.cpp runs this model. {_BY_NAME}",
    ),
    "no-weights": Entry(
        "No tensor can have the type asked for: its blocks need a multiple of 32 columns.", "Use --weights sfp."
    ),
    "stock-only": Entry(
        "gemma.cpp loads this model in its own layout only.", "Leave --layout out; use --weights sfp or bf16."
    ),
    "bad-tensors": Entry(
        "Names, shapes or types of the checkpoint can't be stored, or two names get the same key.",
        "Rename the tensors that the message lists.",
    ),
    "not-converted": Entry(
        "The file doesn't say how it was converted, so the conversion can't be repeated and compared.",
        "Convert again with this blobstore; blobstore diff compares any two files.",
    ),
    "cannot-export": Entry(
        "A tensor is stored in a way that this version can't decode.",
        "Install a newer blobstore; blobstore get FILE NAME -o OUT gives its bytes.",
    ),
    "no-safetensors-type": Entry(
        "safetensors has no type for a tensor.", "Decode it: blobstore export --dtype f32, or bf16."
    ),
}
