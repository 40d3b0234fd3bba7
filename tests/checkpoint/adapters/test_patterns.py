"""Patterns of module names: what peft finds with re, in bounded time; what isn't understood is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.checkpoint.adapters.patterns import Patterns
from blobstore.errors import CheckpointError

MODULES = ["q_proj", "model.layers.0.self_attn.q_proj", "model.layers.11.mlp.k_proj", "a.b", "ab", "h.1.c"]
WRITTEN = [
    "q_proj",
    "layers.0.self_attn.q_proj",
    "^model.layers.0.self_attn.q_proj",
    "^layers.0.self_attn.q_proj",
    r"model\.layers\.0\.self_attn\.q_proj$",
    r".*\.q_proj",
    ".*q_proj",
    r".*\.\d+\..*_proj",
    r"layers\.[0-5]\.self_attn\.(q|k)_proj",
    "(?:q|k)_proj",
    "q_proj|k_proj",
    "[qk]_pro?j",
    r"layers.1+\.mlp.*",
    "proj",
    "a.?b",
    r"\w_proj",
    "^q_proj|k_proj",
    "^a|b$",
    ".",
]


def by_peft(values: dict[str, float], module: str) -> float | None:
    """What peft takes for a module."""
    return next((value for key, value in values.items() if re.match(rf"(.*\.)?({key})$", module)), None)


@pytest.mark.parametrize("pattern", WRITTEN)
def test_patterns_that_people_write(pattern: str) -> None:
    patterns = Patterns({pattern: 3.0}, "alpha_pattern")
    for module in MODULES:
        assert patterns.value_of(module) == by_peft({pattern: 3.0}, module), module


piece = st.builds(
    "".join, st.tuples(st.sampled_from(["a", "b", r"\.", "[ab]", ".", r"\d"]), st.sampled_from(["", "", "*", "+", "?"]))
)
pattern_texts = st.one_of(
    st.lists(piece, min_size=1, max_size=5).map("".join),
    st.builds("({}|{}){}".format, piece, piece, piece),
    st.sampled_from(["a", "b.a", "^a.b", "a$"]),
)


@given(
    keys=st.lists(pattern_texts, min_size=1, max_size=4, unique=True), module=st.text("ab.1", min_size=1, max_size=8)
)
def test_the_first_pattern_counts(keys: list[str], module: str) -> None:
    values = {key: float(place) for place, key in enumerate(keys)}
    found = Patterns(values, "alpha_pattern").value_of(module)
    # In a plain name a dot is a dot here, and any character there.
    if all(not re.fullmatch(r"\^?[\w.]+\$?", key) or "." not in key for key in keys):
        assert found == by_peft(values, module)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a*)*b",
        "(a+)+",
        "(a|b)*",
        "a{2,9}",
        "((a))",
        "(?=a)",
        r"\bq",
        r"(a)\1",
        "[^a]",
        "a**",
        "a*+",
        "(",
        ")",
        "[",
        "\\",
        "[z-a]",
        "x|(a|b)",
        r"layers\.(?!0)q",
        "a(?i:b)",
        "[a(]",
        "[a|b]",
        "(a|b)" * 7,
        "a" * 513 + "*",
    ],
)
def test_what_is_not_understood_is_refused(pattern: str) -> None:
    with pytest.raises(CheckpointError, match="write the modules' names instead") as caught:
        Patterns({pattern: 1.0}, "alpha_pattern of 'x'")
    assert caught.value.reason == "adapter-config"


def test_there_may_be_many_names_but_few_patterns() -> None:
    names = {f"model.layers.{i}.q_proj": float(i) for i in range(5000)}
    patterns = Patterns(names, "alpha_pattern")
    assert patterns.value_of("base.model.layers.4321.q_proj") == 4321
    with pytest.raises(CheckpointError, match="65 patterns that are not names, more than 64"):
        Patterns({f"a*{i}": 1.0 for i in range(65)}, "alpha_pattern")


def test_the_longest_pattern_and_name_take_no_time() -> None:
    patterns = Patterns({".*a" * 170: 1.0}, "alpha_pattern")
    assert patterns.value_of("a" * 200 + "b") is None
