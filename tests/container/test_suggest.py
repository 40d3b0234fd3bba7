from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.container import suggest
from blobstore.container.suggest import close_to

LAYERS = [f"model.layers.{i}.{part}.weight" for i in range(200) for part in ("q", "k", "v", "mlp.gate", "norm")]


@pytest.mark.parametrize(
    ("wanted", "names", "hinted"),
    [
        ("weigth", ["weight", "bias"], ": did you mean 'weight'?"),
        ("WEIGHT", ["model.weight"], ": did you mean 'model.weight'?"),
        ("norm", ["a.norm.b", "norm.a"], ": did you mean 'norm.a' or 'a.norm.b'?"),
        ("q", ["a.q", "b.q"], ""),
        ("xyzzy", ["weight", "bias"], ""),
        ("anything", [], ""),
        ("", ["a", "b"], ""),
        ("model.layers.7.q.weigth", LAYERS, "'model.layers.7.q.weight'"),
        ("model.layer.199.norm.weight", LAYERS, "'model.layers.199.norm.weight'"),
    ],
    ids=["typo", "case", "part", "one-letter", "far", "no-names", "empty", "typo-at-end", "typo-inside"],
)
def test_names_that_come_close_are_said(wanted: str, names: list[str], hinted: str) -> None:
    hint = close_to(wanted, names)
    assert hinted in hint
    assert bool(hint) == bool(hinted)


@given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=20))
def test_at_most_three_names_are_said_and_each_once(wanted: str, names: list[str]) -> None:
    closest = suggest._closest(wanted, names)
    assert len(closest) == len(set(closest)) <= 3
    assert set(closest) <= set(names)


def test_no_more_than_three_of_many_are_said() -> None:
    assert len(suggest._closest("norm", [f"norm.{i}" for i in range(9)])) == 3


@given(st.text(min_size=3, max_size=20), st.text(max_size=5), st.text(max_size=5))
def test_a_name_that_has_the_wanted_one_inside_is_said(wanted: str, before: str, behind: str) -> None:
    name = before + wanted + behind
    assert close_to(wanted, [name]) == f": did you mean {name!r}?"
