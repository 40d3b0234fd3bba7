"""Put the pages of the documentation together: those of docs/, spec/ and benchmarks/, and the generated reference.

    python docs/site/pages.py FOLDER

They keep their places, so that links lead where they lead on GitHub. README.md is the first page. The reference is made
of ``__all__``, of the parser of the command line, and of `blobstore.explaining`.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from blobstore import cli
from blobstore.explaining import TOPICS, explain

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
# Groups of pages, in their order. A page is named by its path without .md; a title of its own stands before it.
NAVIGATION: dict[str, tuple[str, ...]] = {
    "Begin": ("docs/tutorial", "docs/why"),
    "Convert": (*("docs/gemma", "docs/adapters", "docs/by-name", "docs/gguf", "docs/hub-and-buckets", "docs/export"),),
    "Look after files": ("docs/check", "docs/report", "docs/compare", "docs/pack", "docs/bench"),
    "Go beyond a file": ("docs/large-models", "docs/urls", "docs/cluster"),
    "In Python": ("docs/python", "docs/porting"),
    "Reference": (
        *("docs/commands", "reference/commands", "reference/blobstore", "reference/torch", "reference/jax"),
        *("reference/distributed", "reference/gemma", "FAQ by error code <reference/codes>"),
    ),
    "Formats": (
        *("docs/formats", "spec/README", "spec/sbs", "spec/index", "spec/codecs", "spec/packed", "spec/gemma"),
        *("spec/adapters", "spec/findings", "spec/cpp/README", "spec/vectors/README"),
    ),
    "Project": ("Performance <benchmarks/README>", "SECURITY", "CONTRIBUTING", "CHANGELOG"),
}
WITHOUT_IMPORT = ("blobstore.torch", "blobstore.jax", "blobstore.distributed")
MODULES = ("blobstore", *WITHOUT_IMPORT, "blobstore.gemma")
# Methods of these base classes are Python's own, and known.
PYTHON_S = "Mapping,MutableMapping,Generic,Exception,NamedTuple,tuple,IntEnum,int,Enum,str"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)|\bsrc=\"([^\"]+)\"")


def main(folder: Path) -> None:
    """Write all pages to a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for page in [ROOT / "README.md", *pages()]:
        copy(page, folder)
    (folder / "README.md").unlink()
    (folder / "index.md").write_text(start_page(), encoding="utf-8")
    reference = folder / "reference"
    reference.mkdir()
    for module in MODULES:
        (reference / f"{module.rpartition('.')[2]}.rst").write_text(reference_of(module), encoding="utf-8")
    (reference / "commands.md").write_text("\n".join(commands_page()), encoding="utf-8")
    (reference / "codes.md").write_text("\n".join(codes_page()), encoding="utf-8")


def pages() -> Iterator[Path]:
    """Yield the pages that are written by hand, in the order of the navigation."""
    for names in NAVIGATION.values():
        for name in names:
            path = ROOT / f"{name.partition('<')[2].rstrip('>') or name}.md"
            if path.parent.name != "reference":
                yield path


def copy(page: Path, folder: Path) -> None:
    """Copy a page, and the files other than pages that it links to. A link to README.md leads to the first page."""
    text = page.read_text(encoding="utf-8")
    target = folder / page.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text.replace("](../README.md", "](../index.md"), encoding="utf-8")
    linked = [(page.parent / (link or source)).resolve() for link, source in LINK.findall(text)]
    for path in (path for path in linked if path.is_file() and path.suffix != ".md"):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def start_page() -> str:
    """Return README.md with the navigation behind it."""
    lists = []
    for title, names in NAVIGATION.items():
        lists.append("\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *names, "```"]))
    return "\n\n".join([(ROOT / "README.md").read_text(encoding="utf-8"), *lists, ""])


def reference_of(module_name: str) -> str:
    """Return a page with every public name of a module, from its docstrings."""
    names, text = public_names(module_name)
    sections: dict[str, list[str]] = {title: [] for title in ("Functions", "Classes", "Records", "Words", "Errors")}
    for name in names:
        section, lines = described(module_name, name)
        sections[section] += lines
    page = [module_name, "=" * len(module_name), "", f".. currentmodule:: {module_name}", "", text, ""]
    for title, lines in sections.items():
        page += [title, "-" * len(title), "", *lines] if lines else []
    return "\n".join(page)


def public_names(module_name: str) -> tuple[list[str], str]:
    """Return a module's ``__all__`` and its docstring, as its source has them: what it needs may not be installed."""
    path = ROOT / module_name.replace(".", "/")
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    lists = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and "__all__" in map(ast.unparse, node.targets)
    )
    return next(lists), ast.get_docstring(tree) or ""


def described(module_name: str, name: str) -> tuple[str, list[str]]:
    """Return the section that a public name belongs to, and what documents it there."""
    full = f"{module_name}.{name}"
    members = [f".. autoclass:: {full}", "   :members:", f"   :inherited-members: {PYTHON_S}", ""]
    if module_name in WITHOUT_IMPORT:
        return ("Classes", members) if name[0].isupper() else ("Functions", [f".. autofunction:: {full}", ""])
    value = getattr(importlib.import_module(module_name), name)
    if get_origin(value) is Literal:
        return "Words", [f".. py:data:: {name}", "", f"   {', '.join(f'``{word!r}``' for word in get_args(value))}", ""]
    if not inspect.isclass(value):
        return "Functions", [f".. autofunction:: {full}", ""]
    if issubclass(value, BaseException):
        return "Errors", [f".. autoexception:: {full}", "   :members:", ""]
    return ("Records" if dataclasses.is_dataclass(value) or issubclass(value, (tuple, int)) else "Classes"), members


def commands_page() -> Iterator[str]:
    """Yield the lines of a page with every command and its options, as the parser has them."""
    yield from ("# Commands and their options", "", "As `blobstore COMMAND --help` prints them.", "")
    for name, parser in commands(cli.parser()):
        yield from (f"## {name}", "", literal(parser.description or ""), "")
        yield from ("```", " ".join(parser.format_usage().split()).removeprefix("usage: "), "```", "")
        yield from ("| | |", "|---|---|")
        for action in parser._actions:  # noqa: SLF001 (argparse has no other way to ask)
            yield f"| {argument(action)} | {literal(help_of(action))} |"
        yield from ("", "```", parser.epilog or "", "```", "")


def commands(parser: argparse.ArgumentParser, before: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield each command with its parser; of groups, those inside."""
    for action in parser._actions:  # noqa: SLF001 (as above)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (as above)
            for name, inside in action.choices.items():
                yield from list(commands(inside, f"{before}{name} ")) or [(before + name, inside)]


def argument(action: argparse.Action) -> str:
    """Return an argument or option as it is written."""
    value = action.metavar or ("" if action.nargs == 0 else "{" + ",".join(map(str, action.choices or ())) + "}")
    words = [f"{option} {value}".rstrip() for option in action.option_strings] or [str(value)]
    return ", ".join(f"`{word}`" for word in words).replace("|", "\\|")


def help_of(action: argparse.Action) -> str:
    """Return the help of an argument, with what argparse puts in."""
    return (action.help or "") % {**vars(action), "prog": "blobstore"}


def codes_page() -> Iterator[str]:
    """Yield the lines of a page with every reason code: its cause and its fix."""
    yield from ("---", "tocdepth: 2", "---", "", "# FAQ by error code", "")
    yield "Each error has a code that doesn't change: `error.reason` in Python, the first word of what a command says,"
    yield "`reason` in its JSON. Findings of `blobstore check` and `blobstore verify` have one, too."
    yield from ("`blobstore explain CODE` prints what is said here.", "")
    for topic, entries in TOPICS.items():
        yield from (f"## {topic}", "")
        for code in entries:
            explained = explain(code)
            yield from (f"### {code}", "", literal(explained.cause), "")
            if explained.effect is not None:
                yield from (f"As a finding, {explained.severity}: {literal(explained.effect)}", "")
            yield from (f"**Fix:** {literal(explained.fix)}", "")


def literal(text: str) -> str:
    """Return plain text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_<>\[\]#|])", r"\\\1", text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
