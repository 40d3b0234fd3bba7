"""Fuzz one target, or all, guided by coverage, until there is a find or the time is up.

    python tests/fuzz/run.py all SECONDS [TARGET …]                     seconds for each target
    python tests/fuzz/run.py directory [libFuzzer's options]
    python tests/fuzz/run.py directory build/fuzz/directory-crash-…     run again with the input of a find

Inputs that reach new code are kept in build/fuzz/TARGET for the next run. A find ends the run with a status other than
0, and its input is written beside that folder. `make fuzz` runs all targets. Needs atheris.
"""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCRATCH = ROOT / "build" / "fuzz"
MAX_NBYTES = 4096
ROUND_SECONDS = 60
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(include=["blobstore"]):
    from tests.fuzz.targets import TARGETS


def fuzz(name: str, options: list[str]) -> None:
    """Run libFuzzer, which ends the process."""
    scratch = SCRATCH / name
    scratch.mkdir(parents=True, exist_ok=True)
    arguments = [f"-artifact_prefix={SCRATCH}/{name}-", f"-max_len={MAX_NBYTES}", "-print_final_stats=1", *options]
    if all(option.startswith("-") for option in options):
        # libFuzzer keeps its finds in the first folder. Not every target has had one.
        folders = [scratch, HERE / "corpus" / name, HERE / "regressions" / name]
        arguments += [str(folder) for folder in folders if folder.is_dir()]
    warnings.simplefilter("error")
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def fuzz_all(seconds: int, names: list[str]) -> int:
    """Run one target after another, and print how many inputs each got; return the status of the first find."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    for name in names:
        executed, reached = 0, ""
        # In rounds: code instrumented by atheris leaks about a kilobyte for each input (without it, nothing).
        for done in range(0, seconds, ROUND_SECONDS):
            option = f"-max_total_time={min(ROUND_SECONDS, seconds - done)}"
            log = SCRATCH / f"{name}.log"
            with log.open("wb") as output:
                ran = subprocess.run(
                    [sys.executable, __file__, name, option], stdout=output, stderr=output, check=False
                )
            text = log.read_text(errors="replace")
            if ran.returncode:
                print(text[-4000:])
                print(f"{name}: a find; the whole output is in {log.relative_to(ROOT)}")
                return ran.returncode
            executed += int(re.findall(r"number_of_executed_units: (\d+)", text)[-1])
            reached = re.findall(r"cov: \d+ ft: \d+ corp: \d+", text)[-1]
        print(f"{name}: {executed:,} inputs, {reached}", flush=True)
    return 0


def main() -> None:
    """Run what the command line says."""
    match sys.argv[1:]:
        case ["all", seconds, *names] if set(names) <= set(TARGETS):
            sys.exit(fuzz_all(int(seconds), names or list(TARGETS)))
        case [name, *options] if name in TARGETS:
            fuzz(name, options)
        case _:
            sys.exit(
                f"usage: {sys.argv[0]} all SECONDS [TARGET …] | TARGET [libFuzzer's options]; of {', '.join(TARGETS)}"
            )


if __name__ == "__main__":
    main()
