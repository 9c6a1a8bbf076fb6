from __future__ import annotations

import contextlib
import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truegain.core.types import Abstain, Problem, Rollout
from truegain.policy.tokenizer import character_tokenizer
from truegain.rollout.batch import to_columns
from truegain.tasks import make_one
from truegain.tasks._interpreter import MAX_BITS, MAX_DEPTH, parse, run
from truegain.tasks.program import RANGES, SHOWN, passed, unit_tests


def given_by(text: str, x: int = 0) -> int:
    return run(parse(text), x)


# --- the language --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "x", "value"),
    [
        ("2*x+1", 5, 11), ("2*(x+1)", 5, 12), ("7-2-1", 0, 4), ("-x*3", 4, -12), ("7/2", 0, 3), ("(0-7)/2", 0, -4),
        ("7%4", 0, 3), ("-7%4", 0, 1), ("(0-7)%4", 0, 1), ("x<5", 4, 1), ("x>5", 5, 0), ("x=5", 5, 1),
        ("x+1<2*x", 2, 1),
        ("if(x<5,10,20)", 4, 10), ("if(x<5,10,20)", 5, 20), ("if(1,2,1/0)", 0, 2), ("max(x,3)", 2, 3),
        ("min(x,3)", 2, 2),
        ("abs(x-9)", 2, 7), ("rep(x,1,a*i)", 5, 120), ("rep(0,7,a+1)", 0, 7), ("rep(-3,7,a+1)", 0, 7),
        ("while(a<x,1,a*2)", 20, 32), ("while(i<4,0,a+i)", 0, 6), ("rep(3,0,a+rep(i,0,a+1))", 0, 6), (" 1 + 2 ", 0, 3),
    ],
)  # fmt: skip
def test_a_program_gives_what_its_text_says(text: str, x: int, value: int) -> None:
    # 5! = 120; the first power of 2 that is not below 20 is 32; 1+2+3 = 6 twice. A minus sign binds tighter than %.
    assert given_by(text, x) == value


@pytest.mark.parametrize(
    "text",
    ["", "1+", "*2", "1 2", "()", "y", "a", "i+1", "rep(a,1,2)", "rep(1,a,2)", "if(1,2)", "max(1,2,3)", "abs()", "x(1)",
     "1<2<3", "2x", "x=", "0x10", "1.5",
     "__import__('os')", "x.real", "lambda:1", "1**2", "9" * 13, "\u0661", "x\x00", "f(x)"],
)  # fmt: skip
def test_what_is_no_program_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


@given(st.text(alphabet="0123456789xai+-*/%<>=(),rep while max", max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_program_that_ends_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert run(parse(text), 3, steps=200).bit_length() <= MAX_BITS


def test_arithmetic_agrees_with_python_on_random_expressions() -> None:
    rng = random.Random(5)

    def grow(depth: int) -> str:
        if depth == 0 or rng.random() < 0.3:
            return rng.choice(("x", str(rng.randrange(1, 30))))
        return f"({grow(depth - 1)}{rng.choice('+-*')}{grow(depth - 1)})"

    for _ in range(200):
        text = grow(3)
        assert given_by(text, 7) == eval(text, {"x": 7})  # the test's own text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("while(1,0,a)", "steps"), ("rep(999999999999,0,a)", "steps"), ("rep(x*x,0,rep(x*x,0,a+1))", "steps"),
        ("rep(99,2,a*a)", "large"), ("rep(99,9,a*999999999999)", "large"), ("while(1,2,a*a)", "large"),
        ("1/0", "zero"), ("x%(x-x)", "zero"),
    ],
)  # fmt: skip
def test_a_hostile_program_ends_with_its_reason_at_once(text: str, why: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=why):
        given_by(text, 50)
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize("text", ["(" * 1000, "(" * 90 + "x" + ")" * 90, "-" * 150 + "x", "abs(" * 40 + "x" + ")" * 40])
def test_deep_nesting_and_long_texts_are_refused_before_they_are_run(text: str) -> None:
    with pytest.raises(ValueError, match=r"too (deep|long)"):
        parse(text)


def test_the_deepest_and_longest_legal_programs_run() -> None:
    assert given_by("(" * MAX_DEPTH + "x" + ")" * MAX_DEPTH, 3) == 3
    assert given_by("x" + "+1" * 99, 0) == 99


def test_steps_and_bits_are_counted() -> None:
    # 1+1 is three steps: the operator and its two numbers.
    assert run(parse("1+1"), 0, steps=3) == 2
    with pytest.raises(ValueError, match="steps"):
        run(parse("1+1"), 0, steps=2)
    assert run(parse("2*2"), 0, bits=3) == 4
    with pytest.raises(ValueError, match="large"):
        run(parse("2*2"), 0, bits=2)


# --- the task ------------------------------------------------------------------------------------------------------


def score(content: str, text: str) -> dict[str, object]:
    problem = Problem("p", "", None, {"content": content})
    facts = make_one("program").score(problem, Rollout(problem, (), (), (), text, "stop", ()))
    assert not isinstance(facts, Abstain)
    return dict(facts)


def test_the_tests_of_a_program_are_six_inputs_that_grow_with_its_outputs() -> None:
    tests = unit_tests("2*x+1")
    assert [x for x, _ in tests] == sorted(x for x, _ in tests) and len(tests) == len(RANGES) == 6
    assert all(y == 2 * x + 1 for x, y in tests) and all(
        a <= x <= b for (x, _), (a, b) in zip(tests, RANGES, strict=True)
    )


def test_the_prompt_shows_four_tests_and_hides_two() -> None:
    problem = make_one("program").problem("train", 0)
    tests = unit_tests(str(problem.meta["content"]))
    shown = str(problem.prompt).split()[1:]
    assert shown == [f"{tests[n][0]}:{tests[n][1]}" for n in SHOWN] and len(shown) == 4


def test_a_partly_right_program_passes_the_tests_it_passes() -> None:
    # x*x is 2*x at 0 and 2 alone; the inputs beside 0, 1 and 2..4 are 5 and more.
    tests = unit_tests("2*x")
    assert passed("2*x", "x*x") == [float(x in (0, 2)) for x, _ in tests]
    # Right below 5, wrong from there: the three easy tests.
    facts = score("2*x", "<answer>if(x<5,x+x,0)</answer>")
    assert facts == {"correct": 0.0, "answered": 1.0, "test_pass": [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]}
    assert score("2*x", "<answer>x+x</answer>") == {"correct": 1.0, "answered": 1.0, "test_pass": [1.0] * 6}


@pytest.mark.parametrize("text", ["", "<answer>2*</answer>", "<answer>while(1,0,a)</answer>", "2*x"])
def test_no_program_and_a_program_that_fails_pass_no_test(text: str) -> None:
    facts = score("2*x", text)
    assert facts["test_pass"] == [0.0] * 6 and facts["correct"] == 0.0


def test_a_program_that_fails_on_some_inputs_passes_the_others() -> None:
    assert passed("7*x", "if(x>9,1/0,7*x)") == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]


def test_programs_that_do_the_same_share_a_split() -> None:
    rules = make_one("program").rules
    assert rules.key("2*x+3") == rules.key("3+x+x") != rules.key("2*x+4")


@pytest.mark.parametrize("level", range(1, 6))
def test_higher_levels_need_more_of_the_language(level: int) -> None:
    task = make_one(f"program,level={level}")
    contents = [str(task.problem("train", i).meta["content"]) for i in range(100)]
    marks = Counter(mark for text in contents for mark in ("if", "rep", "max", "min") if mark in text)
    branch, loop = sum(marks[m] for m in ("if", "max", "min")), marks["rep"]
    assert (branch > 0) == (level in (3, 5)) and (loop > 0) == (level >= 4)


def test_the_embedded_tokenizer_writes_every_prompt_and_program_one_token_a_character() -> None:
    tokenizer = character_tokenizer()
    for level in range(1, 6):
        task = make_one(f"program,level={level},style=trace")
        for i in range(50):
            problem = task.problem("dev", i)
            text = str(problem.prompt) + task.demonstration(problem, random.Random(i))
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


def test_test_results_become_a_column() -> None:
    task = make_one("program")
    rows = []
    for i, text in enumerate(("<answer>x</answer>", "nothing")):
        problem = task.problem("train", i)
        row = Rollout(problem, (1,), (5,), (0.0,), text, "stop", ())
        facts = task.score(problem, row)
        assert not isinstance(facts, Abstain)
        rows.append(Rollout(problem, (1,), (5,), (0.0,), text, "stop", (), facts=facts))
    column = to_columns(rows)["test_pass"]
    assert column.shape == (2, 6) and not column[1].any() and "test_pass" in task.supplies
