"""Changes that a crash may interrupt, calls that fail or kill, and a process that forks writers and kills them.

Run as a program this is that process: `Zygote` in `tests.test_crash` talks to it.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from unittest.mock import patch

import ml_dtypes
import numpy as np

import blobstore
from blobstore import BlobWriter, FileRange
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.checkpoint.safetensors import dump_header
from blobstore.codecs.element_types import type_of
from blobstore.converting.plan import plan_by_name
from blobstore.converting.run import run_plan
from blobstore.edit.recover import recover
from blobstore.edit.reindex import attach_index, build_index, detach_index
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import BlobStoreError
from blobstore.exporting.plan import plan_export
from blobstore.exporting.run import run_export
from blobstore.fileio import atomic, system
from blobstore.fileio.atomic import write_file
from blobstore.packing.pack import pack
from blobstore.packing.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blobstore.index.locate import IndexPlace

    Step = Callable[[Path], object]
    Act = Callable[..., Any]  # name of the call, the call, its arguments → what it returns
    Way = Literal["unnamed", "named", "copied"]

STORE, SINGLE = "m.sbs", "model.safetensors"
LONG = "model.layers.0.self_attn.q_proj.weight"


def noise(seed: int, nbytes: int) -> bytes:
    """Random bytes, others for each seed."""
    return np.random.default_rng(seed).bytes(nbytes)


# ------------------------------------------------------------------------------------------------------- the changes


@dataclass(frozen=True)
class Change:
    """A change of the files of a folder that a crash may interrupt.

    Attributes:
        begin: Makes the files as they are before.
        run: Makes the change.
        read: Returns what a reader gets from the folder: contents, or the reason code of its refusal.
        between: Reason codes that a reader may get after a crash between two files; none where only one is replaced.
        once: Making the change twice is refused.
    """

    begin: Step
    run: Step
    read: Callable[[Path], object]
    between: frozenset[str] = frozenset()
    once: bool = False


def write_blobs(folder: Path, seed: int, version: int = 2) -> None:
    """Small blobs that are gathered, a large one, and one from another file."""
    source = folder / "source.bin"
    if not source.exists():
        source.write_bytes(noise(0, 300_000))
    fd = os.open(source, os.O_RDONLY)
    try:
        # The disk begins to write before the end, as with large files; once, so that the calls are always the same.
        with patch.object(atomic, "_SYNC_NBYTES", 100_000), BlobWriter(folder / STORE, version=version) as blobs:
            for i in range(20):
                blobs.add(f"s{i}", noise(seed + i, 100 * seed + i))
            blobs.add("large", noise(seed, 150_000 + seed))
            blobs.add("range", FileRange(fd, seed, 90_000))
    finally:
        os.close(fd)


def write_store(folder: Path, seed: int, index: IndexPlace, dtype: object = np.int16, more: int = 0) -> None:
    """A tensor that is hashed in a thread, and a small one; of the same sizes for each seed and ``more``."""
    with blobstore.create(folder / STORE, index=index) as store:
        data = noise(seed, 300_000 + 2 * more)
        store.add(LONG, np.frombuffer(data, dtype=np.dtype(dtype)))  # type: ignore[call-overload]
        store.add("c_small", np.full((3, 2), seed, dtype=np.int32))


def write_short(folder: Path, seed: int, index: IndexPlace, dtype: object) -> None:
    """A tensor whose name is its key: but for its values, the file is the same with and without an external index."""
    with blobstore.create(folder / STORE, index=index) as store:
        store.add("c_short", np.frombuffer(noise(seed, 100_000), dtype=np.dtype(dtype)))  # type: ignore[call-overload]


def write_plain(folder: Path, seed: int) -> None:
    """Blobs without any index, of the sizes that `write_short` gives."""
    with BlobWriter(folder / STORE) as blobs:
        blobs.add("c_short", noise(seed, 100_000))


def write_checkpoint(folder: Path, seed: int) -> None:
    """The source of a conversion."""
    header = dump_header([(LONG, type_of(np.dtype(np.int16)), (500, 300)), ("b", type_of(np.dtype(np.uint8)), (99,))])
    (folder / "source.safetensors").write_bytes(header + noise(seed, 300_099))


def convert(folder: Path, index: IndexPlace = "embedded") -> None:
    """Convert the checkpoint."""
    with open_checkpoint(folder / "source.safetensors") as checkpoint:
        run_plan(plan_by_name(checkpoint), checkpoint, folder / STORE, index=index)


def export(folder: Path, limit: int | None = None) -> None:
    """Export the store."""
    with blobstore.open(folder / STORE, access="read") as store:
        run_export(plan_export(store, max_shard_nbytes=limit), store, folder / SINGLE)


def export_old(folder: Path, limit: int | None = None) -> None:
    """Export a store, and replace it with another of the same names and sizes."""
    write_store(folder, 1, "embedded")
    export(folder, limit)
    write_store(folder, 2, "embedded")


def write_model(folder: Path, seed: int) -> None:
    """A store that carries files, of the same sizes for each seed."""
    with blobstore.create(folder / STORE) as store:
        store.add(LONG, np.frombuffer(noise(seed, 300_000), dtype=np.int16))
        store.add_file("config.json", b'{"seed": %d}' % seed)
        store.add_file("tokenizer.json", noise(seed, 50_000))


def export_model(folder: Path) -> None:
    """Export it with its files, over those of an earlier export."""
    blobstore.export(folder / STORE, f"{folder}/", force=True)


def export_model_old(folder: Path) -> None:
    """Export a store with its files, and replace it with another."""
    write_model(folder, 1)
    export_model(folder)
    write_model(folder, 2)


def read_model(folder: Path) -> object:
    """What a loader of models takes, which begins with config.json."""
    try:
        files = [(folder / name).read_bytes() for name in ("config.json", "tokenizer.json")]
    except FileNotFoundError as error:
        return os.path.basename(error.filename)
    return files, read_checkpoint(folder, SINGLE)


def convert_old(folder: Path, index: IndexPlace = "embedded") -> None:
    """Convert a checkpoint, and replace it with another of the same names and sizes."""
    write_checkpoint(folder, 1)
    convert(folder, index)
    write_checkpoint(folder, 2)


def read_store(folder: Path, file: str = STORE) -> object:
    """Dtype, shape and bytes of each name."""
    try:
        with blobstore.open(folder / file) as store:
            return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in store.items()}
    except BlobStoreError as error:
        return error.reason


def read_metadata(folder: Path) -> object:
    """As `read_store`, and the metadata."""
    with blobstore.open(folder / STORE) as store:
        return read_store(folder), store.metadata


def read_checkpoint(folder: Path, file: str = "") -> object:
    """Bytes of each name."""
    try:
        with open_checkpoint(folder / file) as checkpoint:
            return {name: b"".join(map(bytes, tensor.chunks())) for name, tensor in checkpoint.tensors.items()}
    except BlobStoreError as error:
        return error.reason


def in_store(name: str) -> Step:
    """Return a step that changes the store of a folder."""
    functions: dict[str, Callable[..., object]] = {
        "attach": attach_index,
        "detach": detach_index,
        "build": partial(build_index, digests=True),
        "build by force": partial(build_index, force=True),
        "embed": partial(build_index, embed=True),
        "embed by force": partial(build_index, embed=True, force=True),
        "write": lambda path: write_file(path, noise(2, 5000)),
    }
    return lambda folder: functions[name](folder / STORE)


def rewriting(edits: Edits) -> Step:
    """Return a step that rewrites the store in place."""
    return lambda folder: apply_edits(folder / STORE, None, edits)


def write_large(folder: Path, seed: int, index: IndexPlace) -> None:
    """A tensor that packing makes smaller, and another that it doesn't; of the same sizes for each seed."""
    with blobstore.create(folder / STORE, index=index) as store:
        store.add(LONG, np.frombuffer(noise(seed, 150_000), np.uint8) & np.uint8(0x1F))
        store.add("c_noise", np.frombuffer(noise(seed, 100_000), np.uint8))


def pack_old(folder: Path, index: IndexPlace = "embedded") -> None:
    """Pack a store, and replace it with another."""
    write_large(folder, 1, index)
    pack(folder / STORE, folder / "packed.sbs")
    write_large(folder, 2, index)


def unpack_old(folder: Path, index: IndexPlace, before: IndexPlace) -> None:
    """Pack a store, and replace it with another of the same names and sizes."""
    write_large(folder, 1, index)
    pack(folder / STORE, folder / "packed.sbs")
    (folder / f"{STORE}.idx").unlink(missing_ok=True)
    write_large(folder, 2, before)


def unpack_plain_old(folder: Path) -> None:
    """Pack blobs without an index, and replace them with a store of the same keys and sizes and an external index."""
    write_plain(folder, 1)
    pack(folder / STORE, folder / "packed.sbs")
    write_short(folder, 2, "external", np.float16)


def packing(folder: Path) -> None:
    """Pack the store."""
    pack(folder / STORE, folder / "packed.sbs", workers=1)


def unpacking(folder: Path) -> None:
    """Unpack it."""
    unpack(folder / "packed.sbs", folder / STORE, workers=1)


def read_packed(folder: Path) -> object:
    """As `read_store`, of the packed one."""
    return read_store(folder, "packed.sbs")


def recover_old(folder: Path) -> None:
    """Recover a store, then put another of the same names and sizes in its place, its end cut off."""
    write_store(folder, 1, "embedded")
    (folder / STORE).rename(folder / "broken.sbs")
    recover(folder / "broken.sbs", folder / STORE)
    write_store(folder, 2, "embedded")
    (folder / STORE).rename(folder / "broken.sbs")
    os.truncate(folder / "broken.sbs", (folder / "broken.sbs").stat().st_size - 16)
    write_store(folder, 1, "embedded")


embedded, external = (partial(write_store, index=index) for index in ("embedded", "external"))
STALE = frozenset({"index-stale"})
F16, BF16 = np.float16, ml_dtypes.bfloat16

CHANGES = {
    "blobs, version 1": Change(partial(write_blobs, seed=1), partial(write_blobs, seed=2, version=1), read_store),
    "blobs, version 2": Change(partial(write_blobs, seed=1), partial(write_blobs, seed=2), read_store),
    "store": Change(partial(embedded, seed=1), partial(embedded, seed=2, more=9), read_store),
    "store, index beside": Change(partial(external, seed=1), partial(external, seed=2, more=9), read_store, STALE),
    # The directories of both are equal, so that the index of one fits the other.
    "store, index beside that fits": Change(
        partial(external, seed=1, dtype=F16), partial(external, seed=2, dtype=BF16), read_store, STALE
    ),
    "store, index beside for the first time": Change(
        partial(write_plain, seed=1), partial(write_short, seed=2, index="external", dtype=F16), read_store, STALE
    ),
    "store, index beside, not inside": Change(partial(embedded, seed=1), partial(external, seed=2), read_store, STALE),
    "store, index inside, not beside": Change(partial(external, seed=1), partial(embedded, seed=2), read_store),
    "store, no index": Change(
        partial(write_short, seed=1, index="external", dtype=F16),
        partial(write_short, seed=2, index="none", dtype=np.uint8),
        read_store,
        STALE,
    ),
    "attach": Change(partial(external, seed=1), in_store("attach"), read_store, once=True),
    "detach": Change(partial(embedded, seed=1), in_store("detach"), read_store, once=True),
    "build": Change(partial(write_plain, seed=1), in_store("build"), read_store, once=True),
    "build by force": Change(partial(external, seed=1), in_store("build by force"), read_store),
    "build by force, not inside": Change(partial(embedded, seed=1), in_store("build by force"), read_store),
    "embed": Change(partial(write_plain, seed=1), in_store("embed"), read_store, once=True),
    "embed by force": Change(partial(external, seed=1), in_store("embed by force"), read_store),
    "convert": Change(convert_old, convert, read_store),
    "convert, index beside": Change(
        partial(convert_old, index="external"), partial(convert, index="external"), read_store, STALE
    ),
    "export": Change(export_old, export, partial(read_checkpoint, file=SINGLE)),
    "export, shards": Change(
        partial(export_old, limit=1000), partial(export, limit=1000), read_checkpoint, frozenset({"bad-shard-index"})
    ),
    "export, with files": Change(export_model_old, export_model, read_model, frozenset({"config.json"})),
    "rewrite": Change(partial(embedded, seed=1), rewriting(Edits(version=1, drop=("c_small",))), read_store, once=True),
    "rewrite, metadata beside": Change(
        partial(external, seed=1), rewriting(Edits(set_metadata={"a": "b"})), read_metadata
    ),
    "rewrite, index out": Change(partial(embedded, seed=1), rewriting(Edits(index="external")), read_store),
    "rewrite, index in": Change(partial(external, seed=1), rewriting(Edits(index="embedded")), read_store),
    "rewrite, index beside": Change(
        partial(external, seed=1), rewriting(Edits(drop=("c_small",))), read_store, STALE, once=True
    ),
    "rewrite, no index": Change(
        partial(external, seed=1), rewriting(Edits(index="none", version=1)), read_store, STALE
    ),
    "recover": Change(recover_old, lambda folder: recover(folder / "broken.sbs", folder / STORE), read_store),
    "pack": Change(pack_old, packing, read_packed),
    "pack, index beside": Change(partial(pack_old, index="external"), packing, read_packed),
    "unpack": Change(partial(unpack_old, index="embedded", before="embedded"), unpacking, read_store),
    "unpack, index beside": Change(
        partial(unpack_old, index="external", before="external"), unpacking, read_store, STALE
    ),
    "unpack, index beside, not inside": Change(
        partial(unpack_old, index="external", before="embedded"), unpacking, read_store, STALE
    ),
    "unpack, index inside, not beside": Change(
        partial(unpack_old, index="embedded", before="external"), unpacking, read_store
    ),
    "unpack, no index": Change(unpack_plain_old, unpacking, read_store, STALE),
    "small file": Change(partial(embedded, seed=1), in_store("write"), lambda folder: (folder / STORE).read_bytes()),
}

# ------------------------------------------------------------------------------------------------ the calls of a change

# Calls that touch the disk, and modules that hold some of them under names of their own.
CALLS = (
    "open",
    "close",
    "write",
    "fsync",
    "fdatasync",
    "ftruncate",
    "link",
    "replace",
    "unlink",
    "copy_file_range",
    "sendfile",
)
NAMING = ("open", "link", "replace", "unlink")  # their errors name the paths they were given
TAKEN = ((atomic, "_fdatasync", "fdatasync"), (system, "copy_file_range", "copy_file_range"))


def has_unnamed_files(folder: Path) -> bool:
    """Whether a file there may be without a name until it is complete."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR))
    except (AttributeError, OSError):
        return False
    return True


@contextmanager
def going(way: Way) -> Iterator[None]:
    """Choose how a new file is kept until it is complete: unnamed; named; unnamed, and then copied to a named one."""

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "not in this sandbox")

    with ExitStack() as changed:
        if way == "named":
            changed.enter_context(patch.object(system, "UNNAMED", 0))
        if way == "copied":
            changed.enter_context(patch.object(os, "link", forbidden))
        yield


@dataclass
class Calls:
    """A context in which one of the calls that touch the disk is replaced.

    Attributes:
        act: Makes that call.
        at: Which call, counted from 0.
        names: The calls that are counted.
        done: Called with the name of each call that was made.
        made: The names of all calls so far.
        met: Name of the call that `act` has made.
    """

    act: Act
    at: int
    names: tuple[str, ...] = CALLS
    done: Callable[[str], object] = lambda _: None
    made: list[str] = field(default_factory=list)
    met: str = ""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._count = 0
        places: list[tuple[Any, str, str]] = [(os, name, name) for name in CALLS if hasattr(os, name)]
        for module, name, call in [*places, *TAKEN]:
            self._stack.enter_context(patch.object(module, name, self._otherwise(call, getattr(module, name))))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _otherwise(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            with self._lock:
                hit = name in self.names and self._count == self.at
                self._count += name in self.names
                if hit:
                    self.met = name
            result = self.act(name, real, *args, **options) if hit else real(*args, **options)
            self.made.append(name)
            self.done(name)
            return result

        return call


def unchanged(_: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401
    """Make the call."""
    return real(*args, **options)


def failing(code: int) -> Act:
    """Return an act that fails as the system does."""

    def act(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401
        if name == "close":
            real(*args, **options)  # the descriptor is closed even if close fails
        named = [path for path in args if isinstance(path, (str, bytes, os.PathLike))] if name in NAMING else []
        raise OSError(code, os.strerror(code), *named[:1], *((None, named[1]) if len(named) > 1 else ()))

    return act


SHORT = ("write", "copy_file_range", "sendfile")


def short(name: str, real: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
    """Do only a part, as the system may."""
    if name == "write":
        fd, data = args
        return real(fd, data[: (len(data) + 1) // 2])
    place = 2 if name == "copy_file_range" else 3
    return real(*args[:place], (args[place] + 1) // 2, *args[place + 1 :])


def killing(when: Literal["before", "after"]) -> Act:
    """Return an act that kills this process right before or right after the call."""

    def act(_: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401
        if when == "after":
            real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    return act


# ------------------------------------------------------------------------- a process that forks writers and kills them

SECONDS = 60  # a writer that takes longer hangs


def make_change(order: dict[str, Any], pipe: int) -> None:
    """Make the change of an order, in a child. To the pipe go: + at the beginning, . after each call, a report."""
    report: dict[str, Any] = {"error": "", "errno": 0}
    write, libc = os.write, ctypes.CDLL(None)
    when: Any = order.get("when")
    folder = Path(order["folder"])
    calls = Calls(killing(when) if when else unchanged, order.get("at", -1), done=lambda _: write(pipe, b"."))
    descriptors = os.listdir("/proc/self/fd")
    with going(order["way"]):
        if "libc" in order:
            write(pipe, b"+")
            libc.crash_arm(*order["libc"])
            try:
                CHANGES[order["change"]].run(folder)
            except Exception as error:  # noqa: BLE001 (each is reported)
                report |= {"error": type(error).__name__, "errno": getattr(error, "errno", 0)}
                report["is_oserror"] = isinstance(error, OSError)
            libc.crash_met.restype = ctypes.c_char_p
            report["met"] = libc.crash_met().decode()
        else:
            with calls:
                write(pipe, b"+")
                CHANGES[order["change"]].run(folder)
    report |= {"threads": threading.active_count() - 1}
    report |= {"descriptors": len(os.listdir("/proc/self/fd")) - len(descriptors)}
    write(pipe, b"!" + json.dumps(report).encode())


def serve_one(order: dict[str, Any]) -> dict[str, Any]:
    """Fork a writer, kill it after a while if so ordered, and return how it ended."""
    reading, pipe = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        try:
            signal.alarm(SECONDS)
            make_change(order, pipe)
        except BaseException:  # noqa: BLE001 (the end of this process)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(pipe)
    started = os.read(reading, 1)
    begin = time.monotonic()
    if "delay" in order:
        time.sleep(order["delay"])
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seconds = time.monotonic() - begin
    with open(reading, "rb") as rest:
        answer = started + rest.read()
    calls, _, report = answer.partition(b"!")
    return {"status": status, "calls": calls.count(b"."), "seconds": seconds, "report": json.loads(report or b"null")}


def main() -> None:
    """Serve orders, one on each line."""
    for change in CHANGES.values():  # so that children needn't import anything
        with tempfile.TemporaryDirectory() as folder:
            change.begin(Path(folder))
            change.run(Path(folder))
    gc.collect()
    gc.freeze()  # children share its memory until it is written to
    assert os.listdir("/proc/self/task") == [str(os.getpid())], "a process with threads must not fork"
    for line in sys.stdin:
        print(json.dumps(serve_one(json.loads(line))), flush=True)  # noqa: T201 (the answer)


if __name__ == "__main__":
    main()
