"""Codes of .sbs files: the container, the name index, sets, packed tensors, and what gemma.cpp stores in one."""

from __future__ import annotations

from blobstore.explaining.entry import Entry

_DOWNLOAD = "Download the file again, and compare its size with the publisher's."
_AGAIN = "Write the file again with blobstore, or download it again."
_REINDEX = "blobstore index build FILE --force builds a new index from the blobs."
_PACK_AGAIN = "Download the file again, or pack the original again."
_CONVERT = "Convert the checkpoint again, or download the file again."

CONTAINER = {
    "truncated": Entry("The file is shorter than the header that every .sbs file has.", _DOWNLOAD),
    "bad-magic": Entry(
        "The file doesn't begin as an .sbs file does. The message names the format that it has, if blobstore knows it.",
        "Pass an .sbs file; make one of a safetensors or GGUF checkpoint with blobstore convert.",
    ),
    "bad-placeholder": Entry("The header of version 2 has another value in the field that never changes.", _AGAIN),
    "no-directory": Entry(
        "The directory at the end of the file is missing: a download was cut off, or the writer was killed.",
        "Download the file again. blobstore recover FILE -o OUT saves what is intact.",
    ),
    "blob-count": Entry("The header says that the file has no blob, or more than any file can have.", _AGAIN),
    "file-size": Entry(
        "The header says another size than the file has: a download was cut off, or something was appended.",
        "Download the file again. blobstore recover FILE -o OUT saves what is intact.",
    ),
    "directory-range": Entry(
        "The directory needs more bytes than the file has.",
        "Download the file again. blobstore recover FILE -o OUT saves what is intact.",
    ),
    "bad-key": Entry(
        "A key is not text of 1 to 16 bytes, padded with zeros.",
        "When writing, pass a shorter key, or a name to blobstore.create. A file that has such a key is damaged: "
        "download it again.",
    ),
    "duplicate-key": Entry(
        "Two blobs have the same key, so a reader can't tell them apart.",
        "When writing, give each blob a key of its own. A file that has one twice has to be written again.",
    ),
    "empty-blob": Entry(
        "A blob has no bytes; each has at least one.",
        "When writing, leave it out; store a tensor without elements by name, with blobstore.create.",
    ),
    "blob-range": Entry("The directory places a blob outside the file, or inside the directory.", _AGAIN),
    "blob-offset": Entry("A blob doesn't begin where the one before it ends, rounded up to 256 bytes.", _AGAIN),
    "payload-end": Entry("There are bytes between the last blob and what follows it that belong to nothing.", _AGAIN),
    "padding": Entry("The padding between blobs is not zeros: the file has changed since it was written."),
    "key-not-found": Entry(
        "No blob has this key; the message names keys that come close.",
        "blobstore ls FILE --keys lists the keys.",
    ),
    "key-too-long": Entry(
        "A key has more than 16 bytes, the most that gemma.cpp reads.",
        "Use blobstore.create, which gives a long name a key made from its hash, or blobstore.key_for(name).",
    ),
    "name-not-found": Entry(
        "No tensor has this name; the message has names that come close.",
        "blobstore ls FILE lists the names. In a file without an index tensors have the names of their keys.",
    ),
    "short-read": Entry(
        "The file ended before what it should have: it was cut off while it was open.",
        "Open it again once it is complete.",
    ),
    "damaged-blob": Entry(
        "The SHA-256 of a blob's bytes is not the one that the index has: they changed after they were written.",
        "Download the file again, or convert it again. blobstore verify FILE names every blob concerned.",
    ),
    "not-recoverable": Entry(
        "Neither the directory nor an index that could replace it was found.",
        "Pass the file's index, if there is a copy, with --index; otherwise download the file again.",
    ),
    "nothing-whole": Entry(
        "The directory was found, but every blob in it is damaged or missing.",
        "Download the file again.",
    ),
    "replaced": Entry(
        "Another file has taken the place of the one that was open, or of its index.",
        "Open it again.",
    ),
}
INDEX = {
    "index": Entry("The name index is invalid."),
    "index-misplaced": Entry("One of the blobs is an index, but no blob has its key: the directory is damaged."),
    "index-lost": Entry("Keys were made from long names, but the index that has the names is gone."),
    "index-disagrees": Entry("The index and gemma.cpp's toc say different things about a tensor."),
    "index-truncated": Entry("The name index is shorter than its header.", _REINDEX),
    "index-magic": Entry("The blob or .idx file is not a name index, or not that of a set.", _REINDEX),
    "index-version": Entry("The index has a version that this blobstore doesn't know.", "Install a newer blobstore."),
    "index-flags": Entry("The index sets flags that don't go together, or that aren't known.", _REINDEX),
    "index-nbytes": Entry("The size in the header of the index is not that of the blob or .idx file.", _REINDEX),
    "index-section": Entry("A count in the header of the index doesn't fit its size.", _REINDEX),
    "index-reserved": Entry("Bytes of the index that have to be zero are not.", _REINDEX),
    "index-name": Entry("A name in the index is empty, too long, or not UTF-8.", _REINDEX),
    "index-order": Entry("The names in the index are not in ascending order, or one appears twice.", _REINDEX),
    "index-dims": Entry("A shape in the index is invalid, or has too many dimensions or elements.", _REINDEX),
    "index-blob": Entry("An entry of the index has values but no blob, or one that the index doesn't list.", _REINDEX),
    "index-range": Entry("An entry of the index has bytes beyond the end of its blob.", _REINDEX),
    "index-shape": Entry("The size of a tensor in the index doesn't follow from its shape and type.", _REINDEX),
    "index-codec": Entry(
        "An entry of the index says that its blob is packed, and the table of blobs the opposite.",
        _REINDEX,
    ),
    "index-scale": Entry("A scale in the index is not a finite number.", _REINDEX),
    "index-key": Entry("A key in the index is not a key, or appears twice.", _REINDEX),
    "index-metadata": Entry("The metadata in the index is not a JSON object of text.", _REINDEX),
    "index-missing-blob": Entry("The index lists a blob that the file doesn't have.", _REINDEX),
    "index-blob-size": Entry("A blob has another size than the index says.", _REINDEX),
    "index-stale": Entry(
        "The index was made for another file: one of the two was replaced.",
        "Put back the .idx that belongs to the file, or build a new one: blobstore index build FILE --force.",
    ),
    "index-digest": Entry(
        "The index doesn't have the SHA-256 that it says it has: it was changed after it was written.", _REINDEX
    ),
    "index-stores": Entry(
        "The table of a set's files is invalid.", "blobstore index join FILE … -o OUT makes it anew."
    ),
    "rearranged-metadata": Entry(
        "The metadata that says how the checkpoint's tensors lie in gemma.cpp's is damaged.",
        "Convert the checkpoint again. --by keys reads the tensors as gemma.cpp has them.",
    ),
    "files-list": Entry("The metadata that lists the files carried (config.json, …) is damaged.", _CONVERT),
    "files-missing": Entry("A file that is listed as carried has no blob.", _DOWNLOAD),
}
SETS = {
    "set": Entry("A file of a set is not the one that the set's index was made for."),
    "set-stale": Entry(
        "A file of the set, or its index, was replaced after the set was made.",
        "Put the right file back, or make the index anew with blobstore index join.",
    ),
    "set-store": Entry(
        "A file of the set doesn't have the blobs that the set's index lists.",
        "Put the right file back, or download it again.",
    ),
    "set-missing-store": Entry(
        "A file of the set isn't beside its index.",
        "Put it back, or download it again.",
    ),
    "set-not-file": Entry(
        "This is the index of a set, and the command takes a single file; or a file would replace it, and leave the "
        "set's files behind.",
        "Pass the files of the set, one after the other; blobstore ls lists them. Write to another path.",
    ),
    "bad-store": Entry(
        "A file can't be part of a set: it is of version 1, or it has no tensors.",
        "Rewrite it with blobstore rewrite FILE -o OUT --container 2, or leave it out.",
    ),
    "bad-store-name": Entry(
        "A name can't be that of a file in a set: it is too long, or has a character that some system refuses.",
        "Rename the file.",
    ),
    "no-stores": Entry("A set was to be joined from no files.", "Name at least one."),
    "other-folder": Entry(
        "A set's files have to lie in the folder of its index.",
        "Move them there, or choose an output beside them.",
    ),
    "set-exists": Entry(
        "A complete set has the same name, or some of its files.",
        "Remove its files, or choose another output.",
    ),
    "other-set": Entry(
        "An unfinished set lies here that was begun from another source, or with other choices.",
        "Remove its files, and begin anew; or repeat the command with the choices that it was begun with.",
    ),
    "no-set": Entry(
        "A set is written to paths, in version 2, with its indexes inside.",
        "Leave out --max-shard-size, or the option that excludes it.",
    ),
    "needs-digests": Entry(
        "A set can be continued only if its files have digests, by which what is complete is known.",
        "Remove the files, and begin anew with digests.",
    ),
    "too-many-tensors": Entry(
        "The checkpoint has more tensors than one file can have.",
        "Write a set to a path: blobstore convert SRC -o OUT.sbs --max-shard-size 50GB.",
    ),
}
PACKED = {
    "packed": Entry("The file is packed, and gemma.cpp reads no packed files."),
    "packed-truncated": Entry("A packed tensor is shorter than the header of one.", _PACK_AGAIN),
    "packed-magic": Entry("A blob that the index calls packed doesn't begin as a packed tensor does.", _PACK_AGAIN),
    "packed-version": Entry(
        "A packed tensor has a version that this blobstore doesn't know.", "Install a newer blobstore."
    ),
    "packed-header": Entry("The header of a packed tensor is damaged: its CRC-32 doesn't match.", _PACK_AGAIN),
    "packed-flags": Entry("The header of a packed tensor has unknown flags.", "Install a newer blobstore."),
    "packed-layout": Entry("The header of a packed tensor names a layout of bits that doesn't exist.", _PACK_AGAIN),
    "packed-chunk": Entry("The chunk size of a packed tensor is 0 or beyond the limit.", _PACK_AGAIN),
    "packed-reserved": Entry("Bytes of a packed tensor's header that have to be zero are not.", _PACK_AGAIN),
    "packed-table": Entry("The table of a packed tensor's frames doesn't fit into its blob.", _PACK_AGAIN),
    "packed-table-crc": Entry(
        "The table of a packed tensor's frames is damaged: its CRC-32 doesn't match.", _PACK_AGAIN
    ),
    "packed-sizes": Entry("The frames of a packed tensor don't add up to its size.", _PACK_AGAIN),
    "packed-frame": Entry("A frame of a packed tensor has another size than the table says.", _PACK_AGAIN),
    "packed-data": Entry("A frame of a packed tensor can't be decompressed: it is damaged.", _PACK_AGAIN),
    "packed-pairs": Entry("A frame of a packed tensor has codes that stand for nothing.", _PACK_AGAIN),
    "packed-nbytes": Entry("A packed tensor unpacks to another size than the index says.", _PACK_AGAIN),
    "packed-metadata": Entry("What the file says about the original that was packed can't be read.", _PACK_AGAIN),
    "packed-skeleton": Entry("The bytes of the original between its tensors are missing or damaged.", _PACK_AGAIN),
    "packed-file": Entry(
        "The file is packed, and the command changes only files that aren't.",
        "Unpack it first: blobstore unpack FILE -o OUT.",
    ),
    "packed-base": Entry(
        "A base was given without its SHA-256, or the other way round.",
        "Pass both, or neither.",
    ),
    "packed-level": Entry("The level is not one that packing has.", "Pass one of those in the message."),
    "packed-range": Entry(
        "A range outside the unpacked bytes was asked for, or a buffer of another size was given.",
        "Ask for bytes inside the tensor.",
    ),
    "packed-type": Entry(
        "The elements are smaller than a byte, and numpy has no type for them.",
        "store.raw(name) gives the bytes.",
    ),
    "packed-needs-zstd": Entry(
        "A C++ program was built without zstd, and the tensor is packed.",
        "Build it with BLOBSTORE_ZSTD defined, and with libzstd; or unpack the file: blobstore unpack FILE -o OUT.",
    ),
    "already-packed": Entry("The file to be packed is packed.", "Pass the original, or leave the file as it is."),
    "not-packed": Entry("The file to be unpacked isn't packed.", "Use it as it is."),
    "needs-base": Entry(
        "The file, or a tensor in it, is stored as the difference to another file, its base.",
        "Pass that file with --base, or base=; blobstore info FILE says which one it is.",
    ),
    "wrong-base": Entry(
        "The base is not the file that the difference was made against, or it has changed since.",
        "Pass the file whose directory has the SHA-256 that blobstore info FILE shows.",
    ),
    "needless-base": Entry(
        "A base was given, and nothing is read that is stored as a difference.", "Leave --base, or base=, out."
    ),
    "no-base-blobs": Entry(
        "No tensor gets smaller as the difference to the base: they have other keys or sizes, or too little in common.",
        "Leave --base out, or choose a base that the file was made from.",
    ),
    "unpacked-digest": Entry(
        "The unpacked file is not the one that was packed: its SHA-256 is another one.", _PACK_AGAIN
    ),
}
CODECS = {
    "no-digests": Entry(
        "The file has no SHA-256 of its blobs, so a change in them can't be noticed.",
        "blobstore index build FILE --digests adds them. BlobWriter takes digests=True.",
    ),
    "no-digest": Entry("A blob has no SHA-256 in the index, so a change in it can't be noticed."),
    "not-a-number": Entry("A tensor has NaN among its values."),
    "infinite": Entry("A tensor has infinite values."),
    "reserved-code": Entry("An 8-bit code of gemma.cpp's has a value that stands for nothing."),
    "undecodable": Entry("A tensor has an encoding that this version doesn't know."),
    "not-finite": Entry(
        "A value is NaN or infinite, and the type that it would get can't hold it.",
        "Repair the checkpoint, or keep its own type: --weights bf16, or --as names.",
    ),
    "not-float": Entry(
        "The codec encodes floats, and decodes to them; another dtype was given.",
        "Convert the array first, or choose a type that stores integers.",
    ),
    "i8-range": Entry(
        "A group of values has a range that the i8 encoding can't hold.",
        "Store it as bf16, or as sfp.",
    ),
    "sfp-reserved-code": Entry("A byte of an sfp tensor is 0x80, which stands for nothing: it is damaged.", _CONVERT),
    "mxfp4-reserved-scale": Entry(
        "A block of an mxfp4 tensor has the scale 0xFF, which stands for nothing: it is damaged.",
        _CONVERT,
    ),
    "no-encoder": Entry(
        "blobstore decodes this type, but doesn't encode it.",
        "Choose one of the types in the message, or store the encoded bytes with add_stored.",
    ),
    "unknown-codec": Entry(
        "The tensor was stored with an encoding that this version doesn't know.",
        "Install a newer blobstore, or read its bytes with store.raw(name).",
    ),
    "unknown-type": Entry(
        "The element type doesn't exist, or is newer than this version.",
        "Use one of those in the message, install a newer blobstore, or read the bytes with store.raw(name).",
    ),
    "scaled-type": Entry(
        "The values are whole numbers with a scale, and have no view without it.",
        "store.load(name, dtype=numpy.float32) multiplies; store.raw(name) gives the bytes.",
    ),
    "wrong-size": Entry(
        "The bytes given are more or fewer than the shape and the type need.",
        "Check shape and type.",
    ),
}
MODEL = {
    "fields-size": Entry(
        "A record of gemma.cpp's, such as its config, is not a whole number of 32-bit words.", _CONVERT
    ),
    "fields-truncated": Entry("A record of gemma.cpp's ends inside a field.", _CONVERT),
    "fields-number": Entry("A number in a record of gemma.cpp's is not finite.", _CONVERT),
    "fields-bool": Entry("A field of a record that is true or false has another value.", _CONVERT),
    "fields-string": Entry("A text in a record of gemma.cpp's is too long, or not UTF-8.", _CONVERT),
    "fields-vector": Entry("A list in a record of gemma.cpp's has more elements than the record can hold.", _CONVERT),
    "toc-duplicate": Entry("gemma.cpp's toc, its table of tensors, lists one twice.", _CONVERT),
    "toc-type": Entry(
        "gemma.cpp's toc gives a tensor a type that this version doesn't know.", "Install a newer blobstore."
    ),
    "toc-missing-blob": Entry("gemma.cpp's toc lists a tensor that has no blob.", _CONVERT),
    "toc-size": Entry("A blob has another size than gemma.cpp's toc says.", _CONVERT),
    "toc-stride": Entry(
        "The rows of a tensor were stored with their padding in memory, which no reader skips.",
        "Convert the checkpoint again, or drop the tensor if the file has it in another form.",
    ),
    "letters-duplicate": Entry("A file from before 2025 has a tensor twice, in different types.", _CONVERT),
    "scales-count": Entry("The scales of a file from before 2025 are not one for each scaled tensor.", _CONVERT),
    "scales-number": Entry("A scale of a file from before 2025 is not a finite number.", _CONVERT),
    "bpe-size": Entry("The BPE tokenizer's record ends before its blob does.", _CONVERT),
    "bpe-tokens": Entry("The BPE tokenizer has no tokens.", _CONVERT),
    "bpe-flags": Entry("The BPE tokenizer says that it is of bytes, and that it escapes spaces.", _CONVERT),
    "bpe-unknown": Entry("The BPE tokenizer's unknown token is not among its tokens.", _CONVERT),
    "bpe-merges": Entry("A merge of the BPE tokenizer has a token that doesn't exist.", _CONVERT),
    "bpe-added": Entry("The added tokens of the BPE tokenizer are not in order, or one doesn't exist.", _CONVERT),
    "bad-field": Entry(
        "A value doesn't fit a field of gemma.cpp's records; the message says what does.",
        "Pass a value that the message describes.",
    ),
    "bad-wrapping": Entry(
        "The model has no such wrapping, the form of its prompts.", "Use one that the message names."
    ),
    "unknown-model": Entry(
        "No model of gemma.cpp's has this name.",
        "Use one of those in the message; it has to end with a type of weights and a wrapping.",
    ),
    "unknown-weight": Entry("No type of weights has this name.", "Use one of those in the message."),
    "missing": Entry("A tensor that the config requires is missing.", "Add it before the model is complete."),
    "unexpected": Entry("A tensor is not one of the model's, and gemma.cpp ignores it.", "Leave it out, or rename it."),
    "type": Entry("gemma.cpp takes the tensor in other types only.", "Encode it as one of those in the message."),
    "weight": Entry(
        "The config's type of weights is not the narrowest type of the tensors.",
        "Change config.weight, or the tensors.",
    ),
    "wrong-shape": Entry("A tensor has another shape than the model's config says.", "Transpose or reshape it."),
    "wrong-type": Entry("gemma.cpp takes the tensor in other types only.", "Encode it as one of those in the message."),
    "incomplete-model": Entry(
        "Tensors that the config requires were not added, so the file was not completed.",
        "Add those in the message.",
    ),
}
