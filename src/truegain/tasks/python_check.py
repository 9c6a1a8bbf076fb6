r"""Generated Python judged by unit tests, in the sandbox: which tests pass, or an abstention with its reason.

What the tests expect never enters the program's process, and no word of its own counts as a verdict; see
`truegain.runtime.sandbox`.
"""

from __future__ import annotations

import ast
import json
import os
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truegain.core.errors import DataError
from truegain.core.types import Abstain
from truegain.runtime import Check, Limits, Program, Ran, Sandbox, Verdict
from truegain.tasks._answers import marked_answer

COLUMNS = ("tests", "test", "test_list", "unit_tests", "input_output")
"""Names of the column that holds the tests, in the order in which they are looked for."""

_ENTRY = ("entry_point", "fn_name", "function_name")
_SETUP = ("test_setup_code", "test_imports", "setup")
_FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)
_REMEMBERED = 1 << 14
_MAX_TESTS = 1000

Outcome = tuple[float, ...]


@dataclass(frozen=True)
class UnitTests:
    """The tests of a problem: each a `Check` without its program, or (standard input, standard output)."""

    tests: tuple[Check | tuple[str, str], ...]
    entry: str


class PythonCheck:
    """Runs programs against unit tests, several at a time; verdicts are remembered.

    The sandbox starts at the first program. ``count`` is how many run at once, by default as many as there are cores,
    at most 4. Usable from any thread. Raises SettingError at the first program where no sandbox works.
    """

    def __init__(self, limits: Limits | None = None, count: int | None = None, *, hostile: bool = False) -> None:
        """Starts nothing yet."""
        self.limits, self.hostile = limits or Limits(), hostile
        self.count = count or min(4, os.cpu_count() or 1)
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._known: dict[tuple[str, str], Outcome] = {}

    def outcomes(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome | Abstain]:
        """For each (program, key of `key_of`): 1.0 for each test that it passes and 0.0 for each other.

        A program that raises, ends early or passes a limit fails the test. Abstains where the sandbox failed, or where
        a test cannot be carried out whatever the program does.
        """
        with self._lock:
            found: dict[tuple[str, str], Outcome | Abstain] = {p: self._known[p] for p in pairs if p in self._known}
        asked = [pair for pair in dict.fromkeys(pairs) if pair not in found]
        jobs = [(program, read_key(key)) for program, key in asked]
        work = [(program, test) for program, unit in jobs for test in unit.tests]
        answers = iter(self._each(work))
        for pair, (_, unit) in zip(asked, jobs, strict=True):
            found[pair] = _together([next(answers) for _ in unit.tests])
        with self._lock:
            if len(self._known) + len(asked) > _REMEMBERED:
                self._known.clear()
            self._known.update((p, out) for p in asked if not isinstance(out := found[p], Abstain))
        return [found[pair] for pair in pairs]

    def close(self) -> None:
        """End the sandbox; it starts again when it is needed. Also happens when the object is collected."""
        with self._lock:
            sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            sandbox.close()

    def _each(self, work: Sequence[tuple[str, Check | tuple[str, str]]]) -> list[float | Abstain]:
        """One verdict per program and test."""
        if not work:
            return []
        with self._lock:
            if self._sandbox is None:
                self._sandbox = Sandbox(self.limits, count=self.count, hostile=self.hostile)
                weakref.finalize(self, self._sandbox.close)
            sandbox = self._sandbox
        jobs = [
            Check(program, test.test, test.entry, test.args, test.expected)
            if isinstance(test, Check)
            else Program(program, stdin=test[0])
            for program, test in work
        ]
        answers = sandbox.each(jobs)
        return [_mark(test, answer) for (_, test), answer in zip(work, answers, strict=True)]


def _mark(test: Check | tuple[str, str], answer: Ran | Verdict | Abstain) -> float | Abstain:
    if isinstance(answer, Abstain):
        return answer
    if isinstance(answer, Verdict):
        return float(answer.passed)
    expected = "" if isinstance(test, Check) else test[1]
    return float(answer.exit == 0 and not answer.stopped and _lines(answer.stdout) == _lines(expected))


def _lines(text: str) -> list[str]:
    """The lines of an output, without white space at their ends and empty lines at the end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _together(marks: Sequence[float | Abstain]) -> Outcome | Abstain:
    for mark in marks:
        if isinstance(mark, Abstain):
            return mark
    return tuple(float(mark) for mark in marks if not isinstance(mark, Abstain))


def program_of(text: str, prompt: object, key: str | None) -> str | None:
    r"""The program that a completion gives, None if it gives none.

    That is its last fenced block after ``</think>``, else what stands in ``<answer>``, else all of it. Where it does
    not define the function that the tests call, and the prompt is text that begins to, it continues the prompt.

    >>> program_of("Look:\n```python\nprint(1)\n```\nDone.", "", None)
    'print(1)'
    """
    text = text.rpartition("</think>")[2]
    blocks = _FENCE.findall(text)
    program = blocks[-1] if blocks else (marked_answer(text) if "<answer>" in text else None) or text
    if not program.strip():
        return None
    entry = "" if key is None else read_key(key).entry
    defined = re.compile(rf"\b(?:def|class)\s+{re.escape(entry)}\b") if entry else None
    if defined and isinstance(prompt, str) and not defined.search(program) and defined.search(prompt):
        return prompt + program
    return program


def key_of(place: str, name: str, row: Mapping[str, Any]) -> str:
    """The tests of a row as the problem's answer, in one form.

    The column holds (a) a list of texts, each one test: asserts, or code that defines ``check(candidate)``; (b) one
    such text; (c) a list of ``{"input", "output"}`` (or ``stdin``, ``stdout``); (d) ``{"inputs": [...], "outputs":
    [...]}``; or any of these as JSON text. The name of the function to test, for ``candidate`` and for inputs that are
    arguments, is in the column ``entry_point`` or ``fn_name``, or beside the inputs. Code that all tests need is in
    ``test_setup_code``, ``test_imports`` or ``setup``.

    Raises DataError naming ``place`` for anything else, for a test that is no Python, and for none at all.
    """
    value = _read(row[name])
    entry = str(next((row[column] for column in _ENTRY if row.get(column)), ""))
    setup = next((row[column] for column in _SETUP if row.get(column)), "")
    setup = "\n".join(setup) if isinstance(setup, list) else str(setup)
    if isinstance(value, Mapping):
        entry = str(value.get("fn_name") or entry)
        value = _paired(place, name, value)
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not 0 < len(value) <= _MAX_TESTS:
        raise DataError(f"{place}: {name!r} holds no tests; it needs a list of 1 to {_MAX_TESTS} tests, or code")
    tests = [_one(f"{place}: test {number} of {name!r}", test, entry, setup) for number, test in enumerate(value, 1)]
    return json.dumps({"entry": entry, "tests": tests}, sort_keys=True)


def read_key(key: str) -> UnitTests:
    """What `key_of` gave, to run."""
    found = json.loads(key)
    tests: list[Check | tuple[str, str]] = []
    for test in found["tests"]:
        if "stdin" in test:
            tests.append((test["stdin"], test["stdout"]))
        elif "args" in test:
            tests.append(Check("", entry=found["entry"], args=tuple(test["args"]), expected=test["expected"]))
        else:
            tests.append(Check("", test["code"], found["entry"]))
    return UnitTests(tuple(tests), found["entry"])


def _read(value: Any) -> Any:
    """JSON text as what it says; other text, which is code, as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _paired(place: str, name: str, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    ins, outs = value.get("inputs"), value.get("outputs")
    if not isinstance(ins, list) or not isinstance(outs, list) or len(ins) != len(outs):
        raise DataError(f"{place}: {name!r} is an object; it needs lists 'inputs' and 'outputs' of one length")
    return [{"input": one, "output": other} for one, other in zip(ins, outs, strict=True)]


def _one(place: str, test: Any, entry: str, setup: str) -> dict[str, Any]:
    """One test in the form that `read_key` reads."""
    if isinstance(test, str):
        code = f"{setup}\n{test}" if setup else test
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise DataError(f"{place} is no Python ({type(error).__name__}: {error})") from error
        return {"code": code}
    if not isinstance(test, Mapping):
        raise DataError(f"{place} is a {type(test).__name__}; it must be code, or an input and an output")
    given = test.get("input", test.get("stdin"))
    wanted = test.get("output", test.get("stdout"))
    if given is None or wanted is None:
        raise DataError(f"{place} has {', '.join(map(str, test)) or 'nothing'}; it needs 'input' and 'output'")
    if entry and test.get("testtype", "functional") == "functional":
        return _call(place, given, wanted)
    return {"stdin": _text(given), "stdout": _text(wanted)}


def _call(place: str, given: Any, wanted: Any) -> dict[str, Any]:
    """A call with arguments: a list of them, or one JSON value a line, as LiveCodeBench has them."""
    if isinstance(given, str):
        try:
            given = [json.loads(line) for line in given.split("\n") if line.strip()]
            wanted = json.loads(wanted) if isinstance(wanted, str) else wanted
        except ValueError as error:
            raise DataError(f"{place}: its input or output is no JSON ({error})") from error
    return {"args": given if isinstance(given, list) else [given], "expected": wanted}


def _text(value: Any) -> str:
    """Standard input or output: text, or a list of lines."""
    return "\n".join(map(str, value)) + "\n" if isinstance(value, list) else str(value)
