"""The worker's side of gym tasks: makes reasoning-gym's problems and asks its scorers. Run in worker processes only.

Some scorers parse the completion's answer with sympy, and some evaluate it as Python. Here the parser sees formulas
only, and ``eval`` is ``ast.literal_eval``, so that an answer is never run as code (`disarmed`).
"""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from hashlib import blake2b
from typing import Any, cast

MAX_DRAWS = 400
_KEPT = 512
_RESERVED = ("seed", "size")
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# Where a dataset gives several answers or none as its own, one that is right stands here.
_EXAMPLES = ("example_correct_answer", "possible_answer", "example_answer")
_ENDLESS = 2**31
# These draw all of a dataset's items when it is made, or bound their number: a small dataset for each problem.
_MADE_WHOLE = {"acre": 10, "gsm_symbolic": 1, "list_functions": 1, "word_ladder": 1}
_EVALUATING = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
_PARSING = ("countdown", "puzzle24")
MAX_FORMULA = 2000
MAX_POWER = 10_000
_FUNCTIONS = frozenset(
    {
        "sin",
        "cos",
        "tan",
        "sec",
        "csc",
        "cot",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "exp",
        "log",
        "ln",
        "sqrt",
    }
)
_entries: OrderedDict[str, dict[str, Any]] = OrderedDict()


def answer(payload: dict[str, Any]) -> Any:
    """One request: ``do`` is describe, problem, recall or score; ``name`` and ``knobs`` say of which dataset."""
    return _REQUESTS[payload["do"]](payload)


def _describe(payload: dict[str, Any]) -> dict[str, Any]:
    """The knobs as typed values; else what is wrong: ``unknown`` and ``legal`` names, or ``refused``."""
    from reasoning_gym.factory import DATASETS

    name = payload["name"]
    if name not in DATASETS:
        return {"unknown": "dataset", "name": name, "legal": sorted(DATASETS)}
    config = DATASETS[name][1]
    defaults = {field.name: _default(field) for field in dataclasses.fields(config) if field.name not in _RESERVED}
    knobs: dict[str, Any] = {}
    for key, value in payload["knobs"].items():
        if key not in defaults:
            return {"unknown": "key", "name": key, "legal": sorted(defaults)}
        try:
            knobs[key] = typed(value, defaults[key])
        except ValueError:
            return {"refused": f"{key} cannot be {value!r}; the default is {defaults[key]!r}"}
    try:
        _dataset(name, json.dumps(knobs, sort_keys=True), 0)
    except Exception as error:
        return {"refused": " ".join(str(error).split())[:300] or type(error).__name__}
    return {"knobs": knobs}


def typed(value: Any, default: Any) -> Any:
    """A knob's text as a value of its default's type; lists are cut at ``;``. Raises ValueError where it is none."""
    if not isinstance(value, str) or isinstance(default, str):
        return value
    if isinstance(default, bool):
        if value.lower() not in _FLAGS:
            raise ValueError
        return _FLAGS[value.lower()]
    if isinstance(default, int | float):
        return int(value) if isinstance(default, int) else float(value)
    if isinstance(default, list | tuple):
        return [typed(part, default[0] if default else None) for part in value.split(";")]
    if default is not None:
        raise ValueError
    if value.lower() == "none":
        return None
    try:
        return json.loads(value)
    except ValueError:
        return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _problem(payload: dict[str, Any]) -> dict[str, Any]:
    """The first draw of (seed, split, index) whose question falls into the split; ``none`` when 400 draws do not."""
    name, split = payload["name"], payload["split"]
    for attempt in range(MAX_DRAWS):
        stem = (name, payload["seed"], split, payload["index"], attempt)
        number = int.from_bytes(_digest(*stem), "big") % _ENDLESS
        entry = _entry(payload, number)
        if split_of(name, entry["question"]) == split:
            kept = {key: value for key, value in entry["metadata"].items() if _jsonable(key, value)}
            facts = {"number": number, "mark": question_mark(entry["question"]), "metadata": kept}
            return {**facts, "question": entry["question"], "answer": _right(entry)}
    return {"none": MAX_DRAWS}


def _right(entry: dict[str, Any]) -> str | None:
    """The item's own answer, or the example of one that its metadata holds."""
    examples = (entry["metadata"][key] for key in _EXAMPLES if entry["metadata"].get(key) is not None)
    found = next(examples, None) if entry["answer"] is None else entry["answer"]
    return found if found is None or isinstance(found, str) else json.dumps(found)


def split_of(name: str, question: str) -> str:
    """The one split a question belongs to, white space apart: six tenths train, two tenths each dev and test."""
    bucket = int.from_bytes(_digest("split", name, " ".join(question.split())), "big") % 10
    return "train" if bucket < 6 else "dev" if bucket < 8 else "test"


def _digest(*parts: Any) -> bytes:
    text = "\x1f".join(("gym", *map(str, parts)))
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()


def question_mark(question: str) -> str:
    """Sixteen hexadecimal digits that tell questions apart."""
    return _digest("question", question).hex()


def _jsonable(key: Any, value: Any) -> bool:
    try:
        return isinstance(key, str) and bool(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return False


def _recall(payload: dict[str, Any]) -> bool:
    """Make a problem again; whether its question is still the one that ``mark`` tells."""
    return question_mark(_entry(payload, payload["number"])["question"]) == payload["mark"]


def _score(payload: dict[str, Any]) -> Any:
    """``{"score": what the dataset's scorer gives}``, or ``{"forgotten": true}`` where `_recall` must come first."""
    entry = _entries.get(_address(payload, payload["number"]))
    if entry is None:
        return {"forgotten": True}
    made = _dataset(payload["name"], json.dumps(payload["knobs"], sort_keys=True), payload["number"])
    return {"score": made.score_answer(payload["answer"], deepcopy(entry))}


def _address(payload: dict[str, Any], number: int) -> str:
    return json.dumps([payload["name"], payload["knobs"], number], sort_keys=True)


def _entry(payload: dict[str, Any], number: int) -> dict[str, Any]:
    """An item of a dataset, a pure function of its number."""
    at = _address(payload, number)
    if at not in _entries:
        name = payload["name"]
        made = _dataset(name, json.dumps(payload["knobs"], sort_keys=True), number)
        _entries[at] = made[number % _MADE_WHOLE[name] if name in _MADE_WHOLE else number]
        if len(_entries) > _KEPT:
            _entries.popitem(last=False)
    _entries.move_to_end(at)
    return _entries[at]


def _dataset(name: str, knobs: str, number: int) -> Any:
    """The dataset with item ``number``: one for all numbers, whose item is drawn from that seed, or one for each."""
    from reasoning_gym.factory import create_dataset

    if name in _MADE_WHOLE:
        return create_dataset(name, seed=number, size=_MADE_WHOLE[name], **json.loads(knobs))
    return _one_dataset(name, knobs)


@cache
def _one_dataset(name: str, knobs: str) -> Any:
    from reasoning_gym.factory import create_dataset

    return create_dataset(name, seed=0, size=_ENDLESS, **json.loads(knobs))


def check_formula(text: str) -> None:
    """Pass what is safe to evaluate: numbers, ``+ - * / **``, one-letter names, known functions, small powers.

    Raises ValueError or SyntaxError for anything else, above all for calls and attributes that would run code, and for
    towers of powers.
    """
    if len(text) > MAX_FORMULA or _growth(ast.parse(text.strip(), mode="eval").body) > MAX_POWER:
        raise ValueError("not a formula that is safe to evaluate")


def _growth(node: ast.expr) -> float:
    """A bound on the power that a formula raises anything to; inf where it is no formula."""
    match node:
        case ast.Constant(value=int() | float()) | ast.Name() if _plain(node):
            return 1
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=inner):
            return _growth(inner)
        case ast.BinOp(left=base, op=ast.Pow(), right=power):
            parts = list(ast.walk(power))
            if _growth(power) == math.inf or any(isinstance(part, ast.Pow) for part in parts):
                return math.inf
            sizes = [abs(float(cast(Any, part).value)) + 1 for part in parts if isinstance(part, ast.Constant)]
            return _growth(base) * math.prod(sizes)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            return max(_growth(left), _growth(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
            return max(map(_growth, args))
        case _:
            return math.inf


def _plain(node: Any) -> bool:
    if isinstance(node, ast.Name):
        return len(node.id) == 1 or node.id == "pi"
    return isinstance(node.value, int | float) and not isinstance(node.value, bool)


def disarmed(call: Callable[..., Any]) -> Callable[..., Any]:
    """Load reasoning-gym, see to it that no scorer runs an answer as code, and give ``call`` back."""
    import reasoning_gym.factory

    sympy: Any = sys.modules["sympy"]  # reasoning-gym needs it and has imported it
    parse: Callable[..., Any] = sympy.parse_expr

    def guarded(text: str, *rest: Any, **more: Any) -> Any:
        check_formula(text)
        return parse(text, *rest, **more)

    sympy.parse_expr = guarded
    for name in (*_EVALUATING, *_PARSING):
        module: Any = sys.modules[reasoning_gym.factory.DATASETS[name][0].__module__]
        if name in _PARSING:
            module.parse_expr = guarded
        else:
            module.eval = ast.literal_eval
    return call


_REQUESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "describe": _describe,
    "problem": _problem,
    "recall": _recall,
    "score": _score,
}
