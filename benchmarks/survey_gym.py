"""Which datasets of reasoning-gym can be trusted: every one is asked for problems, and its scorer about answers.

    python benchmarks/survey_gym.py [--only NAME ...] [--dry]

A dataset is defective when one of these holds for three problems of train and three of dev:

- it cannot be made, or a problem takes more than `MAKING` seconds;
- a second process makes other problems of the same numbers;
- its own answer (or the example of one in its metadata) does not score 1;
- junk scores 1: empty, a letter, a wrong number, long random text, the question itself, the answer to another of its
  problems; or a trick that is known to work;
- its scorer raises, or takes longer than the deadline, on any of that: a policy could hide its wrong answers there;
- an answer is run as code: it makes a file.

The result is src/truegain/tasks/gym_datasets.json: the package's version, the usable names, and the defective ones
with the reason. Takes about three minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import string
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from truegain.core.errors import TruegainError
from truegain.core.types import Abstain, Problem, Rollout
from truegain.tasks import gym
from truegain.tasks._answers import same

DEADLINE = 5.0
LOST = "it combines the others; join tasks with + instead"
_LETTERS = random.Random(0)
JUNK: tuple[str, ...] = (
    *("", "x", "a", "A", "0", "-1", "7", "12345", "0.5", "1/0", "nan", "inf", "True", "False", "yes", "no", "None"),
    *("[]", "{}", "()", "[1]", "[[1, 2], [3, 4]]", '{"a": 1}', '{"a": {"b": []}}', "answer", "1 2 3", "1, 2", "a, b"),
    *("...", "?", "\N{SNOWMAN}", "\x00", "\n\n", "x = 1", "P or not P", "9**9**9**9**9", "10**10**10"),
    "".join(_LETTERS.choices(string.ascii_lowercase + " ", k=300)),
    "".join(_LETTERS.choices(string.printable, k=gym.MAX_ANSWER)).replace("<", " "),
    "1" + "".join(_LETTERS.choices(string.digits, k=gym.MAX_ANSWER - 1)),
    "(" * 3000 + "1" + ")" * 3000,
    "[" * 3000 + "]" * 3000,
    "1 " * (gym.MAX_ANSWER // 2),
    "x+" * (gym.MAX_ANSWER // 2 - 1) + "x",
)
CODE = ("open({0!r}, 'w')", "[open({0!r}, 'w')]", "__import__('os').mkdir({0!r})")
TRICKS = {"puzzle24": ("6*4*1*1", "8*3*1*1"), "propositional_logic": ("(P \N{LOGICAL OR} Q)",)}
"""Answers that work for most problems, other numbers than the given ones and a weak disjunction."""
SHARED = frozenset({"graph_color", "n_queens", "time_intervals"})
"""Datasets in which the answer to one problem can be right for another: many colourings, boards, ways to write days."""


def problems(task: gym.Gym) -> list[Problem]:
    """Three of train and three of dev."""
    return [task.problem(split, index) for split in ("train", "dev") for index in range(3)]


def asked(task: gym.Gym, problem: Problem, answer: str) -> float | Abstain:
    """The score of a completion that gives this answer."""
    found = task.score(problem, Rollout(problem, (), (), (), f"<answer>{answer}</answer>", "stop", ()))
    return found if isinstance(found, Abstain) else float(found["score"])


def defect(task: gym.Gym, given: Sequence[Problem], canary: Path) -> str | None:
    """The first thing that is wrong with a dataset's scorer, or None."""
    for problem in given:
        if problem.answer is None:
            return "it gives no right answer, so nothing shows that its scorer accepts one"
        own = asked(task, problem, problem.answer)
        if isinstance(own, Abstain):
            return f"its scorer fails on its own answer ({_why(own)})"
        if own < 1 - gym.EXACT:
            return f"its scorer gives its own answer {own:g}"
    code = [
        form.format(str(canary)) for form in ("open({0!r}, 'w')", "[open({0!r}, 'w')]", "__import__('os').mkdir({0!r})")
    ]
    others = [other.answer for other in given if other.answer and task.dataset not in SHARED]
    for problem in given:
        for answer in (*TRICKS.get(task.dataset, ()), *others, *JUNK, *code, _question(problem)):
            if _equal(answer, str(problem.answer)):
                continue
            said = asked(task, problem, answer)
            if canary.exists():
                return "its scorer runs the answer as code"
            if isinstance(said, Abstain):
                return f"its scorer fails on {_short(repr(answer))} ({_why(said)})"
            if said >= 1 - gym.EXACT:
                of = "the answer to another of its problems, " if answer in others else ""
                return f"its scorer gives 1 to {of}{_short(repr(answer))} where {_short(repr(problem.answer))} is right"
    return None


def _why(refusal: Abstain) -> str:
    """An abstention's reason without the task's name and the worker's line."""
    return _short(re.sub(r"^gym:\w+: (_gym_worker\.py:\d+: )?", "", refusal.reason), 120)


def _question(problem: Problem) -> str:
    content = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[0]["content"]
    return content.replace("<answer></answer>", "tags")


def _equal(left: str, right: str) -> bool:
    """The same answer but for case, spaces, quotes and brackets, or as a number."""
    bare = [" ".join(text.casefold().replace(",", " ").split()).strip("\"'[]() ") for text in (left, right)]
    return bare[0] == bare[1] or same(left, right)


def _short(text: str, limit: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def survey(names: Sequence[str]) -> dict[str, str]:
    """Name to reason for every defective dataset among ``names``."""
    found: dict[str, str] = {}
    first: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            canary = Path(folder, name)
            try:
                task = gym.Gym(name, unsafe=True, deadline=DEADLINE)
                given = problems(task)
                first[name] = [problem.id for problem in given]
                reason = defect(task, given, canary)
            except TruegainError as error:
                reason = LOST if name == "composite" else str(error)
            print(f"{name:28} {reason or 'usable'}", flush=True)
            found |= {name: reason} if reason else {}
    gym._pool.cache_clear()  # a second process
    for name in first:
        if [problem.id for problem in problems(gym.Gym(name, unsafe=True))] != first[name]:
            reason = "its problems differ from process to process, unless PYTHONHASHSEED is set"
            print(f"{name:28} {reason}", flush=True)
            found[name] = reason
    return found


def main() -> None:
    """Survey all datasets and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="these datasets alone; nothing is written")
    options = parser.parse_args()
    from reasoning_gym.factory import DATASETS

    names = options.only or sorted(DATASETS)
    found = survey(names)
    if options.only:
        return
    usable = [name for name in names if name not in found]
    table = {"reasoning_gym": version("reasoning_gym"), "defective": dict(sorted(found.items())), "usable": usable}
    gym._TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(usable)} usable, {len(found)} defective", flush=True)


if __name__ == "__main__":
    os.environ.pop("PYTHONHASHSEED", None)
    main()
