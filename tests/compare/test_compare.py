"""`compare` finds every difference between two files, measures it correctly, and finds none where there is none."""

from __future__ import annotations

import json
import math
import os
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import blobstore
from blobstore import codecs
from blobstore.checkpoint.safetensors import dump_header
from blobstore.codecs import PIECE
from blobstore.codecs.element_types import BY_NAME, type_of
from blobstore.compare import Tolerance, compare, open_side, open_sides
from blobstore.compare.sides import Side
from blobstore.compare.tensors import Arranged
from blobstore.compare.values import BLOCK, measure
from blobstore.converting.choices import Choices
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import BlobStoreError, CheckpointError, CodecError, FormatError, TruncatedError
from blobstore.exporting.plan import plan_export
from blobstore.exporting.run import run_export
from blobstore.gemma import ModelConfig
from blobstore.gemma.models import config_of
from blobstore.store.blocks import Block
from blobstore.store.writer import StoreWriter
from tests.checkpoints import EMBEDDING, HEAD, SINGLE, linux_only, plain, small, write_config, write_own, write_peer
from tests.gemma_checkpoints import Recipe, as_before, convert, recipes, small_recipe
from tests.memory import run_program
from tests.models import FAMILIES, FORMS
from tests.strategies import payload
from tests.tensor_strategies import DTYPES, Model, arrays, models

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.compare import Difference
    from blobstore.compare.values import Values

    Array = npt.NDArray[Any]

NAN, INF = math.nan, math.inf
INTEGERS = [dtype for dtype in DTYPES if dtype.kind in "iu"]


def differences(a: Path, b: Path, **options: Any) -> dict[str, Difference]:  # noqa: ANN401 (compare's)
    """Each name's difference."""
    by = options.pop("by", None)
    with open_sides(a, b, by) as sides:
        listed = list(compare(*sides, **options))
    by_name = {difference.name: difference for difference in listed}
    assert len(by_name) == len(listed)
    return by_name


def kinds(a: Path, b: Path, **options: Any) -> dict[str, str]:  # noqa: ANN401 (compare's)
    """The kind of each difference, without those that are the same."""
    found = differences(a, b, **options).items()
    return {name: difference.kind for name, difference in found if difference.kind not in ("same", "alias")}


def save(path: Path, tensors: Mapping[str, Array]) -> Path:
    blobstore.save_file(dict(tensors), path)
    return path


# -------------------------------------------------------------------------------- values: a naive reference, by element


def as_read(array: Array) -> Array:
    """As `compare` takes it: a bool is a number."""
    return array.view(np.uint8) if array.dtype == np.bool_ else array


def numbers(array: Array) -> list[Any]:
    """Elements as Python's numbers."""
    flat = array.reshape(-1)
    if array.dtype.kind == "c":
        return [complex(element) for element in flat]
    if array.dtype.kind in "iu":
        return [int(element) for element in flat]
    with np.errstate(invalid="ignore"):  # NaNs of any bits
        return [float(element) for element in flat.astype(np.float64)]


def is_finite(value: complex) -> bool:
    return math.isfinite(value.real) and math.isfinite(value.imag)


def same(a: Any, b: Any) -> bool:  # noqa: ANN401 (any number)
    return bool(a == b or (a != a and b != b))  # noqa: PLR0124 (NaN)


def check(measured: Values, a: Array, b: Array, tolerance: tuple[float, float] = (0.0, 0.0)) -> None:
    """Compare with a reference that takes one element at a time."""
    first, second = numbers(a), numbers(b)
    unequal = [place for place, pair in enumerate(zip(first, second, strict=True)) if not same(*pair)]
    loose = [place for place in unequal if not (is_finite(first[place]) and is_finite(second[place]))]
    distances = {place: abs(first[place] - second[place]) for place in unequal if place not in loose}
    beyond = [at for at, distance in distances.items() if distance > tolerance[0] + tolerance[1] * abs(first[at])]
    assert measured.count == len(first)
    assert measured.unequal == len(unequal)
    assert measured.not_finite == len(loose)
    assert measured.different == len(loose) + len(beyond)
    exact = a.dtype.kind in "iu" and b.dtype.kind in "iu"
    largest = max(distances.values(), default=0)
    assert measured.max_abs == largest if exact else measured.max_abs == pytest.approx(largest, rel=1e-15)
    relative = [float(d) / max(abs(float(abs(first[at]))), float(abs(second[at]))) for at, d in distances.items()]
    assert measured.max_rel == pytest.approx(max(relative, default=0.0), rel=1e-14)
    assert (measured.worst is None) is (not unequal)
    if measured.worst is not None:
        assert measured.worst in (loose[:1] or [at for at, d in distances.items() if d >= largest * (1 - 1e-15)])
        assert measured.worst_values is not None
        assert all(map(same, measured.worst_values, (first[measured.worst], second[measured.worst])))
    cosine = measured.cosine
    if unequal:
        used = [(x, y) for x, y in zip(first, second, strict=True) if is_finite(x) and is_finite(y)]
        # Computed exactly: the square of a small number may have no digits left. float64 has those of float32's.
        number: Any = float if a.dtype == b.dtype == np.float32 else Fraction
        add: Any = math.fsum if number is float else sum
        parts = [(number(p), number(q)) for x, y in used for p, q in ((x.real, y.real), (x.imag, y.imag))]
        dot = Fraction(add(p * q for p, q in parts))
        squares = Fraction(add(p * p for p, _ in parts)), Fraction(add(q * q for _, q in parts))
        # There is no cosine if float64 can't hold the square of a length, or not to all digits.
        assert cosine is not None or not all(1e-289 < square < 1e308 for square in squares)
        if cosine is not None:
            expected = math.copysign(math.sqrt(dot**2 / (squares[0] * squares[1])), dot)
            assert cosine == pytest.approx(expected, abs=1e-12)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Array, Array]:
    """Two arrays of one dtype, which differ nowhere, in some places or everywhere."""
    first = plain(draw(arrays()))
    raw = payload(draw(st.integers(21, 40)), first.nbytes)
    if first.dtype == np.bool_:
        raw = bytes(byte & 1 for byte in raw)
    fresh = np.frombuffer(raw, first.dtype)
    second = first.copy().reshape(-1)
    chosen = draw(st.lists(st.integers(0, max(0, first.size - 1)), max_size=4) | st.none())
    places = slice(None) if chosen is None else chosen if first.size else []
    second[places] = fresh[places]
    return first, second.reshape(first.shape)


@given(pair=pairs(), tolerance=st.tuples(st.sampled_from([0.0, 1e-3, 2.5]), st.sampled_from([0.0, 0.3])))
@settings(max_examples=300)
@example(pair=(np.array([-4.95434687e-159]), np.array([1.91569409e76])), tolerance=(0.0, 0.0))
@example(pair=(np.array([6.05538168e26]), np.array([4.5370588e-157])), tolerance=(0.0, 0.0))
def test_values_are_measured_as_one_by_one(pair: tuple[Array, Array], tolerance: tuple[float, float]) -> None:
    a, b = (array.reshape(-1) for array in pair)
    with np.errstate(all="ignore"):
        small_enough = not any(np.abs(array.astype(np.complex128)).max(initial=0) > 1e150 for array in pair)
    if a.dtype != np.float64 or small_enough:  # Python's powers would overflow
        a, b = as_read(a), as_read(b)
        check(measure(a, b, tolerance=Tolerance(*tolerance)), a, b, tolerance)


@given(st.sampled_from(list(DTYPES)), st.sampled_from(list(DTYPES)), st.integers(1, 40))
def test_values_of_two_types_are_compared_as_numbers(type_a: np.dtype[Any], type_b: np.dtype[Any], count: int) -> None:
    few = np.arange(count) % 3
    a, b = as_read(few.astype(type_a)), as_read((few[::-1] + (count > 20)).astype(type_b))
    check(measure(a, b), a, b)


@given(st.sampled_from(INTEGERS), st.sampled_from(INTEGERS), st.data())
def test_integers_are_exact(type_a: np.dtype[Any], type_b: np.dtype[Any], data: st.DataObject) -> None:
    def drawn(dtype: np.dtype[Any]) -> Array:
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        some = st.integers(low, high) | st.sampled_from([low, high, high - 1, min(high, 2**53 + 1)])
        return np.array(data.draw(st.lists(some, min_size=5, max_size=5)), dtype)

    a, b = drawn(type_a), drawn(type_b)
    if np.result_type(a, b).kind in "iu":
        check(measure(a, b), a, b)


def test_what_lies_beyond_2_to_the_53_is_exact() -> None:
    a = np.array([2**63 - 1, -(2**63), 2**53], np.int64)
    b = np.array([2**63 - 2, 2**63 - 1, 2**53 + 1], np.int64)
    measured = measure(a, b, tolerance=Tolerance(1.5))
    assert (measured.unequal, measured.different, measured.max_abs, measured.worst) == (3, 1, 2**64 - 1, 1)
    assert measured.worst_values == (-(2**63), 2**63 - 1)
    wide = measure(np.array([2**64 - 1, 5], np.uint64), np.array([2**64 - 2, 5], np.uint64))
    assert (wide.unequal, wide.max_abs, wide.worst_values) == (1, 1, (2**64 - 1, 2**64 - 2))


@given(
    dtype=st.sampled_from([np.dtype(code) for code in ("i8", "u8", "i4", "f4", "f8", "c16")]),
    places=st.dictionaries(st.integers(0, 3 * BLOCK + 4), st.integers(1, 100), min_size=1, max_size=6),
    first=st.integers(0, 2**40),
)
def test_the_worst_of_several_blocks_is_where_they_differ_most(
    dtype: np.dtype[Any], places: dict[int, int], first: int
) -> None:
    a = np.full(3 * BLOCK + 5, 7, dtype)
    b = a.copy()
    for place, distance in places.items():
        b[place] += distance
    measured = measure(a, b, first)
    assert (measured.count, measured.unequal, measured.max_abs) == (len(a), len(places), max(places.values()))
    assert measured.worst is not None
    worst = measured.worst - first
    assert a[worst] != b[worst]
    assert worst == min(place for place, distance in places.items() if distance == measured.max_abs)
    assert measured.worst_values == (a[worst], b[worst])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16], ids=str)
def test_nan_and_infinities(dtype: Any) -> None:  # noqa: ANN401 (a dtype)
    a = np.array([NAN, NAN, 1.0, INF, INF, 5.0, 0.0, -INF, 8.0], dtype)
    b = np.array([NAN, 2.0, NAN, INF, -INF, INF, -0.0, 3.0, 8.5], dtype)
    measured = measure(a, b, tolerance=Tolerance(1e9))
    check(measured, a, b, (1e9, 0.0))
    assert (measured.unequal, measured.not_finite, measured.different) == (6, 5, 5)
    assert (measured.max_abs, measured.worst) == (0.5, 1)
    assert measured.cosine == 1.0  # only 8 and 8.5 count


def test_the_relative_error_is_to_the_larger() -> None:
    measured = measure(np.array([0.0, 2.0, -1.0]), np.array([5e-324, 2.0, 1.0]))
    assert (measured.max_rel, measured.max_abs, measured.worst) == (2.0, 2.0, 2)
    assert measure(np.array([0.0]), np.array([5e-324])).max_rel == 1.0


def test_the_cosine_of_what_has_no_length_is_not_told() -> None:
    assert measure(np.zeros(3), np.ones(3)).cosine is None
    assert measure(np.full(2, 1e300), np.full(2, -1e300)).cosine is None
    assert measure(np.ones(3), -np.ones(3)).cosine == -1.0
    assert measure(np.zeros(3), np.zeros(3)).cosine == 1.0


# ------------------------------------------------------------------------------------------------- tensors of two files


@given(model=models())
@settings(max_examples=30)
def test_a_file_is_the_same_as_itself_however_it_is_stored(tmp_path: Path, model: Model) -> None:
    a, b = tmp_path / "a.sbs", tmp_path / "b.sbs"
    model.write(a)
    Model(**(vars(model) | {"version": 3 - model.version, "digests": not model.digests})).write(b)
    result = differences(a, b)
    assert set(model.expected()) <= set(result)
    assert not [difference for difference in result.values() if difference.kind not in ("same", "alias")]


@given(pair=pairs())
def test_a_changed_tensor_is_found_and_measured(tmp_path: Path, pair: tuple[Array, Array]) -> None:
    with_norm = {"norm": np.ones(3, np.float32)}
    a, b = (save(tmp_path / f"{i}.sbs", with_norm | {"x": array}) for i, array in enumerate(pair))
    difference = differences(a, b)["x"]
    if pair[0].tobytes() == pair[1].tobytes():
        assert (difference.kind, difference.values, difference.differs) == ("same", None, False)
        return
    assert difference.differs
    unequal = sum(not same(*two) for two in zip(*(numbers(as_read(x)) for x in pair), strict=True))
    assert difference.kind == ("values" if unequal else "bytes")
    assert difference.values is not None
    assert (difference.values.count, difference.values.unequal) == (pair[0].size, unequal)


@pytest.mark.parametrize("dtype", list(DTYPES), ids=DTYPES.get)
def test_a_single_changed_element_is_found_in_every_type(tmp_path: Path, dtype: np.dtype[Any]) -> None:
    a = np.ones((5, 7), np.float32).astype(dtype)
    b = a.copy()
    b[3, 4] = np.float32(0 if dtype == np.bool_ else 2).astype(dtype)
    write_own(tmp_path / "b.safetensors", {"x": (type_of(dtype), (5, 7), b.tobytes())})
    difference = differences(save(tmp_path / "a.sbs", {"x": a}), tmp_path / "b.safetensors")["x"]
    assert difference.kind == "values"
    assert difference.values is not None
    assert (difference.values.unequal, difference.values.max_abs, difference.values.worst) == (1, 1, 3 * 7 + 4)
    assert difference.values.max_rel == (1.0 if dtype == np.bool_ else 0.5)


def encoded(type_name: str, count: int) -> tuple[Array, float]:
    """Stored bytes of a type, and the scale; for types that are only read any codes."""
    if type_name == "nuq":
        return np.frombuffer(payload(7, BY_NAME[type_name].nbytes(count)).replace(b"\x80", b"\1"), np.uint8), 1.0
    if type_name == "mxfp4":
        blocks = np.frombuffer(payload(7, BY_NAME[type_name].nbytes(count)), np.uint8).reshape(-1, 17).copy()
        blocks[:, 0] = 127
        return blocks.reshape(-1), 1.0
    values = np.random.default_rng(3).uniform(-9, 9, count).astype(np.float32)
    return codecs.encode(type_name, values)


def save_encoded(path: Path, type_name: str, data: Array, scale: float, count: int) -> Path:
    with blobstore.create(path) as writer:
        writer.add_stored("x", [data], BY_NAME[type_name], (count,), scale=scale)
    return path


@pytest.mark.parametrize("type_name", ["sfp", "i8", "nuq", "q4_0", "mxfp4", "bf16", "f32"])
@pytest.mark.parametrize("count", [1000, 2 * PIECE + 300])
def test_encoded_tensors_are_compared_as_what_they_decode_to(tmp_path: Path, type_name: str, count: int) -> None:
    data, scale = encoded(type_name, count)
    a = save_encoded(tmp_path / "a.sbs", type_name, data, scale, count)
    decoded = codecs.decode(type_name, data, count, scale=scale)
    b = save(tmp_path / "b.sbs", {"x": decoded})
    assert kinds(a, a, chunk=PIECE) == {}
    assert kinds(a, b, chunk=PIECE) == ({} if type_name == "f32" else {"x": "type"})
    assert kinds(a, b, tolerance=Tolerance(), chunk=PIECE) == ({} if type_name == "f32" else {"x": "close"})
    changed = decoded.copy()
    changed[[3, count - 1]] += 16
    difference = differences(a, save(b, {"x": changed}), chunk=PIECE)["x"]
    assert difference.values is not None
    check(difference.values, decoded, changed)
    flipped = data.copy()
    flipped[-1 if type_name != "i8" else -5] ^= 0x01
    difference = differences(a, save_encoded(tmp_path / "c.sbs", type_name, flipped, scale, count), chunk=PIECE)["x"]
    again = codecs.decode(type_name, flipped, count, scale=scale)
    assert difference.kind == ("bytes" if np.array_equal(decoded, again) else "values")
    assert difference.values is not None
    check(difference.values, decoded, again)


def test_another_scale_is_another_value(tmp_path: Path) -> None:
    data, scale = encoded("sfp", 300)
    a = save_encoded(tmp_path / "a.sbs", "sfp", data, scale, 300)
    b = save_encoded(tmp_path / "b.sbs", "sfp", data, 2 * scale, 300)
    difference = differences(a, b)["x"]
    assert difference.kind == "values"
    assert difference.values is not None
    assert difference.values.max_rel == 0.5
    assert difference.values.cosine == pytest.approx(1)
    zeros = np.zeros(300, np.uint8)
    a, b = (save_encoded(tmp_path / f"{s}.sbs", "sfp", zeros, s, 300) for s in (1.0, 2.0))
    assert kinds(a, b) == {"x": "bytes"}


@pytest.mark.parametrize(
    "places", [[0], [PIECE - 1], [PIECE], [5 * PIECE + 8], [3, 4 * PIECE], list(range(0, 300_000, 7))]
)
def test_chunks_make_one_tensor(tmp_path: Path, places: list[int]) -> None:
    a = np.random.default_rng(1).standard_normal(5 * PIECE + 9).astype(np.float32)
    b = a.copy()
    b[places] *= 1.5
    progress: list[int] = []
    paths = save(tmp_path / "a.sbs", {"x": a}), save(tmp_path / "b.sbs", {"x": b})
    values = differences(*paths, progress=progress.append, chunk=PIECE)["x"].values
    assert values is not None
    assert values.unequal == len(places)
    distance = np.abs(a.astype(np.float64) - b)
    assert values.max_abs == distance.max()
    assert values.worst == distance.argmax()
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    expected = wide_a @ wide_b / np.linalg.norm(wide_a) / np.linalg.norm(wide_b)
    assert values.cosine == pytest.approx(expected, abs=1e-14)
    assert sum(progress) == pytest.approx(2 * a.nbytes, abs=12)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_what_is_not_finite_has_no_part_in_the_cosine(tmp_path: Path, dtype: npt.DTypeLike) -> None:
    a = np.ones(2 * PIECE, dtype)
    a[5] = NAN  # in a chunk that is equal
    b = a.copy()
    b[PIECE + 5 :] = 0
    b[PIECE + 4] = INF
    paths = save(tmp_path / "a.sbs", {"x": a}), save(tmp_path / "b.sbs", {"x": b})
    values = differences(*paths, chunk=PIECE)["x"].values
    assert values is not None
    assert (values.unequal, values.not_finite, values.worst) == (PIECE - 4, 1, PIECE + 4)
    assert values.cosine == pytest.approx(math.sqrt((PIECE + 3) / (2 * PIECE - 2)))


def test_equal_values_of_other_bytes_are_told_apart(tmp_path: Path) -> None:
    nan = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    a = save(tmp_path / "a.sbs", {"zero": np.zeros(2, np.float32), "nan": nan[:1]})
    b = save(tmp_path / "b.sbs", {"zero": np.array([0.0, -0.0], np.float32), "nan": nan[1:]})
    assert kinds(a, b) == {"zero": "bytes", "nan": "bytes"}
    assert kinds(a, b, tolerance=Tolerance()) == {"zero": "close", "nan": "close"}


def test_another_shape_is_said_and_values_are_not_compared(tmp_path: Path) -> None:
    a = save(tmp_path / "a.sbs", {"x": np.ones((2, 3), np.float32)})
    b = save(tmp_path / "b.sbs", {"x": np.ones((3, 2), np.float16)})
    for tolerance in (None, Tolerance(1e9)):
        difference = differences(a, b, tolerance=tolerance)["x"]
        assert (difference.kind, difference.differs, difference.values) == ("shape", True, None)


@pytest.mark.parametrize(
    ("tolerance", "different"),
    [(Tolerance(), 3), (Tolerance(0.25), 2), (Tolerance(0.5), 1), (Tolerance(8), 0), (Tolerance(0, 0.25), 1)],
    ids=str,
)
def test_what_is_within_the_tolerance_does_not_count(tmp_path: Path, tolerance: Tolerance, different: int) -> None:
    a = save(tmp_path / "a.sbs", {"x": np.array([1.0, 4.0, 16.0, 2.0], np.float32)})
    b = save(tmp_path / "b.sbs", {"x": np.array([1.25, 4.5, 24.0, 2.0], np.float64)})
    difference = differences(a, b, tolerance=tolerance)["x"]
    assert difference.values is not None
    assert (difference.values.unequal, difference.values.different, difference.values.max_abs) == (3, different, 8)
    assert (difference.kind, difference.differs) == (("values", True) if different else ("close", False))


def test_what_can_not_be_decoded_is_compared_by_its_bytes(tmp_path: Path) -> None:
    f4 = BY_NAME["f4"]
    made = {
        name: write_own(tmp_path / f"{name}.safetensors", {"x": (f4, (8,), data)})
        for name, data in (("a", b"abcd"), ("b", b"abzd"))
    }
    convert(made["a"], tmp_path / "a.sbs", kind="names")
    assert kinds(made["a"], tmp_path / "a.sbs") == {}
    difference = differences(tmp_path / "a.sbs", made["b"])["x"]
    assert (difference.kind, difference.differs, difference.values) == ("bytes", True, None)
    assert difference.detail == "f4 can't be decoded here, byte 2 differs"
    assert kinds(made["a"], made["b"], tolerance=Tolerance(1e9)) == {"x": "bytes"}
    bits = write_own(tmp_path / "c.safetensors", {"x": (BY_NAME["u8"], (8,), bytes(8))})
    difference = differences(made["a"], bits, tolerance=Tolerance(1e9))["x"]
    assert (difference.kind, difference.differs, difference.detail) == ("type", True, "f4 can't be decoded here")


@pytest.mark.parametrize("file", ["valid/index-unknown-type-and-codec", "catalog_valid/toc-newer-types"])
def test_types_and_codecs_of_the_future_are_compared_by_their_bytes(tmp_path: Path, vectors: Path, file: str) -> None:
    path = vectors / f"{file}.sbs"
    assert kinds(path, path) == {}
    with blobstore.open(path) as store:
        places = {info.name: info.offset for info in store.infos() if info.dtype is None}
    assert len(places) == 2
    for name, offset in places.items():
        raw = bytearray(path.read_bytes())
        raw[offset] ^= 1
        (tmp_path / "b.sbs").write_bytes(raw)
        assert kinds(path, tmp_path / "b.sbs") == {name: "bytes"}


# ---------------------------------------------------------------------------------------------------------------- names


@given(here=st.sets(st.sampled_from("abcdef")), there=st.sets(st.sampled_from("abcdef")))
def test_what_one_side_lacks_is_removed_or_added(tmp_path: Path, here: set[str], there: set[str]) -> None:
    tensors = small(*"abcdef")
    a, b = (write_peer(tmp_path / f"{i}.safetensors", {n: tensors[n] for n in s}) for i, s in enumerate((here, there)))
    expected = dict.fromkeys(here - there, "removed") | dict.fromkeys(there - here, "added")
    assert kinds(a, b) == expected
    swapped = {"removed": "added", "added": "removed"}
    assert kinds(b, a) == {name: swapped[kind] for name, kind in expected.items()}


@given(names=st.permutations("abcdef"), fresh=st.sets(st.sampled_from("abcdef")))
def test_what_only_has_another_name_is_renamed(tmp_path: Path, names: list[str], fresh: set[str]) -> None:
    tensors = {name: np.arange(10) + 10 * place for place, name in enumerate("abcdef")}
    after = {name: f"new.{old}" if name in fresh else name for name, old in zip("abcdef", names, strict=True)}
    a = save(tmp_path / "a.sbs", tensors)
    b = save(tmp_path / "b.sbs", {after[name]: tensor for name, tensor in tensors.items()})
    result = differences(a, b)
    assert {name: difference.other for name, difference in result.items() if difference.kind != "same"} == {
        n: after[n] for n in fresh
    }
    assert {difference.kind for difference in result.values() if difference.other} == ({"renamed"} if fresh else set())


def test_renamed_takes_the_same_type_shape_and_every_byte(tmp_path: Path) -> None:
    tensor = np.arange(3 * PIECE, dtype=np.int32)
    late = tensor.copy()
    late[2 * PIECE - 5] += 1  # where no probe looks
    b: dict[str, Array] = {
        "n1": late,
        "n2": tensor.reshape(3, -1),
        "n3": tensor.view(np.float32),
        "n4": tensor.astype(np.int64),
    }
    result = kinds(save(tmp_path / "a.sbs", {"x": tensor}), save(tmp_path / "b.sbs", b))
    assert result == {"x": "removed"} | dict.fromkeys(b, "added")
    result = kinds(tmp_path / "a.sbs", save(tmp_path / "b.sbs", b | {"n5": tensor, "n6": tensor.copy()}))
    assert result == {"x": "renamed"} | dict.fromkeys([*b, "n6"], "added")


def test_of_several_that_are_the_same_the_name_that_ends_alike_is_taken(tmp_path: Path) -> None:
    a = {f"layers.{i}.{norm}.weight": np.ones(8) for i in range(12) for norm in ("norm_1", "norm_2")}
    b = {f"model.{name}": array.copy() for name, array in a.items()}
    a = {name: array.copy() for name, array in a.items()}
    result = differences(write_peer(tmp_path / "a.safetensors", a), write_peer(tmp_path / "b.safetensors", b))
    assert {name: difference.other for name, difference in result.items()} == {name: f"model.{name}" for name in a}


def test_tensors_are_matched_whether_they_are_stored_whole_or_in_blocks(tmp_path: Path) -> None:
    path, sfp = tmp_path / "m.sbs", BY_NAME["sfp"]
    with blobstore.create(path) as store:
        for name in ("x", "y"):
            codes = np.full(16, 1 + ord(name) % 8, np.uint8)
            store.add_stored(name, [codes], sfp, (4, 4))
    with open_side(path) as side:

        def blocks(name: str) -> Arranged:
            assert side.store
            info = side.store.info(name)
            return Arranged(info._replace(blocks=(Block(info, 0, 0, 4, 0, 4, 4),)), side.store)

        a = Side("a", "names", {"a.0": blocks("x"), "a.1": blocks("y"), "a.2": side["x"], "a.3": side["y"]}, {}, {})
        b = Side("b", "names", {"b.a": side["y"], "b.b": side["x"], "b.c": blocks("x")}, {}, {})
        kinds = {difference.name: (difference.kind, difference.other) for difference in compare(a, b)}
    assert kinds == {
        "a.0": ("renamed", "b.b"),
        "a.1": ("renamed", "b.a"),
        "a.2": ("renamed", "b.c"),
        "a.3": ("removed", ""),
    }


def test_one_more_name_for_the_same_bytes_is_no_difference(tmp_path: Path) -> None:
    embedding = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_peer(tmp_path / SINGLE, {EMBEDDING: embedding, "n": np.ones(2, np.float32)})
    write_config(tmp_path, {"tie_word_embeddings": True})
    convert(tmp_path, tmp_path / "a.sbs")
    for a, b in ((tmp_path, tmp_path / "a.sbs"), (tmp_path / "a.sbs", tmp_path)):
        result = differences(a, b)
        assert {name: difference.kind for name, difference in result.items()} == {
            EMBEDDING: "same",
            HEAD: "alias",
            "n": "same",
        }
        assert (result[HEAD].other, result[HEAD].differs) == (EMBEDDING, False)
    both = write_peer(
        tmp_path / "both.safetensors", {EMBEDDING: embedding, "n": np.ones(2, np.float32), HEAD: embedding}
    )
    assert kinds(tmp_path / "a.sbs", both) == {}
    write_peer(both, {EMBEDDING: embedding, "n": np.ones(2, np.float32), HEAD: embedding + 1})
    assert kinds(tmp_path / "a.sbs", both) == {HEAD: "values"}
    write_peer(both, {HEAD: embedding, "n": np.ones(2, np.float32)})  # the other name alone
    assert kinds(tmp_path / "a.sbs", both) == {}
    write_peer(both, {"n": np.ones(2, np.float32)})
    assert kinds(tmp_path / "a.sbs", both) == {EMBEDDING: "removed", HEAD: "removed"}
    write_peer(both, {"n": np.ones(2, np.float32), "moved": embedding})
    result = differences(tmp_path / "a.sbs", both)
    assert (result[EMBEDDING].kind, result[EMBEDDING].other, result[HEAD].kind) == ("renamed", "moved", "alias")


# ---------------------------------------------------------------------------------------------- conversions and sources


@given(model=models())
@settings(max_examples=20)
def test_an_export_is_the_same_as_its_file(tmp_path: Path, model: Model) -> None:
    model.write(tmp_path / "a.sbs")
    with blobstore.open(tmp_path / "a.sbs") as store:
        run_export(plan_export(store), store, tmp_path / "b.safetensors")
    assert kinds(tmp_path / "a.sbs", tmp_path / "b.safetensors") == {}


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_model_is_the_same_as_its_checkpoint(tmp_path: Path, family: str, layout: str) -> None:
    recipe = small_recipe(family, head=layout == "stock", shards=2)
    recipe.write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("bf16", layout))
    result = differences(tmp_path / "a.sbs", tmp_path / "c")
    assert set(recipe.tensors()) <= set(result)
    # Also those that gemma.cpp only takes as f32.
    assert {difference.kind for difference in result.values()} <= {"same", "alias"}


@given(recipe=recipes(), layout=st.sampled_from(FORMS), step=st.sampled_from([128, 384, PIECE]))
@settings(max_examples=12)
def test_any_conversion_is_the_same_as_its_checkpoint_in_any_chunks(
    tmp_path: Path, recipe: Recipe, layout: str, step: int
) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    recipe.write(folder)
    convert(folder, folder / "a.sbs", Choices("bf16" if recipe.dtype == "bf16" else "f32", layout))
    result = differences(folder / "a.sbs", folder, tolerance=Tolerance(), chunk=step)
    assert not [difference for difference in result.values() if difference.differs]
    assert {name for name, difference in result.items() if difference.kind != "alias"} >= {*recipe.tensors()} - {
        recipe.head_name
    }


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_element_of_a_checkpoint_is_found_at_its_place(tmp_path: Path, family: str, layout: str) -> None:
    recipe = small_recipe(family)
    tensors = recipe.tensors()
    recipe.write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("bf16", layout))
    for place, name in enumerate(sorted(tensors)):
        changed = tensors[name].copy()
        at = (place * 37 + 5) % changed.size
        changed.reshape(-1)[at] = 8
        tensors[name] = changed
    recipe.write(tmp_path / "d", tensors)
    result = differences(tmp_path / "a.sbs", tmp_path / "d", tolerance=Tolerance())
    for place, name in enumerate(sorted(tensors)):
        values = result[name].values
        assert values is not None
        assert (values.different, values.worst) == (1, (place * 37 + 5) % tensors[name].size)


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_in_sfp_differ_by_no_more_than_sfp_does(tmp_path: Path, family: str, layout: str) -> None:
    recipe = small_recipe(family, top=9.0)
    recipe.write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("sfp", layout))
    result = differences(tmp_path / "c", tmp_path / "a.sbs")
    encoded_tensors = [difference for difference in result.values() if difference.b and difference.b.type.name == "sfp"]
    assert len(encoded_tensors) >= 2 * 7
    for difference in encoded_tensors:
        assert difference.kind == "values"
        assert difference.values is not None
        assert 0 < difference.values.max_abs <= 9 / 16  # three bits of mantissa at the top
        assert difference.values.cosine is not None
        assert 0.999 < difference.values.cosine < 1
    assert not [
        difference
        for difference in result.values()
        if difference.kind == "values" and difference not in encoded_tensors
    ]
    assert not [
        difference
        for difference in differences(tmp_path / "c", tmp_path / "a.sbs", tolerance=Tolerance(9 / 16)).values()
        if difference.differs
    ]


@pytest.mark.parametrize("weights", ["bf16", "sfp", "i8"])
def test_two_layouts_hold_the_same_tensors(tmp_path: Path, weights: str) -> None:
    small_recipe("gemma3vlm", top=5.0).write(tmp_path / "c")
    for layout in FORMS:
        convert(tmp_path / "c", tmp_path / f"{layout}.sbs", Choices(weights, layout))
    a, b = (tmp_path / f"{layout}.sbs" for layout in FORMS)
    if weights == "bf16":
        assert kinds(a, b) == {"toc": "blob"}
    result = differences(a, b, tolerance=Tolerance(0.6))  # scales and groups are those of other tensors
    assert not [difference for difference in result.values() if difference.differs]
    assert any(name.endswith("self_attn.o_proj.weight") for name in result)
    assert any(difference.kind == "removed" for difference in differences(a, b, by="keys").values())


# ------------------------------------------------------------------------------------------------ names, keys, the rest


def test_a_file_without_names_is_compared_by_keys(shared_vectors: Path, tmp_path: Path) -> None:
    folder = shared_vectors / "convert"
    convert(folder / "tiny-gemma3", tmp_path / "new.sbs", Choices("bf16", "stock"))
    # Their config is of October 2025, and lacks a word.
    with blobstore.open(tmp_path / "new.sbs") as store:
        assert store.config
        before = as_before(store.config)
    apply_edits(tmp_path / "new.sbs", tmp_path / "a.sbs", Edits(config=before.to_bytes()))
    theirs = folder / "tiny-gemma3-bf16-stock.sbs"
    with open_sides(tmp_path / "a.sbs", theirs) as (a, b):
        assert (a.by, b.by) == ("keys", "keys")
        assert {difference.kind for difference in compare(a, b)} == {"same", "metadata"}
    with open_sides(tmp_path / "a.sbs", theirs, "names") as (a, b):
        assert not a.names & b.names
    with open_sides(theirs, folder / "tiny-gemma3") as (a, b):
        assert (a.by, b.by) == ("names", "names")


def test_by_keys_no_blob_is_left_out(tmp_path: Path) -> None:
    empty = np.zeros((0, 2), np.float32)
    norm = np.ones(4, np.float32)
    for name, last in (("a", 1), ("b", 2)):
        with blobstore.create(tmp_path / f"{name}.sbs") as writer:
            writer.add(EMBEDDING, np.array([[1, 1], [1, last]], np.float32))
            writer.alias(HEAD, EMBEDDING)
            writer.part("half", EMBEDDING, BY_NAME["f32"], (2,))
            writer.add("short", norm)
            writer.add("empty", empty)
    result = differences(tmp_path / "a.sbs", tmp_path / "b.sbs", by="keys")
    expected = {blobstore.key_for(EMBEDDING): "values", "short": "same", "empty": "same"}
    assert {name: difference.kind for name, difference in result.items()} == expected


def test_an_export_by_keys_is_compared_by_keys(tmp_path: Path) -> None:
    small_recipe("gemma3").write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("bf16"))
    with blobstore.open(tmp_path / "a.sbs", by="keys") as store:
        run_export(plan_export(store), store, tmp_path / "b.safetensors")
    with open_sides(tmp_path / "a.sbs", tmp_path / "b.safetensors") as (a, b):
        assert (a.by, b.by) == ("keys", "names")
        assert {difference.kind for difference in compare(a, b)} == {"same"}


def test_blobs_and_metadata_that_differ_are_told(tmp_path: Path) -> None:
    config = config_of("gemma3-270m-bf16-it")
    contents = {
        "a": (config, b"one tokenizer", {"license": "x", "old": "1", "blobstore.own": "1"}),
        "b": (config.with_weight("sfp"), b"one tOkenizer", {"license": "y", "new": "2", "blobstore.own": "2"}),
    }
    for name, (described, tokenizer, metadata) in contents.items():
        with StoreWriter(tmp_path / f"{name}.sbs", metadata=metadata) as writer:
            writer.add("x", np.ones(2, np.float32))
            writer.add_blob("config", described.to_bytes())
            writer.add_blob("tokenizer", tokenizer)
            if name == "b":
                writer.add_blob("toc", b"1234")
    result = differences(tmp_path / "a.sbs", tmp_path / "b.sbs")
    details = {
        name: (difference.kind, difference.differs, difference.detail)
        for name, difference in result.items()
        if difference.kind != "same"
    }
    assert details.pop("config")[2].endswith(" differs; weight bf16 → sfp")
    assert details == {
        "tokenizer": ("blob", True, "byte 5 differs"),
        "toc": ("blob", True, "only in the second"),
        "license": ("metadata", False, "x → y"),
        "old": ("metadata", False, "removed: 1"),
        "new": ("metadata", False, "added: 2"),
    }
    result = differences(tmp_path / "a.sbs", tmp_path / "b.sbs", tolerance=Tolerance())
    assert {name for name, difference in result.items() if difference.differs} == {"tokenizer"}


def test_a_config_that_is_damaged_is_told_by_its_byte(tmp_path: Path) -> None:
    for name, raw in (("a", ModelConfig().to_bytes()), ("b", b"\xff\xff\xff\x7f")):
        with blobstore.create(tmp_path / f"{name}.sbs") as writer:
            writer.add("x", np.ones(2, np.float32))
            writer.add_blob("config", raw)
    difference = differences(tmp_path / "a.sbs", tmp_path / "b.sbs", tolerance=Tolerance())["config"]
    assert (difference.kind, difference.differs, difference.detail) == ("blob", True, "byte 0 differs")


# --------------------------------------------------------------------------------------------------------------- faults


def test_what_a_file_is_is_seen_by_what_is_in_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a.sbs", small("a"))
    path.rename(tmp_path / "no-ending")
    with open_side(tmp_path / "no-ending") as side:
        assert set(side.names) == {"a"}
    (tmp_path / "b.sbs").write_bytes(b"GGUF" + bytes(100))
    (tmp_path / "b").write_bytes(b"GGUF" + bytes(100))
    for name in ("b.sbs", "b"):
        with pytest.raises((FormatError, CheckpointError), match="GGUF") as caught, open_side(tmp_path / name):
            pass
        assert caught.value.path == str(tmp_path / name)


def test_a_code_that_stands_for_nothing_is_an_error_that_names_tensor_and_file(tmp_path: Path) -> None:
    a = save_encoded(tmp_path / "a.sbs", "sfp", np.ones(300, np.uint8), 1.0, 300)
    b = save_encoded(tmp_path / "b.sbs", "sfp", np.full(300, 0x80, np.uint8), 1.0, 300)
    assert kinds(b, b) == {}
    with pytest.raises(CodecError, match="'x'") as caught:
        differences(a, b)
    assert (caught.value.reason, caught.value.path) == ("sfp-reserved-code", str(b))


@pytest.mark.parametrize("ending", ["sbs", "safetensors"])
def test_a_file_that_shrinks_meanwhile_is_an_error_that_names_it(tmp_path: Path, ending: str) -> None:
    tensors = {"x": np.ones(100_000, np.float32)}
    a = save(tmp_path / "a.sbs", tensors)
    b = tmp_path / f"b.{ending}"
    save(b, tensors) if ending == "sbs" else write_peer(b, tensors)
    with open_sides(a, b) as (side_a, side_b):
        os.truncate(b, 300_000)
        with pytest.raises(TruncatedError) as caught:
            list(compare(side_a, side_b))
    assert caught.value.path == str(b)


def test_metadata_of_a_source_that_makes_no_tensors_is_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "a.sbs", metadata={"blobstore.rearranged": "{"}) as writer:
        writer.add("x", np.ones(2, np.float32))
    with pytest.raises(BlobStoreError) as caught, open_side(tmp_path / "a.sbs"):
        pass
    assert (caught.value.reason, caught.value.path) == ("rearranged-metadata", str(tmp_path / "a.sbs"))


def test_a_source_tensor_of_two_types_is_refused(tmp_path: Path) -> None:
    pieces = [[name, 0, row, 2, 0, 2, 2, "", 1] for name, row in (("a", 0), ("b", 2))]
    tensors = {"x": {"shape": [4, 2], "pieces": pieces}}
    result = json.dumps({"types": {"most": "f32", "others": {}}, "aliases": {}, "tensors": tensors})
    with StoreWriter(tmp_path / "a.sbs", metadata={"blobstore.rearranged": result}) as writer:
        writer.add("a", np.ones((2, 2), np.float32))
        writer.add("b", np.ones((2, 2), np.float16))
    with pytest.raises(FormatError, match="several types") as caught, open_side(tmp_path / "a.sbs"):
        pass
    assert (caught.value.reason, caught.value.path) == ("rearranged-metadata", str(tmp_path / "a.sbs"))


# --------------------------------------------------------------------------------------------------------------- memory

COMPARE = """
import sys
from blobstore.compare import compare, open_sides

with open_sides(*sys.argv[1:]) as (a, b):
    first = next(compare(a, b))
    before = peak()
    found = list(compare(a, b))
print(peak() - before, len(found), found[-1].kind)
"""


@linux_only
@pytest.mark.parametrize("change", [False, True])
def test_memory_does_not_grow_with_the_tensors(tmp_path: Path, change: bool) -> None:
    bf16, count = BY_NAME["bf16"], 100 << 20
    header = dump_header([("a", bf16, (4,)), ("z", bf16, (count,))])
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path in (a, b):
        path.write_bytes(header)
        os.truncate(path, len(header) + 2 * (4 + count))
    if change:
        with b.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x3f")
    grown, count_seen, last = run_program(COMPARE, a, b)
    assert (count_seen, last) == ("2", "values" if change else "same")
    assert int(grown) < 48 << 20
