"""Make the initial corpus for fuzzing: small inputs for each target, most of them from spec/vectors.

python -m tests.fuzz.seeds

rewrites tests/fuzz/corpus. test_fuzz.py checks that the folder is what this makes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

from blobstore import BlobReader, BlobStoreError, BlobWriter
from blobstore.codecs.element_types import BY_NAME
from blobstore.container.directory import build_directory
from blobstore.gemma.config import ModelConfig
from blobstore.gemma.toc import build_toc, toc_entry
from blobstore.index import Entry, IndexedBlob, build_index
from tests.fuzz import targets

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
VECTORS = HERE.parents[1] / "spec" / "vectors"
MAX_NBYTES = 4000
MOST_FIELDS = 12  # inputs from each list
Seeds = dict[str, bytes]

MANIFEST: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "manifest.json").read_bytes())


def seeds() -> dict[str, Seeds]:
    """Return the inputs of each target, by name, without those that are too large."""
    made = {
        "directory": directory_seeds(),
        "index": index_seeds(),
        "fields": fields_seeds(),
        "safetensors": safetensors_seeds(),
        "codecs": codec_seeds(),
        "store": store_seeds(),
        "sets": sets_seeds(),
        "trust": trust_seeds(),
        "packed": packed_seeds(),
    }
    return {name: {key: data for key, data in of.items() if len(data) <= MAX_NBYTES} for name, of in made.items()}


def chosen(vector_list: str) -> list[tuple[str, bytes]]:
    """Return files from a list of the manifest: all, or the smallest for each reason."""
    smallest: dict[str, tuple[str, bytes]] = {}
    for fact in sorted(MANIFEST[vector_list], key=lambda fact: (fact["size"], fact["file"])):
        if fact.get("stored", True):
            what = fact.get("reason", fact["file"])
            version = "-v2" * fact["file"].startswith("v2")
            smallest.setdefault(
                what + version, (fact["file"].removesuffix(".sbs"), (VECTORS / vector_list / fact["file"]).read_bytes())
            )
    return sorted(smallest.values())


def sized(file: bytes) -> bytes:
    """Return a large file as its first 16 bytes and its end."""
    return struct.pack("<QH", len(file), 16) + file[:16] + file[-272:]


def directory_seeds() -> Seeds:
    made: Seeds = {}
    for name, file in chosen("invalid") + chosen("valid"):
        if len(file) > MAX_NBYTES:
            made[name] = bytes([targets.SIZED]) + sized(file)
        elif not name.startswith("index-"):
            made[name] = b"\0" + file
    for name in ("key16-v2", "v1-very-old"):
        right = targets.HEADED | targets.LAID_OUT
        made[f"{name}-right"] = bytes([made[name][0] | right]) + made[name][1:]
    return made


def indices(vector_list: str) -> list[tuple[str, int, bytes]]:
    """Return name, flag for external ones, and bytes of the indices in a list of the manifest."""
    made = []
    for name, _ in chosen(vector_list):
        path = VECTORS / vector_list / f"{name}.sbs"
        beside = path.with_name(path.name + ".idx")
        try:
            with BlobReader(path) as reader:
                raw = bytes(reader["~index"]) if "~index" in reader else beside.read_bytes() if beside.exists() else b""
        except BlobStoreError:
            continue
        if raw:
            made.append((name, targets.EXTERNAL_INDEX * beside.exists(), raw))
    return made


def set_indices() -> list[tuple[str, int, bytes]]:
    """Return name, flag, and bytes of the indexes of sets: all valid ones, and one for each fault of an index."""
    faulty = {fact["file"].removesuffix(".sbs") for fact in MANIFEST["set_invalid"] if "index-" in fact["reason"]}
    every = chosen("set_valid") + [(name, raw) for name, raw in chosen("set_invalid") if name in faulty]
    return [(f"set-{name.partition('/')[0]}", targets.OF_SET, raw) for name, raw in every]


def index_seeds() -> Seeds:
    made: Seeds = {}
    for name, flags, raw in indices("invalid") + indices("valid") + set_indices():
        made[name] = bytes([flags]) + raw
        if name in ("index-one", "index-parts", "index-no-elements", "index-external", "set-two"):
            right = targets.FRAMED | targets.NAMED | targets.CLEARED
            made[f"{name}-right"] = bytes([flags | right]) + raw
            made[f"{name}-shaped"] = bytes([flags | right | targets.SHAPED]) + raw
    return made


def fields_seeds() -> Seeds:
    vectors = json.loads((VECTORS / "gemma.json").read_bytes())
    made: Seeds = {}
    for vector_list in ("config_valid", "config_invalid", "toc_valid", "toc_invalid", "bpe_valid", "bpe_invalid"):
        blob = {"toc": targets.TOC, "bpe": targets.BPE}.get(vector_list.partition("_")[0], 0)
        seen: set[str] = set()
        for fact in vectors[vector_list]:
            what = fact.get("reason", fact["name"])
            if what not in seen and len(seen) < MOST_FIELDS:
                words = [int(word, 16) for word in fact["words"].split()] if "words" in fact else []
                raw = struct.pack(f"<{len(words)}I", *words) or bytes.fromhex(fact["bytes"])
                made[f"{vector_list}-{fact['name']}"] = bytes([blob]) + raw
                seen.add(what)
    for name in ("config_valid-full", "toc_valid-one", "bpe_valid-byte-level"):
        right = targets.WHOLE_WORDS | targets.OUTER_COUNT
        made[f"{name}-right"] = bytes([made[name][0] | right]) + made[name][1:]
    return made


def safetensors_seeds() -> Seeds:
    entry = '{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}'
    texts = {
        "none": "{}",
        "one": f'{{"a":{entry}}}',
        "metadata": f'{{"__metadata__":{{"format":"pt"}},"weight":{entry}  }}',
        "two": f'{{"b":{{"dtype":"BF16","shape":[],"data_offsets":[24,26]}},"a":{entry}}}',
        "no-elements": f'{{"b":{{"dtype":"I64","shape":[0,9],"data_offsets":[24,24]}},"a":{entry}}}',
        "small-types": '{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},'
        '"b":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[2,5]}}',
        "unknown-field": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":[[],{}]}}',
        "overlap": f'{{"a":{entry},"b":{entry}}}',
        "hole": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        "turned": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}',
        "twice": f'{{"a":{entry},"a":{entry}}}',
        "huge-shape": '{"a":{"dtype":"U8","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}',
        "huge-offset": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[9223372036854775807,9223372036854775808]}}',
        "float-shape": '{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}',
        "escapes": '{"\\u0061\\ud83d\\ude00":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}',
        "surrogate": '{"\\ud83d":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}',
        "nested": '{"a":' + "[" * 1900 + "]" * 1900 + "}",
    }
    made = {name: bytes([targets.LENGTH | targets.FILLED]) + text.encode() for name, text in texts.items()}
    text = texts["one"].encode()
    made["whole-file"] = b"\0" + struct.pack("<Q", len(text)) + text + bytes(24)
    made["length-beyond"] = b"\0" + struct.pack("<Q", len(text) + 25) + text + bytes(24)
    made["length-huge"] = b"\0" + struct.pack("<Q", (1 << 64) - 1) + text
    return made


def codec_seeds() -> Seeds:
    vectors = json.loads((VECTORS / "codecs.json").read_bytes())
    made: Seeds = {}
    numbers = {type_name.name: number for number, type_name in enumerate(targets.ELEMENT_TYPES)}
    each: dict[str, int] = {}
    for fact in vectors["cases"]:
        type_name = fact["type"]
        each[type_name] = each.get(type_name, 0) + 1
        if type_name in numbers and each[type_name] <= 3:
            stored = bytes.fromhex(fact["stored"])[:1024]
            for what, flags, start in (("", 0, 0), ("-scaled", targets.SCALED, 1), ("-long", targets.LONG, 65535)):
                if not what or each[type_name] == 1:
                    head = targets.CODEC_HEAD.pack(each[type_name] % 5, start, fact["n"], 0.5)
                    made[f"{type_name}-{fact['name']}{what}"] = bytes([numbers[type_name] | flags]) + head + stored
    plain = targets.CODEC_HEAD.pack(0, 0, 4, 1.0)
    return made | {f"no-codec-{name}": bytes([numbers[name]]) + plain + bytes(16) for name in ("f4",)}


def blob_list(*blobs: tuple[bytes, bytes]) -> bytes:
    """Return blobs in the form that the target `store` takes."""
    return b"".join(struct.pack("<BH", targets.KEYS.index(key), len(stored)) + stored for key, stored in blobs)


def store_seeds() -> Seeds:
    made: Seeds = {}
    kinds = ("valid", "invalid", "catalog_valid", "catalog_invalid")
    for vector_list in kinds:
        for name, file in chosen(vector_list):
            beside = VECTORS / vector_list / f"{name}.sbs.idx"
            if beside.exists():
                made[name] = (
                    bytes([targets.BESIDE]) + struct.pack("<H", beside.stat().st_size) + beside.read_bytes() + file
                )
            elif vector_list.startswith("catalog") or (vector_list == "valid" and name in WHOLE_FILES):
                made[name] = b"\0" + file
    with BlobReader(VECTORS / "valid" / "index-one.sbs") as reader:
        raw = bytes(reader["~index"])
    framed = bytes([targets.FRAMED | targets.NAMED | targets.CLEARED | targets.SHAPED]) + raw
    both = targets.COMPOSED | targets.FRAMED_INDEX
    made["composed"] = bytes([both]) + blob_list((b"a", bytes(range(64))), (b"~index", framed))
    for name, source in REARRANGED.items():
        made[f"rearranged-{name}"] = bytes([targets.COMPOSED]) + rearranged(source)
    return made | packed_file_seeds()


def packed_file_seeds() -> Seeds:
    """Return stores of a packed tensor and a part of it: valid, a difference, of another size, damaged."""
    facts = {fact["name"]: fact for fact in json.loads((VECTORS / "packed.json").read_bytes())["packed_valid"]}
    streams = {name: (bytes.fromhex(facts[name]["stored"]), len(facts[name]["bytes"]) // 2) for name in PACKED}
    example, nbytes = streams["example"]
    streams["size"] = example, nbytes + 2
    streams["damaged"] = example[:-20] + bytes([example[-20] ^ 1]) + example[-19:], nbytes
    made: Seeds = {}
    for name, (stream, unpacked) in streams.items():
        count = unpacked // 2
        entries = [
            Entry("a", 0, 0, 2 * count, BY_NAME["bf16"].number, (count,), codec=1),
            Entry("part", 0, 2, 2, BY_NAME["u8"].number, (2,), codec=1),
        ]
        skeleton = example[80:102]
        rows = [IndexedBlob(b"a", len(stream), None, unpacked), IndexedBlob(b"~packed", len(skeleton))]
        original = json.dumps({"nbytes": 65536, "sha256": "00" * 32, "index": "embedded"})
        index = build_index(entries, rows, {"blobstore.packed": original})
        blobs = blob_list((b"a", stream), (b"~packed", skeleton), (b"~index", index))
        # Those with an index are also seeds of `trust`; a difference isn't, because `trust` can't give its base.
        made[f"packed-{name}" if name == "delta" else f"index-packed-{name}"] = bytes([targets.COMPOSED]) + blobs
    return made


def sets_seeds() -> Seeds:
    """Return sets that open, some of them without a file, and with an index that is to be framed."""
    made: Seeds = {}
    for name, raw in chosen("set_valid") + chosen("set_invalid"):
        folder = (VECTORS / ("set_valid" if f"{name}.sbs" in VALID_SETS else "set_invalid") / name).parent
        files: list[bytes] = []
        for path in sorted(folder.glob("m-*")):
            with suppress(BlobStoreError), BlobReader(path) as reader:
                blobs = [(os.fsencode(key), bytes(blob)) for key, blob in reader.items()]
                files.append(
                    bytes([len(blobs)])
                    + b"".join(bytes([len(key)]) + key + struct.pack("<H", len(blob)) + blob for key, blob in blobs)
                )
        made[folder.name] = bytes([0, len(files)]) + b"".join(files) + raw
        right = targets.FRAMED | targets.BOUND | targets.NAMED | targets.CLEARED
        for what, flags in (("bound", targets.BOUND), ("right", right), ("shaped", right | targets.SHAPED)):
            if folder.name in ("one", "two", "packed", "carrying"):
                made[f"{folder.name}-{what}"] = bytes([flags, len(files)]) + b"".join(files) + raw
    return made


VALID_SETS = {fact["file"] for fact in MANIFEST["set_valid"]}
PACKED = ("example", "delta", "huffman", "tail")


def trust_seeds() -> Seeds:
    """Return the inputs of whole files, and truncated files in which something still proves the contents."""
    made = {name: data for name, data in store_seeds().items() if name.startswith(("toc", "letters", "index-"))}
    whole = (VECTORS / "valid" / "index-one.sbs").read_bytes()
    with BlobReader(VECTORS / "valid" / "index-one.sbs") as reader:
        start, nbytes = reader.range("~index")
        rows = [IndexedBlob(key.encode(), len(blob)) for key, blob in reader.items() if key != "~index"]
        directory = build_directory(2, [row.key for row in rows], [row.nbytes for row in rows])
        beside = build_index([], rows, store=directory)
    made["cut-behind-the-index"] = b"\0" + whole[: start + nbytes]
    made["cut-inside-the-index"] = b"\0" + whole[: start + nbytes - 1]
    made["cut-with-an-index-beside"] = bytes([targets.BESIDE]) + struct.pack("<H", len(beside)) + beside + whole[:500]
    version_1 = (VECTORS / "valid" / "v1-seven-blobs.sbs").read_bytes()
    made["cut-version-1"] = b"\0" + version_1[: len(version_1) // 2]
    made["appended"] = b"\0" + version_1 + b"\1" * 300
    for name, tokenizer in (("none", b"unavailable"), ("model", b"\n\x03\n\x01a")):
        blobs = [("c_final_norm", bytes(range(64))), ("config", ModelConfig(model_dim=32).to_bytes())]
        blobs += [("tokenizer", tokenizer), ("toc", build_toc([toc_entry("c_final_norm", BY_NAME["bf16"], 1, 32)]))]
        stream = io.BytesIO()
        with BlobWriter(stream) as writer:
            for key, data in blobs:
                writer.add(key, data)
        made[f"cut-behind-the-toc-{name}"] = b"\0" + stream.getvalue()[: 256 * 7]
    return made


# Valid files; the target of the index has the indices of all others.
WHOLE_FILES = (
    "v1-seven-blobs",
    "index-files",
    "index-aliases",
    "index-parts",
    "index-no-elements",
    "index-scales",
    "index-alone",
)
REARRANGED = {
    "rows": {"shape": [4, 2], "pieces": [["a", 0, 0, 1, 0, 2, 2, "", 1], ["a", 2, 1, 3, 0, 2, 2, "", 1]]},
    "columns": {"shape": [2, 4], "pieces": [["a", 0, 0, 2, 0, 2, 4, "", 1], ["a", 4, 0, 2, 2, 2, 4, "", 1]]},
    "transpose": {"shape": [2, 4], "pieces": [["a", 0, 0, 2, 0, 4, 4, "transpose", 1]]},
    "channels": {"shape": [1, 2, 2, 2], "pieces": [["a", 0, 0, 1, 0, 8, 8, "channels_last", 2]]},
    "minus_one": {"shape": [8], "pieces": [["a", 0, 0, 1, 0, 8, 8, "minus_one", 1]]},
    "overlap": {"shape": [2, 8], "pieces": [["a", 0, 0, 1, 0, 8, 8, "", 1], ["a", 0, 1, 1, 0, 8, 8, "", 1]]},
}


def rearranged(source: dict[str, Any]) -> bytes:
    """Return a store of one tensor whose metadata describes another one made from it."""
    text = json.dumps({"types": {"most": "bf16", "others": {}}, "aliases": {}, "tensors": {"w": source}})
    entry = Entry("a", 0, 0, 16, BY_NAME["bf16"].number, (2, 4))
    index = build_index([entry], [IndexedBlob(b"a", 16)], {"blobstore.rearranged": text})
    return blob_list((b"a", bytes(range(16))), (b"~index", index))


def packed_seeds() -> Seeds:
    vectors = json.loads((VECTORS / "packed.json").read_bytes())
    made: Seeds = {}
    for vector_list in ("packed_valid", "packed_invalid"):
        for fact in vectors[vector_list]:
            flags = targets.BASED if "base" in fact else 0
            made[f"{vector_list}-{fact['name']}"] = bytes([flags]) + bytes.fromhex(fact["stored"])
    for name in ("example", "delta", "huffman", "f64"):
        seed = made[f"packed_valid-{name}"]
        made[f"{name}-checked"] = bytes([seed[0] | targets.CHECKED]) + seed[1:]
    return made


def main() -> None:
    """Write the corpus."""
    shutil.rmtree(CORPUS, ignore_errors=True)
    for target, made in seeds().items():
        (CORPUS / target).mkdir(parents=True)
        for name, data in made.items():
            (CORPUS / target / name).write_bytes(data)


if __name__ == "__main__":
    main()
