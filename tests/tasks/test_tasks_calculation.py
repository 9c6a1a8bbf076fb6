"""Random expressions: values against Python's own arithmetic, partial credit, and problems that never repeat."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.types import Rollout
from truegain.tasks import make_one
from truegain.tasks.calculation import BOUND, MAX_LEVEL, partial_credit

NUMBERS = st.fractions(-1000, 1000, max_denominator=50)


@pytest.mark.parametrize("level", [1, 2, 5, MAX_LEVEL])
def test_every_expression_means_its_answer_in_pythons_own_arithmetic(level: int) -> None:
    task = make_one(f"calculation,level={level}")
    for i in range(200):
        problem = task.problem("train", i)
        content = str(problem.meta["content"])
        mine = eval(re.sub(r"\d+", r"Fraction(\g<0>)", content.replace("^", "**")), {"Fraction": Fraction})
        assert Fraction(str(problem.answer)) == mine
        assert abs(mine.numerator) <= BOUND and mine.denominator <= BOUND
        # A fraction such as (3/4) is a number, not an operation.
        atoms = re.sub(r"\(\d/\d\)", "1", content)
        assert len(re.findall(r"[-+*/]", atoms)) <= level <= len(re.findall(r"[-+*/]", content))


def test_expressions_hardly_ever_repeat_and_never_over_splits() -> None:
    task = make_one("calculation,level=5")
    seen = {split: [str(task.problem(split, i).prompt) for i in range(500)] for split in ("train", "test")}  # pyright: ignore[reportArgumentType]
    assert len(set(seen["train"])) == len(seen["train"]) and not set(seen["train"]) & set(seen["test"])


def test_partial_credit_by_hand() -> None:
    # b = 10: 10.5 is 1 - .5 * .5 - .5 * .05 = .725; 9 is 1 - .5 - .05 = .45; 0 is 1 - .5 - .5 = 0.
    for given_, wanted in (("10", 1.0), ("21/2", 0.725), ("9", 0.45), ("0", 0.0)):
        assert partial_credit(Fraction(given_), Fraction(10)) == pytest.approx(wanted, abs=1e-6)


@given(a=NUMBERS, b=NUMBERS, more=st.fractions(Fraction(1, 100), 5, max_denominator=100))
def test_credit_is_whole_only_for_the_answer_and_falls_with_the_distance(
    a: Fraction, b: Fraction, more: Fraction
) -> None:
    assert 0 <= partial_credit(a, b) <= 1 and (partial_credit(a, b) == 1) == (a == b)
    farther = a + more if a >= b else a - more
    assert partial_credit(farther, b) <= partial_credit(a, b)


@pytest.mark.parametrize(
    ("text", "correct", "score"),
    [
        ("<answer>133/2</answer>", 1.0, 1.0),
        ("<answer>66.5</answer>", 1.0, 1.0),
        ("<answer>67</answer>", 0.0, 1 - 0.25 - 0.25 / 66.5),
        ("<answer>x</answer>", 0.0, 0.0),
        ("<answer>1e999</answer>", 0.0, 0.0),
        ("<answer>1/0</answer>", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_answers_are_numbers_and_anything_else_earns_nothing(text: str, correct: float, score: float) -> None:
    task = make_one("calculation")
    problem = task.problem("train", 0)
    fixed = problem.__class__("x", "", None, {**problem.meta, "content": "(3+4^2)*(7/2)"})
    facts = task.score(fixed, Rollout(fixed, (), (), (), text, "eos", ()))
    assert facts["correct"] == correct and facts["score"] == pytest.approx(score, abs=1e-6)  # pyright: ignore[reportIndexIssue]
