"""Codes of what a caller asked for: wrong arguments, options that don't go together, outputs, missing programs."""

from __future__ import annotations

from blobstore.explaining.entry import Entry

_ONE_OF = "Use one of those in the message."

ARGUMENTS = {
    "wrong-usage": Entry(
        "The words of a command line are wrong.", "blobstore COMMAND --help has its options and examples."
    ),
    "unknown-code": Entry("blobstore explain got a code that doesn't exist.", "blobstore explain lists all codes."),
    "bad-file": Entry(
        "What was passed is neither a path, nor a binary file, nor a file's bytes.",
        "Pass a path, or open the file with mode 'rb'.",
    ),
    "not-a-file": Entry(
        "The path is a folder, a pipe or a device, or there are no bytes; a file is needed.",
        "Pass a regular file, or another output.",
    ),
    "bad-access": Entry(
        "access is not one of its words, or asks to map what is not a file on disk.", "Use access='auto'."
    ),
    "bad-prefetch": Entry("prefetch is not one of its words.", _ONE_OF),
    "bad-by": Entry("by is not one of its words.", "Use names or keys."),
    "bad-choice": Entry("An argument is not one of its words.", _ONE_OF),
    "bad-device": Entry(
        "A device was given, and only torch's tensors lie on one.", "Leave device out, or use framework='pt'."
    ),
    "bad-framework": Entry("safe_open doesn't know the framework.", _ONE_OF),
    "bad-dtype": Entry(
        "The dtype doesn't exist, or the tensor can't be converted to it.", "Leave dtype out, or choose another."
    ),
    "bad-index": Entry("index is not one of its words.", "Use embedded, external or none."),
    "bad-version": Entry(
        "A container has version 1 or 2.", "Use version 2, unless the runtime is from before 2025-07-31."
    ),
    "bad-max-blobs": Entry(
        "max_blobs is 0, or beyond what a file can have.", "Leave it out, or pass a smaller number."
    ),
    "bad-metadata": Entry(
        "Metadata is text for text; something else was given.", "Convert values with str() or json.dumps()."
    ),
    "bad-name": Entry(
        "A name is not text that can be stored, or no name can be made from the output.", "Choose another name."
    ),
    "bad-file-name": Entry(
        "A carried file's name has a slash, or is otherwise none.", "Pass a plain name, such as config.json."
    ),
    "bad-out": Entry(
        "out is not a writable array of the tensor's shape and dtype.", "Make it with numpy.empty(info.shape, dtype)."
    ),
    "bad-pair": Entry(
        "The option takes OLD=NEW, or KEY=TEXT, each left side once.", "Write both sides, with = between them."
    ),
    "bad-range": Entry(
        "The offset or the number of bytes of a range is negative, or too large.", "Pass numbers of at least 0."
    ),
    "bad-rows": Entry(
        "rows is not a number, a slice or a list of row numbers, or there is no such row.",
        "Pass rows that the tensor has.",
    ),
    "bad-runs": Entry("The number of runs is below 1.", "Pass at least one."),
    "bad-scale": Entry("A scale is not a finite 32-bit float.", "Pass one that is."),
    "bad-shape": Entry(
        "The shape is invalid, or doesn't fit the values.", "Pass one whose product is the number of values."
    ),
    "bad-size": Entry("The text is not a size.", "Write bytes, or text such as 5GB or 512MiB."),
    "bad-tolerance": Entry("A tolerance is negative, or not finite.", "Pass a number of at least 0."),
    "bad-plot": Entry("The chart's name has an ending for which there is no format.", "Use .png, .svg or .pdf."),
    "bad-address": Entry("The text is not the address of a scheduler.", "It is like tcp://10.0.0.1:8786."),
    "bad-workers": Entry("The number of workers or processes is below 1.", "Pass at least one, or leave it out."),
    "not-a-mapping": Entry("save_file takes a mapping from name to array.", "Pass a dict."),
    "not-a-tensor": Entry(
        "blobstore.torch stores torch tensors; something else was given.", "Use blobstore.save_file for numpy arrays."
    ),
    "not-bytes": Entry(
        "Bytes, or an array of plain values, are needed; something else was given.",
        "Pass bytes, or an array whose dtype isn't object.",
    ),
    "not-contiguous": Entry(
        "The array's values don't lie in one piece in C order.", "Pass numpy.ascontiguousarray(array)."
    ),
    "not-one-run": Entry(
        "The tensor is stored in pieces, since gemma.cpp has it joined with others, so it has no run of bytes.",
        "store[name] gathers its values; blobstore get FILE NAME -o OUT.npy writes them.",
    ),
    "no-rows": Entry("The tensor is a single value.", "Leave rows out."),
    "outside": Entry("The range lies outside the blob or the file.", "Pass offsets inside it."),
    "needs-x64": Entry(
        "jax would narrow a 64-bit tensor to 32 bits.", "Load it under jax.enable_x64(True), or pass dtype."
    ),
    "no-keys": Entry("The file is not an .sbs file, and only these have keys.", "Leave --keys out."),
    "no-listing": Entry(
        "Either a folder of a web server can't be listed, or --json was asked for something other than tokenizer.",
        "Pass a file of that folder; leave --json out.",
    ),
    "no-array": Entry(
        "A .npy file holds a tensor, and the name is that of something else.", "Give OUT another ending, or pass --raw."
    ),
    "no-descriptor": Entry(
        "The file is not one on disk, so it has no descriptor.", "Read it with read(), or copy it to disk."
    ),
    "no-match": Entry(
        "No tensor, blob or file has the name or matches the pattern.", "blobstore ls FILE lists the names."
    ),
    "no-index": Entry("The file has no name index where one is needed.", "blobstore index build FILE makes one."),
    "has-index": Entry("The file has a name index already.", "Use it; --force rebuilds it, without the names it has."),
    "needs-index": Entry(
        "What you store, such as a long name or metadata, is kept in the index, and there is to be none.",
        "Leave --index none, or index='none', out.",
    ),
    "needs-path": Entry(
        "This makes or reads several files, or maps one, and a stream or URL was given.", "Pass a path on this machine."
    ),
    "needs-seek": Entry(
        "The stream can't go back, and this needs it: version 1, or reading.",
        "Write version 2, or use a file, or io.BytesIO.",
    ),
    "needless-flag": Entry("The option would change nothing here.", "Leave it out."),
    "needless-force": Entry("force removes files beside the output, and a stream has none.", "Leave it out."),
    "two-ways": Entry("Two of the options exclude each other.", "Leave out one of them."),
    "no-source": Entry("The option goes with --against SRC.", "Add --against, or leave the option out."),
    "one-file": Entry(
        "--against compares one file with its source, and several were given.", "Verify one after the other."
    ),
    "not-sbs": Entry(
        "A report is of an .sbs file, and this is another format.", "Convert it: blobstore convert SRC -o OUT.sbs."
    ),
    "page-not-sbs": Entry(
        "A report would replace an .sbs file or an index, or have the name of one.",
        "Choose another output: -o OUT.html.",
    ),
    "not-a-set": Entry(
        "Work is shared among processes by the files of a set, and this is one file.",
        "Choose --max-shard-size, or leave out --processes and --scheduler.",
    ),
    "no-target": Entry("An alias or a part refers to a tensor that isn't in the file yet.", "Add that one first."),
    "duplicate-name": Entry("The name is used already.", "Choose another name."),
    "duplicate-file": Entry("Two carried files have names that some system takes for the same.", "Rename one."),
    "key-collision": Entry("Two names get the same key, one of them by its own letters.", "Rename one of the tensors."),
    "names-too-long": Entry(
        "The names are longer in total than an index can hold.", "Shorten them, or make a set of several files."
    ),
    "too-many-blobs": Entry(
        "The file would have more blobs than it can, or than gemma.cpp reads.",
        "Join small tensors, or make a set: --max-shard-size.",
    ),
    "no-blobs": Entry(
        "A file has at least one blob, and none was written.", "Write a tensor before the file is complete."
    ),
    "closed": Entry(
        "The file is closed: it is complete, or was given up after an error.",
        "Open it again; write inside the with block.",
    ),
    "incomplete": Entry(
        "An error interrupted the writing of a blob, so the file can't be completed.", "Write the file anew."
    ),
    "not-copyable": Entry("An open file can't be copied or pickled.", "Open it again where it is needed."),
    "model-mismatch": Entry(
        "The file and the torch model have other names or shapes.",
        "Load it with strict=False, or build the model from the file's own config.",
    ),
}
OUTPUTS = {
    "bad-target": Entry(
        "The target is neither a path nor a binary stream open for writing.",
        "Pass a path, or open the file with mode 'wb'.",
    ),
    "no-output": Entry(
        "The command writes a file, and none was named.", "Name one with -o OUT, or look first with --dry-run."
    ),
    "same-file": Entry(
        "The output is a file that is read, and would be lost.", "Choose another output; some commands have --in-place."
    ),
    "not-empty": Entry(
        "The folder or the stream has something else in it already.", "Choose another, or empty it first."
    ),
    "superseded": Entry(
        "Files of an earlier export would stay beside the new ones, and be read instead of them.",
        "--force removes them; or choose another output.",
    ),
    "would-replace": Entry(
        "Other files in the folder would be replaced.", "--force replaces them; or choose another output."
    ),
    "index-beside": Entry(
        "An index lies beside the output, and would give its names to other data.",
        "Remove it, or choose another output.",
    ),
    "no-stream": Entry(
        "- is standard output, and this needs a file.", "Name a file with -o OUT; ./- is a file called -."
    ),
    "no-stdout": Entry("Standard output is closed.", "Name a file with -o OUT."),
    "terminal": Entry("Bytes would be written to a terminal.", "Name a file with -o OUT, or use a pipe."),
    "no-upload": Entry(
        "The place takes no new file, or shows it before it is complete.",
        "Write to a file on this machine, and upload that.",
    ),
}
BENCH = {
    "bench-failed": Entry(
        "A measurement ended with an error, which the message has.",
        "Leave that format out of --against, or update its package.",
    ),
    "no-compiler": Entry("No g++ is installed, and the C++ reader was to be measured.", "Install g++."),
    "compiler": Entry(
        "g++ couldn't compile the C++ reader.", "The message has its first line: is g++ new enough for C++17?"
    ),
    "no-header": Entry("blobstore.hpp was not found in the package.", "Install blobstore again."),
    "cpp-failed": Entry(
        "The program that measures the C++ reader ended with an error.",
        "blobstore verify FILE says whether the file is whole.",
    ),
    "no-matplotlib": Entry("A chart needs matplotlib.", "pip install matplotlib, or leave --plot out."),
    "no-formats": Entry("--against names no format.", _ONE_OF),
    "unknown-format": Entry("--against names a format that isn't measured.", _ONE_OF),
    "no-cold": Entry("This system can't drop a file from its page cache.", "Measure with --warm."),
    "drop-caches": Entry(
        "Only root on Linux may empty the machine's page cache, and only cold runs need it.", "Leave --drop-caches out."
    ),
    "disk-too-small": Entry(
        "The files of the other formats don't fit on the disk.", "Choose another folder with --tmp, or fewer formats."
    ),
}
