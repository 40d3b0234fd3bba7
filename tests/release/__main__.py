"""Builds sdist and wheel, and tries them on every Python at hand: ``make dist``.

A script. It builds twice and compares, lets twine check, looks into both archives, installs the wheel in a new
environment of each Python that the package supports, runs ``blobstore demo`` and `smoke` there, and collects the tests
of the unpacked sdist. It fails at the first thing that is wrong, and ends with the Pythons that it didn't find.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tests.conftest import ROOT

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SMOKE = Path(__file__).with_name("smoke.py")
IN_SDIST = [
    *(
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "SECURITY.md",
        "pyproject.toml",
        ".ci/run",
    ),
    *("benchmarks/README.md", "docs/commands.md", "spec/README.md", "spec/cpp/blobstore.hpp"),
    *("spec/vectors/manifest.json", "tests/conftest.py"),
]
IN_WHEEL = ("blobstore/py.typed", "blobstore/include/blobstore.hpp")


def python_of(version: str) -> str | None:
    """Return the path of a Python: one in the path, or of pyenv; None if there is none that runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = [sys.executable, f"python{version}", *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    for found in filter(None, map(shutil.which, named)):
        code = "import sys; print(*sys.version_info[:2], sep='.')"
        asked = subprocess.run([found, "-c", code], capture_output=True, text=True, check=False)
        if asked.stdout.strip() == version:
            return found
    return None


def build(folder: Path) -> tuple[Path, Path]:
    """Build into a new folder, the wheel from the sdist, and return both."""
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> None:
    """Run a command that must succeed, with no module of this checkout in its path; say what it printed if it fails."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**inherited, **variables, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}exit status {done.returncode}")


def same(built: tuple[Path, Path], again: tuple[Path, Path]) -> None:
    """Compare two builds."""
    for first, second in zip(built, again, strict=True):
        if first.name != second.name or first.read_bytes() != second.read_bytes():
            sys.exit(f"{first.name}: two builds have different bytes")


def look_into(sdist: Path, wheel: Path) -> None:
    """Compare what the archives hold with what they should."""
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "blobstore").rglob("*.py")}
    if missing := (set(IN_SDIST) | modules) - in_sdist:
        sys.exit(f"{sdist.name} lacks {', '.join(sorted(missing))}")
    if missing := (set(IN_WHEEL) | modules) - in_wheel:
        sys.exit(f"{wheel.name} lacks {', '.join(sorted(missing))}")
    if unwanted := {name for name in in_wheel if not name.startswith("blobstore/") or "__pycache__" in name}:
        sys.exit(f"{wheel.name} has {', '.join(sorted(unwanted))}, which should not be installed")


def try_wheel(wheel: Path, python: str, folder: Path) -> None:
    """Install the wheel in a new environment, and use it there."""
    run(python, "-m", "venv", "--clear", folder)
    binaries = folder / ("Scripts" if sys.platform == "win32" else "bin")
    run(binaries / "python", "-m", "pip", "install", "--quiet", wheel)
    with tempfile.TemporaryDirectory() as empty:
        run(binaries / "blobstore", "demo", "-o", "demo", cwd=Path(empty))
        run(binaries / "python", "-I", "-W", "error", SMOKE, cwd=Path(empty))


def try_sdist(sdist: Path) -> None:
    """Collect the tests of the unpacked sdist, and run those of its documents, which link to most of its files."""
    with tempfile.TemporaryDirectory() as empty:
        with tarfile.open(sdist) as archive:
            archive.extractall(empty, filter="data")
        (unpacked,) = Path(empty).iterdir()
        pytest = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
        run(*pytest, "--collect-only", cwd=unpacked, PYTHONPATH=str(unpacked))
        run(*pytest, "tests/test_documents.py", "tests/test_release.py", cwd=unpacked, PYTHONPATH=str(unpacked))


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of sdist and wheel; environments lie beside it")
    out: Path = parser.parse_args().out.resolve()
    sdist, wheel = build(out)
    with tempfile.TemporaryDirectory() as folder:
        same((sdist, wheel), build(Path(folder) / "again"))
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    look_into(sdist, wheel)
    print(f"{sdist.name}, {wheel.name}: twice the same bytes, metadata and contents as they should be", flush=True)
    try_sdist(sdist)
    print("the tests of the unpacked sdist are complete", flush=True)
    lacking = []
    for version in PYTHONS:
        if python := python_of(version):
            try_wheel(wheel, python, out.parent / f"dist-{version}")
            print(f"Python {version}: installed, demo and smoke test run", flush=True)
        else:
            lacking.append(version)
    if len(lacking) == len(PYTHONS):
        sys.exit(f"no Python was found: of {', '.join(PYTHONS)}, one has to be in PATH")
    if lacking:
        print(f"not tried, since they are not on this machine: Python {', '.join(lacking)}")


if __name__ == "__main__":
    main()
