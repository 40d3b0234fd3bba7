"""Write the test vectors: valid and invalid files, and a manifest of their contents.

    python spec/vectors/generate.py            write a folder for each kind of files, and all .json beside this file
    python spec/vectors/generate.py --check    exit 1 and name each file that differs

sbs_writer.py, codec_writer.py, gemma_writer.py and packed_writer.py make the files; they are a second implementation of
the writing side. sbs_cases.py, codec_cases.py, gemma_cases.py and packed_cases.py define the contents. Nothing is read
but the output. The hashes of what gemma.cpp wrote are recorded, here and in the cases, and must be reproduced.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for tests that load this file by its path

from codec_cases import codec_vectors  # noqa: E402
from codec_writer import CODECS  # noqa: E402
from gemma_cases import catalog_cases, gemma_vectors  # noqa: E402
from packed_cases import packed_vectors  # noqa: E402
from sbs_cases import KINDS, Case, digest, invalid_cases, store, valid_cases, verify_cases  # noqa: E402
from sbs_writer import Blob, container, file_key, key_for, name_index, payload, starts_of, tensor  # noqa: E402
from set_cases import set_cases  # noqa: E402

__all__ = ["CODECS", "Blob", "Case", "cases", "container", "key_for", "main", "manifest", "name_index", "outputs",
           "payload", "starts_of", "tensor"]  # fmt: skip

# What gemma.cpp's own writer made: key, nbytes and seed of each blob, and the SHA-256 of the files of version 2 and 1.

GEMMA_COMMITS = {2: "3ed403e", 1: "8715eda"}  # 1: the last commit that wrote version 1
RANDOM_300 = """
382 403 111 33 206 88 64 503 136 298 572 155 361 695 626 187 608 338 272 54 468 56 26 298 151 16 301 340 98 211 58 615
231 353 249 65 421 590 640 250 596 432 149 700 595 437 214 1 57 387 584 477 463 175 370 277 566 192 519 388 572 31 193
374 122 596 110 203 50 582 518 512 680 699 69 298 89 479 456 688 131 658 492 530 56 83 409 452 23 629 189 570 377 66 603
74 293 685 442 694 14 50 92 575 574 61 421 330 585 413 261 455 298 93 294 446 436 272 248 49 223 344 655 562 700 215 659
321 19 313 559 308 605 101 161 309 93 304 93 120 570 37 586 201 571 698 653 227 442 61 419 128 444 363 131 604 430 406
492 148 404 320 611 677 162 309 350 292 27 636 218 225 165 359 655 663 227 653 381 512 330 53 681 344 22 4 477 404 406
69 465 578 588 164 234 601 442 196 259 215 26 384 257 246 406 345 110 309 401 695 507 98 179 314 573 287 252 371 107 298
570 600 293 603 188 406 272 466 351 156 394 369 90 607 451 632 169 156 367 660 442 169 504 234 37 253 519 523 587 588
568 123 592 393 366 695 229 211 222 4 552 238 558 39 314 684 298 574 460 242 140 449 569 588 325 679 418 385 75 340 338
419 119 49 396 524 249 302 630 121 480 216 70 487 589 227 511 121 43 224
"""
BOUNDARIES = (1, 255, 256, 257, 511, 512, 513, 4096, 65535)
GEMMA: dict[str, tuple[list[tuple[str, int, int]], dict[int, str]]] = {
    "one-byte": (
        [("a", 1, 1)],
        {
            2: "8685c97af9c254831ad4ee5929941e414a693fa8227c386da53a2dca4b243721",
            1: "daea679c2a921e914f2c1d372428aefa5c1dbaa9e9dd600cbcd7ebbead72e87a",
        },
    ),
    "key16": (
        [("0123456789abcdef", 5, 10), ("q", 16, 11)],
        {
            2: "feb693b90dd1d9bf19ad98ed31609871ddbfcf6eee2fb6085e3e5741392e28c4",
            1: "ecdfc466e1afe968579c52ee2a477f42258bd62fc5457198cca8edcc63001496",
        },
    ),
    "boundaries": (
        [(f"size_{i}", nbytes, 20 + i) for i, nbytes in enumerate(BOUNDARIES)],
        {
            2: "1ab1402eab7cd4b963d7e31ac6e8f825b1b2ee7fb1a5a9a738cf71fca6540e66",
            1: "4afc78678234e52c24e7d5b189a2f1871c38a48e8f17d8ee0df683b7f8c431a5",
        },
    ),
    "exact-64k": (
        [("fill", 64976, 40)],
        {
            2: "baf0a7d7f99671025abce99674469c567d085cd8a8efe35f630b75b3c40fe6c2",
            1: "1aa91596f1ae7f734d7837b2ca6e00033bc074fd28916782e12364e69476f332",
        },
    ),
    "over-64k": (
        [("fill", 65025, 41)],
        {
            2: "39bdee918629faf1046381388f0abb87eb290ba85eaeca6b55e4c888ba42202d",
            1: "826889b4903710df86d296d95ec5fb088fc9bb036a9cf8a9dd66ee95933bfd3c",
        },
    ),
    "utf8-key": (
        [("naïve_ß", 3, 45), ("權重", 4, 46)],
        {
            2: "d663268f0ed515e926af35d6ee67fe1ef0c95f4ea6d9f6e3c813000bc08689e2",
            1: "a259547041e9862e7ef243eebd5e040d5b49c4c8521422a9a1e672254ffad9ff",
        },
    ),
    "random-300": (
        [(f"t{i}", int(nbytes), 60 + i) for i, nbytes in enumerate(RANDOM_300.split())],
        {
            2: "fa98e87e4093e8bf127a232aee191a4f94a89ebfb16cfcc89ee97a63d92b3d6b",
            1: "7852daba3fc066a27b934ddff071569dc3878bd31938d51322476868adb13766",
        },
    ),
    "dir-3000": (
        [(f"{i}", 1, 1000 + i) for i in range(3000)],
        {
            2: "1e0cf1c5c1e171fc9e28d2c06665fe1485588fe419999ad90f35a56e671c91be",
            1: "ba5a3173cf9338b6bc6680ab43eda1805f4bf00f1bbaedd92d7328db7f5142b1",
        },
    ),
    "max-16383": (
        [(f"{i}", 1, 1000 + i) for i in range(16383)],
        {2: "edc2c6b6cb201af96a9439f2c76411da9d8f82838ca2b30bdb8a8287cb66a369"},
    ),
}
GEMMA_RULES = ("dir-3000", "max-16383")  # blob i: key str(i), 1 byte, seed 1000 + i; a rule in the manifest
GEMMA_STORED = ("one-byte", "key16", "utf8-key")


def gemma_blobs(name: str) -> list[Blob]:
    """Make the blobs that gemma.cpp was given."""
    return [(key.encode(), payload(seed, nbytes)) for key, nbytes, seed in GEMMA[name][0]]


def gemma_facts() -> list[dict[str, Any]]:
    """Return the manifest's entries about gemma.cpp's files, after making each of them.

    Raises:
        ValueError: A hash is not the recorded one.
    """
    facts: list[dict[str, Any]] = []
    for name, (blobs, hashes) in GEMMA.items():
        for version, sha256 in hashes.items():
            made = digest(container(version, gemma_blobs(name)))
            if made["sha256"] != sha256:
                raise ValueError(f"{name}, version {version}: gemma.cpp's file has SHA-256 {sha256}, ours {made}")
            rule = {"count": len(blobs), "key": "str(i)", "nbytes": 1, "seed": "1000 + i"}
            listed: list[Any] = [{"key": key, "nbytes": nbytes, "seed": seed} for key, nbytes, seed in blobs]
            facts.append(
                {"file": f"{name}-v{version}.sbs", "version": version, "commit": GEMMA_COMMITS[version]}
                | made
                | {"stored": name in GEMMA_STORED}
                | ({"rule": rule} if name in GEMMA_RULES else {"blobs": listed})
            )
    return facts


def cases() -> Iterator[Case]:
    """All files, in the manifest's order."""
    for name in GEMMA_STORED:
        for version in GEMMA[name][1]:
            said = f"as gemma.cpp's writer made it at commit {GEMMA_COMMITS[version]}"
            yield store(f"{name}-v{version}", said, gemma_blobs(name), version=version, very_old=False)
    yield from valid_cases()
    yield from invalid_cases()
    yield from verify_cases()
    yield from catalog_cases()
    yield from set_cases()


# ---------------------------------------------------------------------------------------------------- writing it all

NAMES = [
    "c_embedding", "foo_998", "foo_999", "foo_0998", "foo_0999", "foo_999x", "foo_998x", "foo_999_", "foo_999_b",
    "foo_", "_999", "foo_x999", "foo999", "a_99999999999999", "a_00000000000001", "model.embed_tokens.weight",
    "0123456789abcdef", "0123456789abcdefg", "a", "!", "a b", "a\x7f", "a\n", "é", "權重", "foo_٣٣٣٣", "~", "~index",
    "a~", "F", "Fscales", "f", "B", "$a", "2", "4bit", "I", "aF", "1", "3", "config", "tokenizer", "toc", "toc_",
    "Config", "x" * 4096,
]  # fmt: skip


FILES = ["config.json", "1_Pooling/config.json", "tokenizer.model", "a", "x" * 255]


def manifest(every: Sequence[Case]) -> bytes:
    """The contents of the files."""
    facts: dict[str, list[Any]] = {
        "gemma_cpp": gemma_facts(),
        "key_for": [{"name": name, "key": key_for(name)} for name in NAMES],
        "file_key": [{"name": name, "key": file_key(name)} for name in FILES],
    }
    for kind in KINDS:
        facts[kind] = [case.facts() for case in every if case.kind == kind]
    return lines(facts)


MOST_IN_A_DOUBLE = 2**53 - 1  # many parsers make a double of every number: the next but one isn't there


def for_any_parser(fact: Any) -> Any:  # noqa: ANN401 (JSON is anything)
    """The same with larger numbers as strings."""
    if isinstance(fact, dict):
        return {key: for_any_parser(value) for key, value in fact.items()}
    if isinstance(fact, (list, tuple)):
        return [for_any_parser(value) for value in fact]
    return str(fact) if isinstance(fact, int) and fact > MOST_IN_A_DOUBLE else fact


def lines(facts: dict[str, list[Any]]) -> bytes:
    """One line per fact, so that a changed fact is a changed line."""

    def line(fact: object) -> str:
        return json.dumps(for_any_parser(fact), ensure_ascii=False)

    lists = (json.dumps(section) + ": [\n" + ",\n".join(map(line, listed)) + "\n]" for section, listed in facts.items())
    return ("{\n" + ",\n".join(lists) + "\n}\n").encode()


def outputs() -> dict[str, bytes]:
    """Return all files by their paths below this folder."""
    every = list(cases())
    files = {path: data for case in every for path, data in case.files().items()}
    return files | {
        "manifest.json": manifest(every),
        "codecs.json": lines(codec_vectors()),
        "gemma.json": lines(gemma_vectors()),
        "packed.json": lines(packed_vectors()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the vectors, or check them; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the test vectors beside this file.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file on disk differs")
    check: bool = parser.parse_args(arguments).check
    wanted = outputs()
    on_disk = {
        path.relative_to(HERE).as_posix(): path for kind in KINDS for path in (HERE / kind).rglob("*") if path.is_file()
    }
    stray = sorted(set(on_disk) - set(wanted))
    wrong = [path for path, data in wanted.items() if not (HERE / path).is_file() or (HERE / path).read_bytes() != data]
    if check:
        for path in stray:
            print(f"stray: {path}")
        for path in wrong:
            print(f"differs: {path}")
        return 1 if stray or wrong else 0
    for path in stray:
        on_disk[path].unlink()
    for path in wrong:
        (HERE / path).parent.mkdir(parents=True, exist_ok=True)
        (HERE / path).write_bytes(wanted[path])
    print(f"{len(wanted)} files, {len(wrong)} written, {len(stray)} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
