"""Change one operator, number or decorator at a time, and run the tests that have to notice.

    python tests/mutants/run.py                            all modules of pyproject.toml's [tool.mutants]
    python tests/mutants/run.py blobstore/container/directory.py …   these

Each mutant is cosmic-ray's, tried in a copy of the tree, one copy for each core. A mutant that no test
notices is a fault that none would: it has to be killed by a test, or be in known.toml with the reason why nothing can
notice it. The status is 1 for a survivor that isn't listed there, and for a line there that is no survivor any more.
`make mutants` runs it.
"""

from __future__ import annotations

import ast
import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from difflib import unified_diff
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from cosmic_ray.commands import init
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmic_ray.work_item import MutationSpec

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COPIED = ("blobstore", "tests", "spec", "benchmarks", "pyproject.toml", "README.md", "CONTRIBUTING.md", "Makefile")
# In the order that pyproject.toml has, up to the first failure. No plug-in is loaded: not pytest-randomly, either.
PYTEST = ("-x", "-q", "--tb=no", "--no-header", "-p", "no:cacheprovider", "-o", "tmp_path_retention_policy=none")
ENVIRONMENT = {"BLOBSTORE_HYPOTHESIS": "mutants", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
# What takes long to import, and isn't changed: each mutant's process begins with it.
IMPORTED = ("hypothesis.strategies", "hypothesis.internal.conjecture.engine", "ml_dtypes", "numpy", "zstandard")
# They run a process that takes long, and says nothing of a module that others don't.
NOT_RUN = ("--deselect=tests/container/test_vectors.py::test_the_files_are_those_that_the_generator_makes",)
PATIENCE, LEAST_SECONDS = 3, 10  # a mutant may take so many times the processor's time of the tests without one
WAITS = 6  # and so many times as long again by the clock: who shares the processors changes no verdict
MEMORY = "/dev/shm"  # noqa: S108 (a folder of random name is made in it)
FORK = multiprocessing.get_context("fork")


class Survivor(NamedTuple):
    """A mutant that no test has noticed; other changes of the module leave it the same."""

    module: str
    where: str
    was: str
    now: str


@dataclass(frozen=True)
class Job:
    """A mutant to be tried."""

    module: str
    mutation: MutationSpec
    tests: tuple[str, ...]
    seconds: float


def main(asked: list[str]) -> int:
    """Try the mutants of some modules, or of all; return the process's status."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]
    modules: dict[str, list[str]] = settings["modules"]
    unknown = set(asked) - set(modules)
    if unknown:
        print(f"not in pyproject.toml's [tool.mutants]: {', '.join(sorted(unknown))}")
        return 2
    names = asked or list(modules)
    tests = {name: tuple("tests/{}/test_{}.py".format(*one.split("/")) for one in modules[name]) for name in names}
    folder = MEMORY if os.access(MEMORY, os.W_OK) else None  # nothing here needs a disk that lasts
    with (
        tempfile.TemporaryDirectory(prefix="blobstore-mutants-", dir=folder) as scratch,
        ProcessPoolExecutor(mp_context=FORK, initializer=enter_copy, initargs=(scratch,)) as pool,
    ):
        limits = dict(zip(names, pool.map(limit_of, tests.values()), strict=True))
        jobs = [
            Job(name, mutation, tests[name], limits[name])
            for name in names
            for mutation in mutations_of(name, frozenset(settings["operators"]))
        ]
        survivors, counts = tried(pool, jobs)
    for name in names:
        print(f"{name}: {counts[name, 'all']} mutants, {counts[name, 'survived']} survived")
    return report(survivors, {one: why for one, why in known().items() if one.module in names})


def enter_copy(scratch: str) -> None:
    """Go to a copy of the tree, this process's own, whose modules may be changed."""
    copy = Path(scratch, str(os.getpid()))
    copy.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    os.chdir(copy)
    os.environ.update(ENVIRONMENT, PYTHONPATH=str(copy), TMPDIR=str(copy))
    sys.path[0] = str(copy)
    for name in IMPORTED:
        importlib.import_module(name)


def limit_of(tests: tuple[str, ...]) -> float:
    """Return how many seconds of a processor a mutant of a module may take; the tests pass without any."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not passes(tests, None):
        raise RuntimeError(f"{' '.join(tests)} fail without a mutant")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return max(LEAST_SECONDS, PATIENCE * used)


def passes(tests: tuple[str, ...], seconds: float | None) -> bool:
    """Whether tests pass, each file in a new process, in so many seconds of a processor."""
    end = None if seconds is None else time.monotonic() + WAITS * seconds
    for one in tests:
        process = FORK.Process(target=run_tests, args=(one, seconds))
        process.start()
        process.join(None if end is None else max(0, end - time.monotonic()))
        if process.exitcode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
        if process.exitcode != 0:
            return False
    return True


def run_tests(file: str, seconds: float | None) -> None:
    """Run the tests of a file in this process, and end it."""
    os.setsid()  # so that processes of theirs end with them
    if seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (ceil(seconds), ceil(seconds)))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    sys.dont_write_bytecode = seconds is not None  # a mutant's has the time and the size of another's
    os._exit(pytest.main([*PYTEST, file, *NOT_RUN]))


def mutations_of(module: str, operators: frozenset[str]) -> Iterator[MutationSpec]:
    """Yield a module's mutants, but for those in what never does anything."""
    with tempfile.TemporaryDirectory() as folder, use_db(f"{folder}/session.sqlite", WorkDB.Mode.create) as session:
        here = os.getcwd()
        os.chdir(ROOT)
        try:
            init([Path(module)], session, {})
        finally:
            os.chdir(here)
        never = list(without_effect(ast.parse((ROOT / module).read_text())))
        for item in session.work_items:
            [mutation] = item.mutations
            name = mutation.operator_name.removeprefix("core/")
            inside = any(start <= tuple(mutation.start_pos) < end for start, end in never)
            if name in operators and not inside:
                yield mutation


def without_effect(tree: ast.Module) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield where annotations, the imports for them, and what asserts begin and end, as (line, column)."""
    for node in ast.walk(tree):
        found: list[ast.expr | ast.stmt | None] = []
        if isinstance(node, ast.AnnAssign | ast.arg):
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            found.append(node.returns)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            found.append(node)
        elif isinstance(node, ast.keyword) and node.arg == "strict":  # zip's: the lengths are the same
            found.append(node.value)
        for one in found:
            if one is not None:
                yield (one.lineno, one.col_offset), (one.end_lineno or 0, one.end_col_offset or 0)


def tried(pool: ProcessPoolExecutor, jobs: list[Job]) -> tuple[list[Survivor], Counter[tuple[str, str]]]:
    """Try mutants, and say how far it is → the survivors, and how many there were of each module."""
    survivors: list[Survivor] = []
    counts: Counter[tuple[str, str]] = Counter()
    running = {pool.submit(survives, job): job for job in jobs}
    for done, future in enumerate(as_completed(running), 1):
        job, survivor = running[future], future.result()
        counts[job.module, "all"] += 1
        if survivor:
            counts[job.module, "survived"] += 1
            survivors.append(survivor)
            print(f"{survivor.module}, {survivor.where}: {survivor.was}  →  {survivor.now}", flush=True)
        if done % 100 == 0:
            print(f"{done} of {len(jobs)}, {len(survivors)} survived", flush=True)
    return survivors, counts


def survives(job: Job) -> Survivor | None:
    """Try a mutant in this process's copy; return it when no test has noticed."""
    mutation = job.mutation
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    with use_mutation(Path(job.module), operator, mutation.occurrence) as (before, after):
        if not passes(job.tests, job.seconds):
            return None
    lines = list(unified_diff(before.splitlines(), after.splitlines(), n=0))[3:]
    was, now = (" ".join(" ".join(one[1:].split()) for one in lines if one.startswith(sign)) for sign in "-+")
    return Survivor(job.module, mutation.definition_name or "", was, now)


def known() -> dict[Survivor, str]:
    """Return the survivors that are explained, and why they survive; all of a line's where none is said."""
    listed: list[dict[str, str]] = tomllib.loads((HERE / "known.toml").read_text()).get("survivor", [])
    return {Survivor(one["module"], one["where"], one["was"], one.get("now", "")): one["why"] for one in listed}


def report(survivors: list[Survivor], explained: dict[Survivor, str]) -> int:
    """Say what isn't as known.toml has it; return the process's status."""
    new, used = [], set()
    for one in sorted(set(survivors)):
        lines = {one, one._replace(now="")} & explained.keys()
        used |= lines
        if not lines:
            new.append(one)
    print(f"{len(survivors)} survived, {len(new)} of them are not explained in tests/mutants/known.toml")
    gone = sorted(explained.keys() - used)
    for title, some in (("No test notices:", new), ("In known.toml, but no survivor any more:", gone)):
        if some:
            print(f"\n{title}")
        for one in some:
            fields = "\n".join(f"{name} = {quoted(text)}" for name, text in one._asdict().items())
            print(f"\n[[survivor]]\n{fields}")
    return 1 if new or gone else 0


def quoted(text: str) -> str:
    """Return text as TOML has it."""
    return f"'{text}'" if "'" not in text else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
