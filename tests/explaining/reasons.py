"""The reason codes that the source can raise or report, found in its syntax trees.

A code is a constant where an error, a fault or a finding is made: the argument in the place of ``REASON_AT``. Where a
function hands on what it was given, its calls are looked at in the same way; where a variable does, what is assigned to
it. Whatever else a code may come from is an error here, so that none is missed.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from blobstore import errors
from blobstore.checking.codes import CODES as KINDS
from blobstore.cli.errors import describe
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# What a code is the argument of, and which one.
REASON_AT = dict.fromkeys(errors.__all__, 0) | {"Finding": 1, "Newer": 0, "Told": 0, "Described": 0}
# Of an error, fault or finding that was made elsewhere, as is *record; the last is of the system's errors.
_PASSED_ON = {"reason", "code", "_reason_of"}
_DECLARED = "finding"  # a function that takes what is declared in `blobstore.checking.codes`, and nothing else
_HEADER = ROOT / "spec" / "cpp" / "blobstore.hpp"

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Call(NamedTuple):
    """A call, the functions and classes that it is in, the innermost last, and its file."""

    node: ast.Call
    inside: tuple[ast.AST, ...]
    file: str


def _is_class(value: ast.expr) -> bool:
    """Whether it is one of the classes, or one of two."""
    if isinstance(value, ast.IfExp):
        return _is_class(value.body)
    return isinstance(value, ast.Name) and value.id in REASON_AT


def _name_of(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _calls(node: ast.AST, inside: tuple[ast.AST, ...], file: str) -> Iterator[Call]:
    if isinstance(node, ast.Call):
        yield Call(node, inside, file)
    inner = (*inside, node) if isinstance(node, _Function | ast.ClassDef) else inside
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, inner, file)


def _imports(tree: ast.AST) -> set[str]:
    """Return the files of the package that one imports from."""
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {f"{module.replace('.', '/')}.py" for module in modules}


class Source:
    """The package's calls, by the names of what is called."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Call]] = defaultdict(list)
        self.yields: dict[str, list[ast.Tuple]] = defaultdict(list)  # pairs, by the name of the generator
        self.imports: dict[str, set[str]] = {}
        for path in sorted((ROOT / "blobstore").rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            file = str(path.relative_to(ROOT))
            self.imports[file] = _imports(tree)
            for call in _calls(tree, (), file):
                self.calls[_name_of(call.node.func)].append(call)
            for function in (node for node in ast.walk(tree) if isinstance(node, _Function)):
                nodes = [*ast.walk(function)]
                pairs = [node.value for node in nodes if isinstance(node, ast.Yield)]
                self.yields[function.name] += [pair for pair in pairs if isinstance(pair, ast.Tuple)]
                if any(isinstance(node, ast.Assign) and _is_class(node.value) for node in nodes):
                    self._add_chosen(function, file)

    def _add_chosen(self, function: _Function, file: str) -> None:
        """Add the calls of a class that a function has chosen: ``error = TruncatedError if … else FormatError``."""
        for call in _calls(function, (), file):
            if any(map(_is_class, self._assigned(function, _name_of(call.node.func)))):
                self.calls["FormatError"].append(call)

    def codes_of(self, name: str, place: int, keyword: str) -> Iterator[str]:
        """Yield what stands in a place of all calls of a class or function."""
        yield from self._given(self.calls[name], place, keyword, frozenset())

    def _given(self, calls: Iterable[Call], place: int, keyword: str, seen: frozenset[ast.AST]) -> Iterator[str]:
        for call in calls:
            values = [given.value for given in call.node.keywords if given.arg == keyword]
            for value in call.node.args[place : place + 1] or values:
                yield from self._values(value, call, seen)

    def _values(self, value: ast.expr, call: Call, seen: frozenset[ast.AST]) -> Iterator[str]:
        """Yield the codes that an expression can have."""
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value
        elif isinstance(value, ast.IfExp):
            yield from self._values(value.body, call, seen)
            yield from self._values(value.orelse, call, seen)
        elif isinstance(value, ast.Name):
            yield from self._variable(value.id, call, seen)
        elif (
            not isinstance(value, ast.Starred)
            and getattr(value, "attr", _name_of(getattr(value, "func", value))) not in _PASSED_ON
        ):
            _unknown(call, ast.unparse(value))

    def _variable(self, name: str, call: Call, seen: frozenset[ast.AST]) -> Iterator[str]:
        for depth, function in reversed([*enumerate(call.inside)]):
            if not isinstance(function, _Function):
                continue
            own = function.args
            names = [argument.arg for argument in (*own.args, *own.kwonlyargs) if argument.arg not in ("self", "cls")]
            if name in names:
                if function.name == _DECLARED:
                    yield from KINDS
                elif function not in seen:
                    calls = self._calls_of(function, call.inside[:depth], call.file)
                    yield from self._given(calls, names.index(name), name, seen | {function})
                return
            values = [*self._assigned(function, name)]
            if values:
                for value in values:
                    yield from self._values(value, call, seen)
                return
        _unknown(call, name)

    def _calls_of(self, function: _Function, outside: tuple[ast.AST, ...], file: str) -> Iterator[Call]:
        """Yield the calls of a function: of one inside another, those in it; else those where it can be imported."""
        for call in self.calls[function.name]:
            if outside and isinstance(outside[-1], _Function):
                if outside[-1] in call.inside:
                    yield call
            elif (call.file == file or file in self.imports[call.file]) and (
                bool(outside) == isinstance(call.node.func, ast.Attribute)
            ):
                yield call

    def _assigned(self, function: _Function, name: str) -> Iterator[ast.expr]:
        """Yield what a variable of a function is set to; in a loop over pairs, the first of each."""
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and name in [getattr(target, "id", "") for target in node.targets]:
                yield node.value
            if isinstance(node, ast.For) and isinstance(node.target, ast.Tuple) and isinstance(node.iter, ast.Call):
                first = node.target.elts[0]
                if isinstance(first, ast.Name) and first.id == name:
                    yield from (pair.elts[0] for pair in self.yields[_name_of(node.iter.func)])


def _unknown(call: Call, what: str) -> NoReturn:
    message = f"{call.file}:{call.node.lineno}: where does this code come from: {what}?"
    raise AssertionError(message)


def _of_system() -> Iterator[str]:
    """Yield the codes of the system's errors, which are made of the names of Python's classes."""
    for value in vars(builtins).values():
        if isinstance(value, type) and issubclass(value, OSError):
            yield describe(value()).reason


def raised() -> set[str]:
    """Return the codes of all that the package makes; each looks like one."""
    source = Source()
    found = set(_of_system())
    for name, place in REASON_AT.items():
        found |= set(source.codes_of(name, place, "code" if name in ("Finding", "Newer", "Told") else "reason"))
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code) for code in found), found
    return found


def raised_in_cpp() -> set[str]:
    """Return the codes of the header for C++: the first text of what it refuses with."""
    return set(
        re.findall(
            r'(?:refuse\w*|fail\w*|Fault)[({](?:fault, )?"([a-z0-9]+(?:-[a-z0-9]+)+)"',
            _HEADER.read_text(encoding="utf-8"),
        )
    )
