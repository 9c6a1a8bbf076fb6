"""What the generated tasks share: the task itself, the splits, the marks, and the rule for reading an answer.

A generated task is one frozen dataclass, `Generated`, filled with a `Rules` record of plain functions. A problem is
a short string, its *content*; everything else (prompt, answer, trace, check) is a function of that string. Splits
are disjoint by construction: a hash of the content's `key` decides which split the content belongs to, whatever the
level, style and seed, and a draw is repeated until it falls into the split that was asked for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, Protocol, cast

from truegain.core.errors import SettingError, nearest
from truegain.core.types import SPLITS, Abstain, Environment, Problem, Rollout, Split

Style = Literal["direct", "trace"]
STYLES: tuple[Style, ...] = ("direct", "trace")
MARKS = ("<think>", "</think>", "<answer>", "</answer>", "<tool>", "</tool>", "<result>", "</result>")
"""Marks that are one token each in the embedded tokenizer."""
CHARSET = "0123456789abcdefghijklmnopqrstuvwxyz \n+-*/=(),.:;?!><|_#^%&[]"
"""Every other character that a prompt or a demonstration may hold; one token each."""
MAX_ANSWER = 400
MAX_TAIL = 400
MAX_CALLS = 32
MAX_DRAWS = 20_000
RECHECK, WRONG_TURN = 0.20, 0.15

_MARK = re.compile("|".join(MARKS))
_RESULT = re.compile(r"<result>[^<>]*</result>")
# What may follow the answer: white space and end marks such as <eos>, </s>, <|im_end|>, <end_of_turn>.
_END = re.compile(r"(?:\s|<[|/]?[a-zA-Z_]{1,24}\|?>)*")


@dataclass(frozen=True)
class Step:
    """One line of a trace, a wrong version of it, and the line that re-checks it."""

    line: str
    wrong: str | None = None
    check: str | None = None


class Recorder(Environment, Protocol):
    """A world that keeps what was called: ``{"name", "parameters", "result"}`` per call, in order."""

    calls: list[dict[str, Any]]


@dataclass(frozen=True)
class Tool:
    """The one tool of a task, as functions.

    ``world`` makes the environment, a `Recorder`. ``call(world, text)`` runs what stands in the tool marks. ``gold``
    gives the calls, as such texts, by which a content is solved. ``help`` tells a chat model how to call.
    """

    world: Callable[[], Recorder]
    call: Callable[[Any, str], str]
    gold: Callable[[str], Sequence[str]]
    help: str

    def recorded(self, content: str, texts: Sequence[str]) -> list[dict[str, Any]]:
        """The record of these calls, made in a world of their own. What a completion claims as results is not read."""
        world = self.world()
        world.reset(content=content)
        for text in texts:
            self.call(world, text)
        return world.calls


@dataclass(frozen=True)
class Rules:
    """What makes one generated task, as functions of the problem's content (a short string).

    ``draw(rng, level)`` gives a content, or None to be asked again. ``key`` maps contents that are the same problem
    in other clothes (permuted, commuted) to one string. ``answer`` raises ValueError for a content that it cannot
    read. ``correct(content, text)`` judges an answer text of at most `MAX_ANSWER` characters. ``think`` writes the
    reference trace. ``longest(level, style)`` bounds a demonstration's tokens. ``levels`` are the lowest and the
    highest, ``default`` the level of each style at which the embedded model is right in 25 to 60 % of its samples.
    ``shown`` is what the prompt shows of a content, all of it unless the content holds the answer. ``facts(content,
    answer)`` finds more than right or wrong, ``supplies`` names the columns among them. ``tool`` is that of a task with
    one, ``call_cost`` the default cost of a call.
    """

    name: str
    word: str
    levels: tuple[int, int]
    default: Mapping[Style, int]
    draw: Callable[[random.Random, int], str | None]
    key: Callable[[str], str]
    answer: Callable[[str], str]
    correct: Callable[[str, str], bool]
    think: Callable[[str, random.Random], str]
    instruction: Callable[[str], str]
    longest: Callable[[int, str], int]
    shown: Callable[[str], str] = str
    facts: Callable[[str, str | None], Mapping[str, Any]] | None = None
    supplies: tuple[str, ...] = ()
    call_cost: float = 0.0
    tool: Tool | None = None

    @property
    def world(self) -> Callable[[], Environment] | None:
        """Makes the environment of a task with a tool."""
        return None if self.tool is None else self.tool.world


@dataclass(frozen=True)
class Generated:
    """A task with unlimited problems. ``level`` is its difficulty, ``style`` how the embedded model is asked to answer.

    ``chat=True`` makes the prompt one user message in plain English, for real chat models. ``call_cost`` (reward units
    that a tool call costs) is 0 for a task without tools. `truegain.tasks.make_one` fills in the defaults.

    Raises:
        SettingError: a level outside the task's range, an unknown style, or a cost for a task without tools.
    """

    rules: Rules
    level: int
    style: Style = "direct"
    seed: int = 0
    chat: bool = False
    call_cost: float = 0.0

    def __post_init__(self) -> None:  # noqa: D105
        rules = self.rules
        low, high = rules.levels
        if isinstance(self.level, bool) or not isinstance(self.level, int) or not low <= self.level <= high:
            raise SettingError(
                f"task {rules.name}: level must be a whole number from {low} to {high}, not {self.level!r}"
            )
        if self.style not in STYLES:
            raise SettingError(f"task {rules.name}: style must be direct or trace, not {self.style!r}")
        if not 0.0 <= self.call_cost < float("inf"):
            raise SettingError(f"task {rules.name}: call_cost must be a number from 0 up, not {self.call_cost!r}")
        if rules.world is None and self.call_cost:
            raise SettingError(f"task {rules.name}: call_cost is for tasks with a tool; leave it out")

    @property
    def name(self) -> str:
        """The task's name, as in a spec."""
        return self.rules.name

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a completion, or hand it to the environment."""
        return ("</answer>",) if self.rules.world is None else ("</answer>", "</tool>")

    @property
    def supplies(self) -> tuple[str, ...]:
        """The columns that `score` fills."""
        tool = () if self.rules.tool is None else ("tool_calls", "tool_errors", "tool_cost")
        return ("correct", "answered", *tool, *self.rules.supplies)

    @property
    def max_tokens(self) -> int:
        """Tokens that always suffice for a reference demonstration at this level and style, end mark included."""
        return self.rules.longest(self.level, self.style) + 1

    def size(self, split: Split) -> int | None:
        """None: there is no last problem."""
        return None

    def problem(self, split: Split, index: int) -> Problem:
        """The index-th problem of a split, a pure function of (task, level, seed, split, index)."""
        if split not in SPLITS:
            raise SettingError(f"unknown split {split!r}{nearest(str(split), SPLITS)}; it is train, dev or test")
        if index < 0:
            raise IndexError(f"task {self.name}: problem {index} does not exist; indices start at 0")
        content = self._content(split, index)
        meta: dict[str, Any] = {"task": self.name, "level": self.level, "style": self.style, "content": content}
        if self.rules.tool is not None:
            meta["calls"] = self.rules.tool.recorded(content, self.rules.tool.gold(content))
        ident = f"{self.name}-{split}-{digest(self.name, content).hex()}"
        problem = Problem(ident, prompt_text(self.rules, content, self.style), self.rules.answer(content), meta)
        if not self.chat:
            return problem
        message = {"role": "user", "content": self.instruction(problem)}
        return Problem(ident, (message,), problem.answer, meta)

    def _content(self, split: Split, index: int) -> str:
        rules = self.rules
        rng = random.Random(digest(rules.name, str(self.level), str(self.seed), split, str(index)))
        for _ in range(MAX_DRAWS):
            content = rules.draw(rng, self.level)
            if content is not None and split_of(rules, content) == split:
                return content
        raise SettingError(f"task {rules.name}: level {self.level} has no {split} problem; take a higher level")

    def demonstration(self, problem: Problem, draw: random.Random) -> str:
        """A reference completion in the problem's style; a tool's results are in it (see `policy_spans`)."""
        content = str(problem.meta["content"])
        trace = self.rules.think(content, draw) if problem.meta["style"] == "trace" else ""
        return f"{trace}<answer>{self.rules.answer(content)}</answer>"

    def instruction(self, problem: Problem) -> str:
        """The problem in plain English, for chat models."""
        lines = [self.rules.instruction(str(problem.meta["content"]))]
        if problem.meta["style"] == "trace":
            lines.append("Think step by step inside <think></think>, one step per line.")
            if self.rules.tool is not None:
                lines.append(self.rules.tool.help)
        lines.append("Give only the final answer inside <answer></answer>, once, and nothing after it.")
        return "\n".join(lines)

    def score(self, problem: Problem, rollout: Rollout) -> Mapping[str, Any] | Abstain:
        """Facts ``correct`` and ``answered`` (0.0 or 1.0), and what the task's rules find.

        For a tool ``tool_calls``, ``tool_errors``, ``tool_cost``; ``calls``, the record of the first `MAX_CALLS` calls
        (name, parameters, result), made again, so that forged results do not stand in it; and ``final``, the answer.

        Linear in the length of the text. A missing, malformed or second answer is wrong, never an abstention;
        a problem that does not carry a readable content is one.
        """
        content = problem.meta.get("content")
        try:
            self.rules.answer(cast(str, content))
        except (ValueError, TypeError, AttributeError):
            return Abstain(f"problem {problem.id}: not a readable {self.name} problem")
        found = answer_of(rollout.text)
        right = found is not None and self.rules.correct(cast(str, content), found)
        facts: dict[str, Any] = {"correct": float(right), "answered": float(found is not None)}
        if self.rules.facts is not None:
            facts |= self.rules.facts(cast(str, content), found)
        if self.rules.tool is not None:
            calls = tool_texts(rollout.text)
            facts |= {"tool_calls": float(len(calls)), "tool_errors": float(rollout.text.count("<result>error"))}
            facts["tool_cost"] = self.call_cost * len(calls)
            facts |= {"calls": self.rules.tool.recorded(cast(str, content), calls[:MAX_CALLS]), "final": found}
        return facts

    def final(self, problem: Problem, text: str) -> str | None:
        """What stands in the one answer block; None when it is missing, malformed or there are several."""
        return answer_of(text)

    def environment(self) -> Callable[[], Environment] | None:
        """A factory of the task's world, or None for a single-turn task."""
        return self.rules.world

    def respond(self, env: Environment, text: str) -> str | None:
        """Run the trailing tool call of a completion so far; the text to append, or None when there is no call."""
        called, tool = tool_call(text), self.rules.tool
        return None if called is None or tool is None else f"<result>{tool.call(env, called)}</result>"

    def step_verdicts(self, problem: Problem, text: str) -> list[float] | None:
        """1.0 or 0.0 for each step of a completion; None where the task has no exact judge of steps."""
        from truegain.tasks.verdicts import step_verdicts  # it imports tasks, which import this file

        return step_verdicts(problem, text)


def digest(*parts: str) -> bytes:
    """Eight bytes that depend on every part and on nothing else (not on the process, as Python's hash does)."""
    return blake2b("\x1f".join(parts).encode(), digest_size=8).digest()


def split_of(rules: Rules, content: str) -> Split:
    """The one split a content belongs to: eight tenths train, one tenth dev, one tenth test."""
    bucket = int.from_bytes(digest("split", rules.name, rules.key(content)), "big") % 10
    return "train" if bucket < 8 else "dev" if bucket == 8 else "test"


def prompt_text(rules: Rules, content: str, style: str) -> str:
    """The compact prompt of the embedded models: ``sort 5 3 8 1``, then `` think`` for the trace style."""
    return f"{rules.word} {rules.shown(content)}{' think' if style == 'trace' else ''}\n"


def answer_of(text: str) -> str | None:
    """What stands inside the one answer block that ends the text, stripped; None when there is no such block.

    The text must hold exactly one ``<answer>`` and one ``</answer>``, in this order, with nothing after them but white
    space and end marks: to spray answers, or to go on after one, gives none.

    >>> answer_of("so <answer> 42 </answer>")
    '42'
    >>> answer_of("<answer>1</answer><answer>2</answer>") is None
    True
    """
    start, end = text.find("<answer>"), text.find("</answer>")
    if start < 0 or end < start or text.rfind("<answer>") != start or text.rfind("</answer>") != end:
        return None
    inside, tail = text[start + len("<answer>") : end], text[end + len("</answer>") :]
    if len(inside) > MAX_ANSWER or len(tail) > MAX_TAIL:
        return None
    return None if _MARK.search(tail) or not _END.fullmatch(tail) else inside.strip()


def whole_number(text: str) -> int | None:
    """The integer a text writes in plain ASCII digits without leading zeros, at most 30 of them; else None."""
    return int(text) if re.fullmatch(r"-?(?:0|[1-9][0-9]{0,29})", text) else None


def tool_call(text: str) -> str | None:
    """The expression of a tool call that ends the text and has no result yet; None when there is none.

    >>> tool_call("<think><tool>12*7</tool>")
    '12*7'
    """
    if not text.endswith("</tool>"):
        return None
    body = text[: -len("</tool>")]
    body = body[body.rfind("</tool>") + 1 :]
    start = body.rfind("<tool>")
    return None if start < 0 else body[start + len("<tool>") :]


def tool_texts(text: str) -> list[str]:
    """What `tool_call` would have seen while the text grew.

    >>> tool_texts("<tool>1+1</tool><result>2</result><tool>2*3</tool>")
    ['1+1', '2*3']
    """
    pieces = (piece.rpartition("<tool>") for piece in text.split("</tool>")[:-1])
    return [after for _, mark, after in pieces if mark]


def policy_spans(text: str) -> list[tuple[int, int]]:
    """Character spans ``[start, end)`` of a demonstration that the policy writes: all but the tool's results.

    >>> policy_spans("ab<result>7</result>c")
    [(0, 2), (20, 21)]
    """
    spans, at = [], 0
    for found in _RESULT.finditer(text):
        spans.append((at, found.start()))
        at = found.end()
    return [(start, end) for start, end in [*spans, (at, len(text))] if end > start]


def token_length(text: str) -> int:
    """Tokens of a text in the embedded tokenizer: a mark is one, any other character is one."""
    return len(_MARK.sub("#", text))


def weave(steps: Sequence[Step], draw: random.Random) -> str:
    """A think block of the steps, one line each; some re-check a step, some take a wrong turn and say so."""
    may_err = [i for i, step in enumerate(steps) if step.wrong is not None and step.wrong != step.line]
    may_check = [i for i, step in enumerate(steps) if step.check is not None]
    err = draw.choice(may_err) if may_err and draw.random() < WRONG_TURN else None
    check = draw.choice(may_check) if may_check and draw.random() < RECHECK else None
    lines: list[str] = []
    for i, step in enumerate(steps):
        lines += [cast(str, step.wrong), "no back"] if i == err else []
        lines.append(step.line)
        lines += [f"check {step.check} ok"] if i == check else []
    return "<think>" + "\n".join(lines) + "</think>"
