"""Problems from JSONL, JSON and parquet files in TRL's columns, GSM8K's format included."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, Literal

from truegain.core.errors import DataError, SettingError, nearest
from truegain.core.types import SPLITS, Abstain, Environment, Problem, Rollout, Split
from truegain.tasks._answers import MAX_ANSWER, final_answer, marked_answer, same
from truegain.tasks._file_rows import Entry, read_entries
from truegain.tasks.functions import without_end_marks
from truegain.tasks.math_check import MathCheck, Verdict, boxed, stated
from truegain.tasks.python_check import PythonCheck, program_of, read_key

CHECKERS = ("exact", "math", "python")
Path_ = str | os.PathLike[str]


class FileTask:
    r"""A finite task read from files.

    Columns: ``prompt`` (a string or messages ``{"role", "content"}``) or ``question``; ``answer`` or ``solution``, in
    this order, unless ``prompt_column`` and ``answer_column`` name others. Every other column goes to the problems'
    ``meta``, so that reward functions are given it; so does the answer column as it stands in the file. The problem's
    ``answer`` is what the file marks as final in it (``<answer>``, ``\boxed{}``, ``####`` as GSM8K does), else all.

    Splits: with ``path`` alone, or for splits without a file, rows are dealt out by a hash of the prompt (white space
    apart): eight tenths train, one tenth dev, one tenth test. ``train``, ``dev`` and ``test`` name separate files
    (``path`` then is the train file); a missing dev or test split is dealt out of the train file. A prompt is in one
    split only: one that test has is left out of dev and train, one that dev has out of train. Rows that repeat prompt
    and answer are kept once. ``notes`` says in words what was left out.

    ``checker="exact"``: the completion's final answer (the marked one; else its last number where the file's answers
    all stand after ``####``; else all of it) equals the problem's, see `same`. ``needs_answer=False`` admits files
    without an answer column: then `score` gives no ``correct``, and only reward functions can judge.

    ``checker="math"``: math-verify compares the answers as mathematics, in worker processes (`MathCheck`): the marked
    answer, else the last number where the file's answers all stand after ``####``, else the last expression of the
    completion's last 2000 characters. A completion without a readable expression is a wrong answer, ``answered`` 0. A
    key that math-verify cannot read, a check that fails or takes longer than 5 s is an abstention with its reason.

    ``checker="python"``: the completion is a program, run against the unit tests of the column ``tests`` (or
    ``test``, ``test_list``, ``unit_tests``, ``input_output``, or the one that ``answer_column`` names) in the sandbox,
    see `python_check.key_of` and `python_check.program_of`. Besides ``correct`` (all tests pass) and ``answered`` it
    gives ``test_pass``, a number for each test.

    Where every row of the train split has a completion, ``demonstration`` gives it, to learn from: a string or one
    message in the column ``completion``, or the one that ``completion_column`` names.

    Raises DataError for files that cannot be used as they are, SettingError for an unknown checker, or for ``math``
    where math-verify is not installed.
    """

    stop: tuple[str, ...] = ()

    def __init__(
        self,
        path: Path_ | None = None,
        *,
        train: Path_ | None = None,
        dev: Path_ | None = None,
        test: Path_ | None = None,
        name: str | None = None,
        checker: Literal["exact", "math", "python"] = "exact",
        prompt_column: str | None = None,
        answer_column: str | None = None,
        completion_column: str | None = None,
        max_prompt_chars: int = 100_000,
        needs_answer: bool = True,
    ) -> None:
        """Read all the files."""
        if checker not in CHECKERS:
            raise SettingError(
                f"unknown checker {checker!r}{nearest(str(checker), CHECKERS)}; legal: {', '.join(CHECKERS)}"
            )
        if (path is None) == (train is None):
            raise SettingError("a file task needs one train file: give path or train, not both")
        files: dict[Split, Path] = {"train": Path(path if path is not None else train or "")}
        if dev is not None:
            files["dev"] = Path(dev)
        if test is not None:
            files["test"] = Path(test)
        self.name = name or files["train"].stem
        self.path = files["train"]
        self.checker = checker
        self._math = MathCheck() if checker == "math" else None
        self._python = PythonCheck() if checker == "python" else None
        chosen = (prompt_column, answer_column, max_prompt_chars, needs_answer, checker == "python")
        read: dict[Split, list[Entry]] = {}
        self._last_number = True
        for split, file in files.items():
            # Only what is trained on is learned from.
            read[split], hashed = read_entries(
                self.name, file, completion_column if split == "train" else None, *chosen
            )
            self._last_number &= hashed
        self.has_answers = all(entry.problem.answer is not None for rows in read.values() for entry in rows)
        self._splits, self._entries, self.notes = _dealt(read)

    @cached_property
    def _completions(self) -> Mapping[str, Sequence[str]]:
        """The completions of each train problem."""
        return {p.id: [e.completion for e in self._entries[p.id] if e.completion] for p in self._splits["train"]}

    def problem(self, split: Split, index: int) -> Problem:
        """The index-th problem of a split, in the file's order. Raises IndexError past the end, DataError when the
        split is empty.
        """
        problems = self._of(split)
        if not problems:
            total = sum(map(len, self._splits.values()))
            raise DataError(
                f"{self.path}: no row of the {total} falls into the {split} split; add rows or name a file: {split}=..."
            )
        if not 0 <= index < len(problems):
            raise IndexError(f"{self.name}: the {split} split has {len(problems)} problems, no index {index}")
        return problems[index]

    @property
    def supplies(self) -> tuple[str, ...]:
        """The columns that its checker fills; without answers it judges only whether there is one."""
        given = ("correct", "answered") if self.has_answers else ("answered",)
        return (*given, "test_pass") if self.has_answers and self._python is not None else given

    def size(self, split: Split) -> int:
        """How many problems the split has."""
        return len(self._of(split))

    def _of(self, split: Split) -> Sequence[Problem]:
        if split not in self._splits:
            raise SettingError(f"unknown split {split!r}{nearest(str(split), SPLITS)}; legal: {', '.join(SPLITS)}")
        return self._splits[split]

    def place(self, problem: Problem) -> str:
        """File and line (or row) that a problem is from: ``data.jsonl, line 3``."""
        return self._entries[problem.id][0].place if problem.id in self._entries else str(self.path)

    def score(self, problem: Problem, rollout: Rollout) -> Mapping[str, Any] | Abstain:
        """``correct`` and ``answered``, 0.0 or 1.0; ``answered`` alone for a problem without an answer."""
        return self.score_all([problem], [rollout])[0]

    def score_all(self, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> list[Mapping[str, Any] | Abstain]:
        """`score` of many rollouts, ``problems[i]`` being that of ``rollouts[i]``; math is checked side by side."""
        texts = [without_end_marks(rollout.text) for rollout in rollouts]
        if self._python is not None:
            return self._tested(self._python, problems, texts)
        found = [final_answer(text, last_number=self._last_number) for text in texts]
        facts = [self._facts(problem, answer) for problem, answer in zip(problems, found, strict=True)]
        if self._math is None:
            return facts
        rows = [i for i, fact in enumerate(facts) if isinstance(fact, Mapping) and "correct" in fact]
        stating = [stated(texts[i], last_number=self._last_number) for i in rows]
        keys = [str(problems[i].answer) for i in rows]
        for i, verdict in zip(rows, self._math.verdicts(list(zip(keys, stating, strict=True))), strict=True):
            facts[i] = self._judged(problems[i], verdict)
        return facts

    def _tested(
        self, python: PythonCheck, problems: Sequence[Problem], texts: Sequence[str]
    ) -> list[Mapping[str, Any] | Abstain]:
        programs = [program_of(text, p.prompt, p.answer) for p, text in zip(problems, texts, strict=True)]
        pairs = [(prog, p.answer) for prog, p in zip(programs, problems, strict=True) if prog is not None and p.answer]
        outcomes = dict(zip(pairs, python.outcomes(pairs), strict=True))
        facts: list[Mapping[str, Any] | Abstain] = []
        for problem, program in zip(problems, programs, strict=True):
            if problem.answer is None:
                facts.append({"answered": float(program is not None)})
                continue
            none = (0.0,) * len(read_key(problem.answer).tests)
            out = none if program is None else outcomes[program, problem.answer]
            if isinstance(out, Abstain):
                facts.append(Abstain(f"{self.place(problem)}: {out.reason}"))
            else:
                facts.append({"correct": min(out), "answered": float(program is not None), "test_pass": list(out)})
        return facts

    def _facts(self, problem: Problem, found: str | None) -> Mapping[str, Any] | Abstain:
        """What the exact checker finds."""
        answered = float(found is not None)
        if problem.answer is None:
            return {"answered": answered}
        if not problem.answer:
            return Abstain("the answer key is empty")
        return {"correct": float(found is not None and same(found, problem.answer)), "answered": answered}

    def _judged(self, problem: Problem, verdict: Verdict | Abstain) -> Mapping[str, Any] | Abstain:
        if isinstance(verdict, Abstain):
            return verdict
        if verdict == "bad key":
            return Abstain(f"{self.place(problem)}: the answer {str(problem.answer)[:80]!r} is no readable mathematics")
        return {"correct": float(verdict == "right"), "answered": float(verdict != "unread")}

    def bad_keys(self) -> list[Problem]:
        """Problems whose answers cannot be read: empty ones, with ``math`` those without an expression, and with
        ``python`` those whose own completion in the file does not pass their tests.

        Reads every key once, at some hundred a second where they are more than plain numbers.
        """
        keyed = [p for split in SPLITS for p in self._splits[split] if p.answer is not None]
        if self._python is not None:
            own = [(p, text) for p in keyed for text in [self._entries[p.id][0].completion] if text is not None]
            facts = self._tested(self._python, [p for p, _ in own], [text for _, text in own])
            return [
                p for (p, _), fact in zip(own, facts, strict=True) if isinstance(fact, Abstain) or not fact["correct"]
            ]
        if self._math is None:
            return [p for p in keyed if not p.answer]
        verdicts = self._math.verdicts([(str(p.answer), boxed(str(p.answer))) for p in keyed])
        return [p for p, verdict in zip(keyed, verdicts, strict=True) if verdict == "bad key" or not p.answer]

    def final(self, problem: Problem, text: str) -> str | None:
        """The completion's final answer, as it stands there; None when there is none."""
        text = without_end_marks(text)
        if self._python is not None:
            return program_of(text, problem.prompt, problem.answer)
        found = final_answer(text, last_number=self._last_number)
        unmarked = self._math is not None and not self._last_number and marked_answer(text) is None
        return text[-MAX_ANSWER:].strip() or None if found is None and unmarked else found

    @property
    def demonstration(self) -> Callable[[Problem, Random], str]:
        """Gives one of the completions that the file has for a problem. AttributeError where one has none."""
        kept = self._completions
        if not all(kept.values()):
            raise AttributeError(f"{self.path}: not every row has a completion")
        return lambda problem, draw: draw.choice(kept[problem.id])

    def environment(self) -> Callable[[], Environment] | None:
        """None: a single turn."""
        return None

    def respond(self, env: Environment, text: str) -> str | None:
        """None: no tools."""
        return None


def _dealt(
    read: Mapping[Split, list[Entry]],
) -> tuple[dict[Split, list[Problem]], dict[str, list[Entry]], tuple[str, ...]]:
    """The three splits, each prompt in one of them only; the rows of each problem; and in words what was left out."""
    splits: dict[Split, list[Problem]] = {split: [] for split in SPLITS}
    entries: dict[str, list[Entry]] = {}
    taken: dict[str, Split] = {}
    repeated = 0
    leaked: Counter[str] = Counter()
    for source in reversed(SPLITS):  # test first: what it has, the others go without
        rows: dict[str, dict[str | None, str]] = {}
        for entry in read.get(source, []):
            problem = entry.problem
            answers = rows.setdefault(problem.id, {})
            if problem.answer in answers:
                repeated += 1
                entries.get(answers[problem.answer], []).append(entry)
                continue
            unlike = f"{problem.id}-{len(answers) + 1}" if answers else problem.id
            answers[problem.answer] = unlike
            dealt = _bucket(problem.id) if source == "train" else source
            split = source if dealt in read else dealt
            owner = taken.get(problem.id, split) if len(answers) == 1 else taken[problem.id]
            if owner != split:
                leaked[f"{split} prompts are also in {owner}: left out of {split}"] += 1
                continue
            taken[problem.id] = split
            splits[split].append(replace(problem, id=unlike))
            entries[unlike] = [entry]
    notes = [f"{repeated} rows repeat the prompt and answer of another: kept once"] if repeated else []
    return splits, entries, (*notes, *(f"{count} {what}" for what, count in leaked.items()))


def _bucket(ident: str) -> Split:
    """The split that a content hash falls into: eight tenths train, one tenth dev, one tenth test."""
    tenth = int(ident.rpartition("-")[2], 16) % 10
    return "train" if tenth < 8 else "dev" if tenth == 8 else "test"
