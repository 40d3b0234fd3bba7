"""Codes of what ``blobstore check`` finds for gemma.cpp, and notes about a conversion.

What each does in gemma.cpp, and its fix, are in `blobstore.checking.codes`. An entry has a fix of its own if an error
has the same code.
"""

from __future__ import annotations

from blobstore.explaining.entry import Entry

RUNTIME = {
    "not-for-gemma": Entry("You asked whether gemma.cpp runs the file, and it has neither a config nor a toc."),
    "by-name": Entry("The file was made by name: it holds tensors, and no model for gemma.cpp."),
    "layer-number": Entry(
        "A key ends with a number that gemma.cpp reads as that of a layer, beyond those that a model can have."
    ),
    "type-letter": Entry("gemma.cpp reads the first letter of a key as a type, as in files from before 2025."),
    "unknown-tensor": Entry(
        "The key is not that of a tensor that the model has.", "Use one of the keys that the message names."
    ),
    "reserved-key": Entry(
        "The key, or the metadata entry, belongs to gemma.cpp or to blobstore itself.", "Choose another."
    ),
    "before-2025": Entry("The file is of the form from before 2025, which has no config."),
    "letters-damaged": Entry("The tensors of a file from before 2025, or their scales, are not as they should be."),
    "no-config": Entry(
        "The file has no config blob, from which gemma.cpp knows the model.",
        "Convert the checkpoint again with blobstore convert; a file made by name has none, and needs no repair.",
    ),
    "config-damaged": Entry("The config blob can't be read."),
    "config-trailing": Entry("The config blob has bytes behind its record."),
    "global-rope": Entry(
        "A Gemma 3 config says nothing of the base of RoPE in global layers, and gemma.cpp then takes a wrong one.",
        "Files: blobstore repair FILE. ModelWriter: set the field as the message says.",
    ),
    "rope-by-label": Entry("The config has the base of RoPE in a field that older versions of gemma.cpp don't read."),
    "newer-fields": Entry("The config has fields that this gemma.cpp doesn't know."),
    "ignored-fields": Entry("The config has fields that this gemma.cpp doesn't know, and that change the results."),
    "newer-value": Entry("A field of the config has a value that this gemma.cpp doesn't know."),
    "newer-type": Entry("The toc has a type of tensor that this gemma.cpp doesn't know."),
    "newer-text": Entry("A text in the config or the toc is not ASCII."),
    "newer-vector": Entry("A list in the config is longer than this gemma.cpp reads."),
    "newer-blobs": Entry("The file has more blobs than this gemma.cpp reads."),
    "nested-fields": Entry("A record inside the config has fields that this gemma.cpp doesn't know."),
    "custom-model": Entry("The config doesn't name a model of gemma.cpp's own."),
    "not-compared": Entry("The model is newer than those whose tensors this version of blobstore knows."),
    "config-model": Entry("The config names no model, or no type of weights."),
    "config-sizes": Entry("Sizes in the config contradict each other, or gemma.cpp's limits."),
    "unlike-layers": Entry("The layers have different sizes."),
    "columns": Entry("A size of the model is beyond the columns that gemma.cpp's matrix products have buffers for."),
    "rows": Entry("The rows of a matrix are not a multiple of what gemma.cpp's matrix products take at once."),
    "sequence": Entry("The config's max_seq_len is shorter than a prompt of one word."),
    "vision-config": Entry("The sizes of the vision part are not those that gemma.cpp was written for."),
    "image-prompts": Entry("The model takes images, and this gemma.cpp's program stops at them."),
    "too-many-layers": Entry(
        "The model has more layers than gemma.cpp's keys can number.",
        "Keep the tensors by name: blobstore convert --as names.",
    ),
    "vocabulary": Entry(
        "The number of rows of the embedding is not a multiple of what gemma.cpp's samplers take.",
        "Leave out --no-pad: blobstore convert then pads the embedding.",
    ),
    "stop-token": Entry("A stop token of the config is outside the vocabulary."),
    "no-toc": Entry("The file has no toc, gemma.cpp's table of tensors."),
    "toc-damaged": Entry("The toc can't be read."),
    "toc-numbers": Entry("The toc has numbers that don't follow from its shapes."),
    "missing-tensor": Entry(
        "A tensor that the model needs is missing: the checkpoint or the file is incomplete, or of another model.",
        "Download the rest, or keep what is there by name: blobstore convert --as names.",
    ),
    "both-forms": Entry(
        "A matrix is there both whole and split.",
        "Leave one of the forms out.",
    ),
    "unexpected-tensor": Entry(
        "A tensor is not one of the model's, so leaving it out could change what the model is.",
        "Is it the right checkpoint? blobstore convert --as names keeps every tensor.",
    ),
    "tensor-shape": Entry("A tensor has another shape than the config says."),
    "tensor-type": Entry("A tensor has a type that gemma.cpp doesn't take there."),
    "pair-types": Entry("Two tensors that gemma.cpp computes with together have different types."),
    "weight-type": Entry("The config's type of weights is not the narrowest type of the tensors."),
    "mixed-f32": Entry("The config says that weights are f32, and some tensors have a narrower type."),
    "nuq-weights": Entry("The weights are nuq, which gemma.cpp reads only if it was built for it."),
    "i8-weights": Entry("The weights are i8."),
    "i8-stock": Entry(
        "i8 weights in gemma.cpp's own layout of blobs, which older versions can't load.",
        "blobstore convert --weights i8 --layout split, or --weights sfp.",
    ),
    "scale-ignored": Entry("A vector has a scale, which gemma.cpp reads only of matrices."),
    "f32-large": Entry("A tensor of f32 is larger than what gemma.cpp reads at once."),
    "no-tokenizer": Entry("The file has no tokenizer."),
    "tokenizer-model": Entry(
        "The tokenizer is not a SentencePiece model, or is damaged.",
        "Pass the model's own with --tokenizer tokenizer.model, or tokenizer.json.",
    ),
    "tokenizer-pieces": Entry("The tokenizer has pieces that SentencePiece refuses."),
    "tokenizer-size": Entry("The tokenizer has more tokens than the embedding has rows."),
    "tokenizer-kind": Entry(
        "The config names a kind of tokenizer that doesn't exist, or not the one that the file has.",
        "Install a newer blobstore, or convert the checkpoint again.",
    ),
    "tokenizer-bpe": Entry("The BPE tokenizer is damaged, or doesn't fit the config."),
    "tokenizer-merges": Entry("Merges of the BPE tokenizer make no token."),
    "unused-blob": Entry("A blob is neither a tensor nor anything else that gemma.cpp reads."),
}
NOTES = {
    "conversion": Entry("What the conversion does beyond copying; the message says it.", "None needed."),
    "tensor-left-out": Entry("A tensor of the checkpoint isn't one that gemma.cpp uses."),
    "file-left-out": Entry("A file of the checkpoint isn't needed, or is too large to be carried."),
    "wrapped-names": Entry("A tool that trained or compiled the model put a word in front of the names."),
    "padded-vocabulary": Entry("The embedding gets rows, as gemma.cpp takes only some numbers of them."),
    "spare-rows": Entry("The embedding has rows outside the vocabulary."),
    "kept-norms": Entry(
        "gemma.cpp stores norms minus 1, which some values don't survive: those norms are stored as they were, too."
    ),
    "no-vision": Entry("The checkpoint's part for images isn't converted."),
}
