"""Checkpoints in PyTorch's pickled format: with torch (``make test-torch``), and without it."""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.cli import main
from blobstore.errors import BlobStoreError, MissingExtraError
from tests.checkpoints import LFS_POINTER, SINGLE, small, write_peer
from tests.gemma_checkpoints import sound_recipe
from tests.test_torch import tensor_of

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from blobstore.checkpoint.reader import Checkpoint

BIN = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"
FIX = "pip install 'torch>=2.6'; or save it as safetensors elsewhere: save_pretrained(…, safe_serialization=True)"
needs_torch = pytest.mark.torch


@pytest.fixture
def torch() -> ModuleType:
    return importlib.import_module("torch")


class Runs:
    """What a hostile file has: unpickling it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hacked",)


def values_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {name: b"".join(map(bytes, tensor.chunks())) for name, tensor in checkpoint.tensors.items()}


def refusal(path: Path) -> BlobStoreError:
    with pytest.raises(BlobStoreError) as caught:
        open_checkpoint(path)
    return caught.value


def old_file() -> bytes:
    return pickle.dumps({"a": 1}, protocol=2)


# --------------------------------------------------------------------------------------------------- without torch


@pytest.mark.parametrize("name", [BIN, "model.pt", "consolidated.00.pth", "model.CKPT"])
@pytest.mark.parametrize("inside", [False, True], ids=["file", "folder"])
def test_without_torch_both_fixes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inside: bool
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / name
    path.write_bytes(old_file())
    error = refusal(tmp_path if inside else path)
    assert isinstance(error, MissingExtraError)
    assert str(error) == f"missing-extra: this is in PyTorch's pickled format, which needs torch: {FIX} [{path}]"


def test_an_old_torch_does_not_read_safely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = type(sys)("torch")
    old.__version__ = "2.5.1+cpu"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", old)
    (tmp_path / BIN).write_bytes(old_file())
    what = "missing-extra: this is in PyTorch's pickled format, which torch 2.5.1+cpu can't read safely"
    assert str(refusal(tmp_path)) == f"{what}: {FIX} [{tmp_path / BIN}]"


def test_safetensors_beside_a_pickled_file_are_taken_and_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    write_peer(tmp_path / "m" / SINGLE, small("a"))
    (tmp_path / "m" / BIN).write_bytes(old_file())
    done = blobstore.convert(tmp_path / "m", tmp_path / "m.sbs", as_="names")
    assert [(one.name, one.kind, one.why) for one in done.left_out] == [
        (BIN, "file", "weights in another file or format, by its name")
    ]
    assert done.notes == (f"left out {BIN} (weights in another file or format, by its name)",)
    assert done.read == (str(tmp_path / "m" / SINGLE),)


def test_files_of_the_training_are_not_the_model(tmp_path: Path) -> None:
    for name in ("optimizer.pt", "training_args.bin", "rng_state_0.pth", "scheduler.pt"):
        (tmp_path / name).write_bytes(old_file())
    assert refusal(tmp_path).reason == "no-checkpoint"


@pytest.mark.parametrize("inside", [False, True], ids=["file", "folder"])
def test_parts_of_every_tensor_are_refused(tmp_path: Path, inside: bool) -> None:
    for number in (0, 1):
        (tmp_path / f"consolidated.{number:02}.pth").write_bytes(old_file())
    path = tmp_path / "consolidated.00.pth"
    what = f"no-checkpoint: {str(path)!r} has a part of every tensor, as a model that was divided among devices"
    fix = "join the parts first, or take the model saved for transformers"
    assert str(refusal(tmp_path if inside else path)) == f"{what}: {fix}"


def test_another_format_named_bin_is_named(tmp_path: Path) -> None:
    (tmp_path / BIN).write_bytes(LFS_POINTER)
    what = "not-safetensors: this is a Git LFS pointer, fetch the file itself: git lfs pull"
    assert str(refusal(tmp_path)) == f"{what} [{tmp_path / BIN}]"


# ------------------------------------------------------------------------------------------------------- with torch


@needs_torch
def test_tensors_of_every_type_have_the_files_bytes(tmp_path: Path, torch: ModuleType) -> None:
    names = [
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "int8",
        "uint8",
        "int64",
        "bool",
    ]
    names.append("complex64")
    base = torch.arange(12).reshape(3, 4)
    state = {name: base.to(getattr(torch, name)) for name in names}
    state |= {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4), "row": state["float32"][1]}
    torch.save(state, tmp_path / BIN)
    expected = {name: bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy()) for name, tensor in state.items()}
    with open_checkpoint(tmp_path) as checkpoint:
        assert values_of(checkpoint) == expected
        assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {
            name: tuple(tensor.shape) for name, tensor in state.items()
        }
        assert all(tensor.stored for tensor in checkpoint.tensors.values())
        assert checkpoint.notes == []
        assert checkpoint.format == "pytorch"


@needs_torch
def test_tensors_of_unusual_strides_are_made_as_they_are_read(tmp_path: Path, torch: ModuleType) -> None:
    base = torch.arange(24, dtype=torch.float32).to(torch.bfloat16).reshape(2, 3, 4)
    state = {
        "transposed": base.permute(2, 1, 0),
        "every other": base[:, ::2],
        "repeated": torch.ones(1, 3).expand(4, 3),
        "conjugate": torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64).conj(),
    }
    torch.save(state, tmp_path / BIN)
    with open_checkpoint(tmp_path) as checkpoint:
        for name, tensor in state.items():
            source = checkpoint.tensors[name]
            plain = tensor.resolve_conj().contiguous().view(-1)
            integers = plain.view(getattr(torch, f"int{8 * plain.element_size()}")).numpy()
            expected = integers.view(source.type.dtype)
            assert source.stored is None
            for first in range(source.count):
                for count in range(source.count - first + 1):
                    run = source.read(first, count)
                    assert run.tobytes() == expected[first : first + count].tobytes()


@needs_torch
@pytest.mark.parametrize("options", [{"as_": "names"}, {"weights": "bf16"}, {"weights": "sfp"}], ids=str)
def test_a_conversion_is_that_of_safetensors(tmp_path: Path, torch: ModuleType, options: dict[str, Any]) -> None:
    folder = tmp_path / "safetensors"
    recipe = sound_recipe("gemma3")
    recipe.write(folder)
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({name: tensor_of(torch, array) for name, array in recipe.tensors().items()}, pickled / BIN)
    expected, made = (tmp_path / f"{name}.sbs" for name in ("safetensors", "pickled"))
    blobstore.convert(folder, expected, **options)
    done = blobstore.convert(pickled, made, **options)
    assert done.read == (str(pickled / BIN),)
    assert not blobstore.diff(expected, made).differ
    assert blobstore.verify(made, against=pickled).ok


@needs_torch
@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "module"])
def test_a_wrapped_state_is_taken_and_the_rest_told(tmp_path: Path, torch: ModuleType, wrapper: str) -> None:
    state = {"a": torch.ones(2), "version": 3}
    torch.save({wrapper: state, "epoch": 4, "optimizer": {"state": torch.ones(1)}}, tmp_path / "x.ckpt")
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.tensors) == {"a"}
        assert checkpoint.lines == [
            f"x.ckpt: the tensors under {wrapper!r} are taken",
            "x.ckpt: left out, since no tensors of the model: 'epoch', 'optimizer', 'version'",
        ]


@needs_torch
def test_shards_with_an_index_and_without(tmp_path: Path, torch: ModuleType) -> None:
    names = [f"pytorch_model-{number:05}-of-00002.bin" for number in (1, 2)]
    torch.save({"a": torch.ones(2), "b": torch.ones(1)}, tmp_path / names[0])
    torch.save({"c": torch.ones(3)}, tmp_path / names[1])
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.tensors) == {"a", "b", "c"}
    index = {"weight_map": {"a": names[0], "c": names[1]}}
    (tmp_path / BIN_INDEX).write_text(json.dumps(index))
    for path in (tmp_path, tmp_path / BIN_INDEX):
        with open_checkpoint(path) as checkpoint:
            assert set(checkpoint.tensors) == {"a", "c"}
    assert refusal(tmp_path / names[0]).reason == "one-shard"


@needs_torch
@pytest.mark.parametrize("kind", ["old", "compressed"])
def test_a_file_that_can_not_be_mapped_is_read_and_told(tmp_path: Path, torch: ModuleType, kind: str) -> None:
    state = {"a": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3), "b": torch.ones(1)}
    torch.save(state, tmp_path / BIN, _use_new_zipfile_serialization=kind == "compressed")
    if kind == "compressed":
        with zipfile.ZipFile(tmp_path / BIN) as plain, zipfile.ZipFile(tmp_path / "new", "w", 8) as packed:
            for name in plain.namelist():
                packed.writestr(name, plain.read(name))
        (tmp_path / "new").replace(tmp_path / BIN)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tensors["a"].read(0, 6).astype(np.float32).tolist() == list(range(6))
        note = f"{BIN} can't be mapped, as files of torch.save can since torch 1.6: all of it is in memory"
        assert checkpoint.notes == [note]


@needs_torch
@pytest.mark.parametrize("kind", ["pickle", "zip", "module"])
def test_a_hostile_file_is_refused_and_runs_nothing(
    tmp_path: Path, torch: ModuleType, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "pickle":
        (tmp_path / BIN).write_bytes(pickle.dumps([Runs()], protocol=2))
    else:
        torch.save(torch.nn.Linear(1, 1) if kind == "module" else {"a": Runs()}, tmp_path / BIN)
    what = {"module": "torch.nn.modules.linear.Linear"}.get(kind, "posix.mkdir")
    why = f"it needs {what}, which may run any code, and torch refuses that"
    fix = "load it where you trust it, and save the model's state_dict(), or save_pretrained(…)"
    error = refusal(tmp_path)
    message = f"bad-pickle: it can't be read as PyTorch's pickled format: {why}; {fix} [{tmp_path / BIN}]"
    assert str(error) == message
    assert not (tmp_path / "hacked").exists()


@needs_torch
def test_a_damaged_file_is_a_typed_error(tmp_path: Path, torch: ModuleType) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.ones(4)}, file)
    raw = file.getvalue()
    for length in (4, 30, len(raw) // 2, len(raw) - 1):
        (tmp_path / BIN).write_bytes(raw[:length])
        assert refusal(tmp_path).reason == "bad-pickle"
    for place in range(0, len(raw), 7):
        damaged = bytearray(raw)
        damaged[place] ^= 0xFF
        (tmp_path / BIN).write_bytes(damaged)
        with suppress(BlobStoreError):
            open_checkpoint(tmp_path).close()


@needs_torch
def test_what_is_not_a_models_state_is_refused(tmp_path: Path, torch: ModuleType) -> None:
    for value in (torch.ones(3), [torch.ones(3)], {"epoch": 3}, {1: torch.ones(3)}):
        torch.save(value, tmp_path / BIN)
        assert refusal(tmp_path).reason == "no-tensors"
    torch.save({"a": torch.ones(2, dtype=torch.complex128)}, tmp_path / BIN)
    what = "'a' is a tensor of torch.complex128: save it as another type"
    assert str(refusal(tmp_path)) == f"unsupported-dtype: {what} [{tmp_path / BIN}]"
    torch.save({"a": torch.ones(2, 2).to_sparse()}, tmp_path / BIN)
    assert refusal(tmp_path).reason == "unsupported-tensor"


@needs_torch
def test_other_commands_read_it_too(tmp_path: Path, torch: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "a.pt")
    assert main(["ls", str(tmp_path / "a.pt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "a"
    assert main(["info", str(tmp_path / "a.pt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "pytorch"
    assert main(["check", str(tmp_path / "a.pt")]) == 0
    assert main(["convert", str(tmp_path / "a.pt"), "-o", str(tmp_path / "a.sbs")]) == 0
    assert "read a.pt" in capsys.readouterr().err
    assert main(["diff", str(tmp_path / "a.pt"), str(tmp_path / "a.sbs")]) == 0
    assert main(["verify", str(tmp_path / "a.sbs"), "--against", str(tmp_path / "a.pt")]) == 0
