"""Answers compared as mathematics, by math-verify, in worker processes: a verdict or an abstention with its reason."""

from __future__ import annotations

import importlib.util
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from truegain.core.errors import SettingError
from truegain.core.types import Abstain
from truegain.runtime import Result, Workers
from truegain.tasks._answers import MAX_ANSWER, final_answer, marked_answer, number

Verdict = Literal["right", "wrong", "unread", "bad key"]
_FILE = Path(__file__).with_name("_math_worker.py")
_GRACE = 1.0
_MEMORY_MB = 1024
_REMEMBERED = 1 << 16
_INTEGER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")


class MathCheck:
    r"""Compares answers with keys by math-verify: ``1/2``, ``\frac{2}{4}`` and ``0.5`` are the same.

    The workers start at the first answer that needs them: plain numbers that are equal, and different integers, are
    told apart here. ``deadline`` (seconds) bounds one check, ``count`` is the number of workers, by default two for
    each two cores, at most 4. Verdicts are remembered. Usable from any thread.

    Raises SettingError when math-verify is not installed.
    """

    def __init__(self, deadline: float = 5.0, count: int | None = None) -> None:
        """Starts nothing yet."""
        if importlib.util.find_spec("math_verify") is None:
            raise SettingError("checker=math needs math-verify, which is not installed; pip install 'truegain[math]'")
        self.deadline = deadline
        self.count = count or min(4, os.cpu_count() or 1)
        self._lock = threading.Lock()
        self._workers: Workers | None = None
        self._known: dict[tuple[str, str], Verdict | Abstain] = {}

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict | Abstain]:
        r"""One verdict per (key, text), keys first: math-verify's comparison is not symmetric.

        A key is a bare answer. A text is one that states its answer in ``\boxed{}``, or any text of which math-verify
        takes the last expression. ``unread``: it finds none there; ``bad key``: the key is none. Abstains where the
        deadline passed, the worker died or the comparison raised.
        """
        with self._lock:
            found: dict[tuple[str, str], Verdict | Abstain] = {
                pair: self._known[pair] for pair in pairs if pair in self._known
            }
        asked: list[tuple[str, str]] = []
        for pair in dict.fromkeys(pairs):
            verdict = found.get(pair) or _plainly(*pair)
            if verdict is None:
                asked.append(pair)
            else:
                found[pair] = verdict
        new = dict(zip(asked, self._ask(asked), strict=True))
        with self._lock:
            if len(self._known) + len(new) > _REMEMBERED:
                self._known.clear()
            self._known.update(new)
        found |= new
        return [found[pair] for pair in pairs]

    def close(self) -> None:
        """End the workers; they start again when they are needed. Also happens when the object is collected."""
        with self._lock:
            workers, self._workers = self._workers, None
        if workers is not None:
            workers.close()

    def _ask(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict | Abstain]:
        if not pairs:
            return []
        with self._lock:
            if self._workers is None:
                self._workers = Workers(
                    f"{_FILE}:check", self.count, self.deadline + _GRACE, _MEMORY_MB, adapter=f"{_FILE}:ready"
                )
            workers = self._workers
        payloads = [{"key": boxed(key), "answer": text, "seconds": self.deadline} for key, text in pairs]
        verdicts: list[Verdict | Abstain] = []
        for answer in workers.map(payloads):
            verdicts.append(_verdict(answer))
        return verdicts


def _verdict(answer: Result | Abstain) -> Verdict | Abstain:
    return Abstain(f"math-verify: {answer.reason}") if isinstance(answer, Abstain) else cast(Verdict, answer.value)


def boxed(answer: str) -> str:
    r"""The answer as ``\boxed{answer}``, which math-verify reads as a whole."""
    return f"\\boxed{{{answer}}}"


def _plainly(key: str, text: str) -> Verdict | None:
    """The verdict on plain numbers, where it needs no mathematics; None for all else."""
    if len(key) > MAX_ANSWER or not text.startswith("\\boxed{") or "%" in key + text:
        return None
    answer = text[len("\\boxed{") : -1]
    lines = [line for line in answer.split("\n") if line.strip()]
    if len(lines) > 1 and all(number(line.strip()) is not None for line in lines):
        return "wrong"  # several answers; math-verify would read their product
    gold, given = number(key), number(answer)
    if gold is None or given is None:
        return None
    if gold == given:
        return "right"
    return "wrong" if _INTEGER.fullmatch(key) and _INTEGER.fullmatch(answer) else None


def stated(text: str, *, last_number: bool = False) -> str:
    r"""What of a completion goes to math-verify: ``\boxed{}`` around the answer it marks, else its tail.

    The tail is its last 2000 characters. With ``last_number`` the last number of an unmarked completion is its
    answer. An answer longer than 2000 characters is none.

    >>> stated("so <answer>1/2</answer>"), stated("it is $x$"), stated("4 or 5?", last_number=True)
    ('\\boxed{1/2}', 'it is $x$', '\\boxed{5}')
    """
    text = text.rpartition("</think>")[2]
    if last_number or marked_answer(text) is not None:
        found = final_answer(text, last_number=last_number)
        return "" if found is None else boxed(found)
    return text[-MAX_ANSWER:]
