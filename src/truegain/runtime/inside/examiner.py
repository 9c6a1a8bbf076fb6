"""Runs a unit test in a process of its own, away from the program it tests. Standard library only: read inside.

The program's names are stand-ins here: each call is a question to the other process, and only values come back, built
anew. So the comparison happens where the program cannot reach; an object that cannot be carried by value equals
nothing but itself, whatever its class says.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import importlib.util
import json
import os
import sys
import types
from typing import Any

from . import wire

_LONGEST = 1 << 24


class Broken(Exception):
    """The test cannot be carried out, whatever the program does."""


class _Line:
    """The way to the program's process."""

    def __init__(self) -> None:
        self.told = False  # whether anything was asked beyond names
        self.replies, self.questions = os.fdopen(4, "rb"), os.fdopen(5, "wb")

    def ask(self, do: str, of: int, args: tuple[Any, ...] = (), named: dict[str, Any] | None = None) -> Any:
        try:
            packed = [wire.pack(arg, _number) for arg in args]
            question = {
                "do": do,
                "of": of,
                "args": packed,
                "named": {key: wire.pack(arg, _number) for key, arg in (named or {}).items()},
            }
        except wire.Uncarried as error:
            raise Broken(str(error)) from None
        try:
            self.questions.write(json.dumps(question).encode() + b"\n")
            self.questions.flush()
        except OSError:
            raise EOFError("the program has ended") from None
        line = self.replies.readline(_LONGEST)
        if not line.endswith(b"\n"):
            raise EOFError("the program has ended, or its answer is too long")
        self.told |= do != "name"
        return self._value(json.loads(line), args)

    def _value(self, reply: Any, args: tuple[Any, ...]) -> Any:
        if not isinstance(reply, dict):
            raise ValueError("not an answer")
        if "raised" in reply:
            raise _exception(reply["raised"], reply.get("text"))
        after = reply.get("args")
        if isinstance(after, list) and len(after) == len(args):
            for arg, packed in zip(args, after, strict=True):
                _renew(arg, wire.unpack(packed, self.stand_in))
        value = wire.unpack(reply.get("value"), self.stand_in)
        self.told |= not isinstance(value, _StandIn)  # it takes more than a function's name to judge it
        return value

    def stand_in(self, number: int, name: str) -> _StandIn:
        return _StandIn(self, number, name)


def _exception(kinds: Any, text: Any) -> Exception:
    """A built-in exception of the nearest kind: what a test may expect."""
    for name in kinds if isinstance(kinds, list) else ():
        kind = getattr(builtins, name, None) if isinstance(name, str) else None
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(str(text))
            except TypeError:  # UnicodeDecodeError takes five arguments
                continue
    return RuntimeError(str(text))


def _renew(arg: Any, after: Any) -> None:
    """What a call did to its argument, done to the original."""
    if type(arg) is not type(after):
        return
    if isinstance(arg, list | bytearray):
        arg[:] = after
    elif isinstance(arg, dict | set):
        arg.clear()
        arg.update(after)


class _StandIn:
    """Stands for an object of the program's. Equality, order and hash are this process's, never the program's."""

    def __init__(self, line: _Line, number: int, name: str) -> None:
        self.__dict__.update(_line=line, _number=number, _name=name)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._line.ask("call", self._number, args, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._line.ask("attribute", self._number, (name,))

    def __len__(self) -> int:
        return self._line.ask("len", self._number)

    def __bool__(self) -> bool:
        return self._line.ask("bool", self._number)

    def __iter__(self) -> Any:
        return self._line.ask("iter", self._number)

    def __next__(self) -> Any:
        return self._line.ask("next", self._number)

    def __getitem__(self, key: Any) -> Any:
        return self._line.ask("item", self._number, (key,))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._line.ask("put", self._number, (key, value))

    def __contains__(self, value: Any) -> bool:
        return self._line.ask("has", self._number, (value,))

    def __str__(self) -> str:
        return self._line.ask("str", self._number)

    def __repr__(self) -> str:
        return f"<a {self._name} of the program's>"


def _number(value: Any) -> int:
    if isinstance(value, _StandIn):
        return value.__dict__["_number"]
    raise wire.Uncarried(f"the test hands a {type(value).__name__} to the program, which cannot be carried over")


def _wanted(tree: ast.AST) -> set[str]:
    """Names that a test reads and neither binds nor finds among the built-ins, which a program must not replace."""
    read: set[str] = set()
    bound: set[str] = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return read - bound


def _modules(tree: ast.AST) -> set[str]:
    """Names of which a test reads attributes, as it does of modules."""
    found = (node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.id for node in found if isinstance(node, ast.Name)}


def _entry(line: _Line, entry: str) -> Any:
    """The function to test; a method of ``Solution`` where the program has one instead."""
    try:
        return line.ask("name", 0, (entry,))
    except KeyError:
        solution = line.ask("name", 0, ("Solution",))
        return line.ask("attribute", line.ask("call", solution._number)._number, (entry,))


def _as_lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_lists(part) for part in value]
    if isinstance(value, dict):
        return {str(key): _as_lists(part) for key, part in value.items()}
    return value


def _carry_out(work: dict[str, Any]) -> None:
    """Raises what the test raises: nothing, if the program passes it."""
    line = _Line()
    if "args" in work:
        got = _entry(line, work["entry"])(*work["args"])
        assert _as_lists(got) == work["expected"], "another value was expected"
        return
    try:
        tree = ast.parse(work["source"])
        code = compile(tree, "<test>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise Broken(f"{type(error).__name__}: {error}") from None
    _refuse_packages(tree)
    sys.modules["solution"] = _Solution(line)
    names: dict[str, Any] = {"__name__": "test"}
    for name in sorted(_wanted(tree)):
        if name in sys.stdlib_module_names and name in _modules(tree):
            names[name] = importlib.import_module(name)
        elif name == "candidate" and work["entry"]:
            names[name] = _entry(line, work["entry"])
        else:
            with contextlib.suppress(KeyError):  # a NameError where it is read
                names[name] = line.ask("name", 0, (name,))
    exec(code, names)
    if work["entry"] and callable(names.get("check")) and not _called(tree, "check"):
        names["check"](_entry(line, work["entry"]))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and not _called(tree, node.name):
            if node.args.args:
                raise Broken(f"{node.name} takes arguments, which nothing here gives it")
            names[node.name]()
    if not line.told:
        raise Broken("it asks the program nothing, and would pass whatever the program does")


class _Solution(types.ModuleType):
    """The program, for tests that import from ``solution``."""

    def __init__(self, line: _Line) -> None:
        super().__init__("solution")
        self.__dict__["_line"] = line

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self.__dict__["_line"].ask("name", 0, (name,))
        except KeyError:
            raise AttributeError(name) from None


def _refuse_packages(tree: ast.AST) -> None:
    """A test that imports what is not here cannot be carried out, and says nothing of the program."""
    for node in ast.walk(tree):
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in found:
            if name != "solution" and importlib.util.find_spec(name.partition(".")[0]) is None:
                raise Broken(f"it imports {name!r}, which is not in the sandbox")


def _called(tree: ast.Module, name: str) -> bool:
    """Whether the test calls a function at its top level."""
    calls = (node.value for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == name for call in calls)


def examine(work: dict[str, Any]) -> None:
    """Carry the test out, and say on descriptor 6 what came of it."""
    try:
        _carry_out(work)
        verdict = {"passed": True}
    except Broken as error:
        verdict = {"broken": str(error)[:300]}
    except BaseException as error:
        verdict = {"passed": False, "why": f"{type(error).__name__}: {str(error)[:300]}"}
    with os.fdopen(6, "wb") as told:
        told.write(json.dumps(verdict).encode())
    os._exit(0)
