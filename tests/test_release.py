"""The long description that an index shows, and the versions that are named in several places."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest

from tests.conftest import ROOT
from tests.release.__main__ import PYTHONS, python_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown() -> str:
    """What hatch-fancy-pypi-readme makes of README.md, which need not be installed here: `make dist` has it."""
    text = README
    for step in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        assert re.search(step["pattern"], text), f"{step['pattern']} finds nothing in README.md any more"
        text = re.sub(step["pattern"], step["replacement"], text)
    return text


def test_no_link_of_the_long_description_is_relative(shown: str) -> None:
    assert all(re.match(r"https?://", target) for target in re.findall(r"\]\(([^)]*)\)", shown))
    assert "(https://github.com/google/gemma.cpp)" in shown  # absolute ones stay
    assert "[CONTRIBUTING.md](" in README
    assert "CONTRIBUTING.md" in shown


def test_the_long_description_says_how_to_install_from_an_index(shown: str) -> None:
    assert "pip install gemma-blobstore" in shown
    assert "make demo" not in shown
    assert "pip install ." not in shown


def test_readme_and_classifiers_claim_the_same_pythons() -> None:
    classifiers = PROJECT["project"]["classifiers"]
    claimed = re.findall(r":: (3\.\d+)(?:\n|$)", "\n".join(classifiers))
    assert f"with Python {claimed[0]} to {claimed[-1]}" in README
    assert set(claimed) <= set(PYTHONS)
    assert PROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"


def test_a_python_is_found_by_its_version() -> None:
    version = "{}.{}".format(*sys.version_info)
    assert python_of(version) == sys.executable
    assert python_of("3.2") is None
