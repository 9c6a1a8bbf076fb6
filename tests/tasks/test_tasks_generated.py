from __future__ import annotations

import json
import pickle
import random
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import pairwise, permutations, product
from pathlib import Path
from typing import Any

import pytest

from truegain.core.errors import SettingError
from truegain.core.types import SPLITS, Abstain, Environment, Problem, Rollout, Task
from truegain.tasks import (
    CHARSET,
    MARKS,
    STYLES,
    TASKS,
    Generated,
    make,
    make_one,
    policy_spans,
    token_length,
    tool_call,
)
from truegain.tasks.arithmetic import parse, value
from truegain.tasks.calculator import Calculator
from truegain.tasks.countdown import solve
from truegain.tasks.generated import RECHECK, answer_of, split_of
from truegain.train import tiny

NAMES = sorted(TASKS)
SOLVED = {"sort": ("5 3 8 1", "1 3 5 8"), "countdown": ("3 5 2 = 17", "3*5+2"), "add": ("47 85", "132")}
SOLVED |= {"chain": ("a=3 b=a+4 c=b*2", "4"), "calculator": ("12*7+5", "89")}
SOLVED |= {"program": ("3*x+4", "4+x+x+x"), "search": ("6@7 boss of friend of ken", "meg")}
SOLVED |= {"calculation": ("(3+4^2)*(7/2)", "133/2")}
WITH_TOOL = ("calculator", "search")
# The embedded model was fitted on these; the others' default levels promise nothing.
FITTED = [name for name in NAMES if name not in ("program", "search", "calculation")]


def rolled(problem: Problem, text: str) -> Rollout:
    return Rollout(problem, (), (), (), text, "stop", ())


def score(task: Generated, problem: Problem, text: str) -> dict[str, Any]:
    facts = task.score(problem, rolled(problem, text))
    assert not isinstance(facts, Abstain)
    return dict(facts)


def solved(name: str) -> tuple[Generated, Problem, str]:
    """A problem written by hand with an answer worked out by hand."""
    content, answer = SOLVED[name]
    return make_one(name), Problem("x", "", None, {"content": content, "style": "direct"}), answer


def levels(name: str) -> list[int]:
    low, high = TASKS[name].levels
    return sorted({low, low + 1, TASKS[name].default["direct"], high})


# --- problems and splits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_no_content_or_key_is_in_two_splits_over_levels_styles_and_seeds(name: str) -> None:
    seen: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for k, level in enumerate([*levels(name)[:2], TASKS[name].default["direct"]]):
            task = make_one(f"{name},level={level},style={STYLES[k % 2]},seed={k}")
            for index in range(1000):
                content = task.problem(split, index).meta["content"]
                seen[split] |= {content, task.rules.key(content)}
    assert all(len(contents) > 10 for contents in seen.values())
    assert not seen["train"] & seen["dev"]
    assert not seen["train"] & seen["test"]
    assert not seen["dev"] & seen["test"]


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_is_a_pure_function_of_task_split_and_index(name: str) -> None:
    task = make_one(name)
    first = [task.problem("train", i) for i in range(20)]
    task.problem("dev", 3)
    assert [make_one(name).problem("train", i) for i in reversed(range(20))] == first[::-1]
    assert [make_one(f"{name},seed=1").problem("train", i) for i in range(20)] != first


def test_problems_are_the_same_in_a_process_with_another_hash_seed() -> None:
    code = (
        "from truegain.tasks import make_one, TASKS\nprint([make_one(n).problem('dev', 5).id for n in sorted(TASKS)])"
    )
    ran = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": s}, capture_output=True, text=True, check=True
        )
        for s in ("1", "2")
    ]
    assert ran[0].stdout == ran[1].stdout == f"{[make_one(n).problem('dev', 5).id for n in NAMES]}\n"


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_equal_exactly_where_contents_are_and_do_not_know_the_style(name: str) -> None:
    direct = make_one(name)
    trace = make_one(f"{name},style=trace,level={direct.level}")
    pairs = [(p.id, p.meta["content"]) for p in (direct.problem("dev", i) for i in range(300))]
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(set(pairs))
    one, other = direct.problem("test", 7), trace.problem("test", 7)
    assert one.id == other.id and one.meta["content"] == other.meta["content"]
    assert other.prompt == str(one.prompt).replace("\n", " think\n")


def test_the_splits_hold_eight_one_and_one_tenth_of_the_contents() -> None:
    rules, rng = TASKS["add"], random.Random(0)
    count = Counter(split_of(rules, rules.draw(rng, 4) or "") for _ in range(10_000))
    # Standard deviations are 40 and 30 of 10000; five of them either way.
    assert abs(count["train"] - 8000) < 200 and abs(count["dev"] - 1000) < 150 and abs(count["test"] - 1000) < 150


def test_permuted_countdowns_and_commuted_sums_share_a_split() -> None:
    assert split_of(TASKS["countdown"], "7 2 9 = 18") == split_of(TASKS["countdown"], "9 7 2 = 18")
    assert TASKS["countdown"].key("7 2 9 = 18") != TASKS["countdown"].key("7 2 9 = 17")
    assert split_of(TASKS["add"], "47 85") == split_of(TASKS["add"], "85 47")
    assert split_of(TASKS["sort"], "5 3 8 1") == split_of(TASKS["sort"], "1 8 3 5")
    assert TASKS["calculator"].key("7+15") == TASKS["calculator"].key("15+7")
    assert TASKS["calculator"].key("7-15") != TASKS["calculator"].key("15-7")


@pytest.mark.parametrize("name", NAMES)
def test_a_generated_task_meets_the_protocol_and_travels_to_another_process(name: str) -> None:
    task = make(name)
    assert isinstance(task, Task) and task.name == name and task.size("train") is None
    assert pickle.loads(pickle.dumps(task)) == task
    with pytest.raises(IndexError):
        task.problem("train", -1)
    with pytest.raises(SettingError, match="did you mean 'train'"):
        task.problem("trian", 0)  # pyright: ignore[reportArgumentType]


# --- demonstrations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("style", STYLES)
def test_demonstrations_are_right_in_the_charset_and_within_the_token_bound(name: str, style: str) -> None:
    for level in levels(name):
        task = make_one(f"{name},level={level},style={style}")
        for i in range(500):
            problem = task.problem("train", i)
            text = task.demonstration(problem, random.Random(i))
            facts = score(task, problem, text)
            assert facts["correct"] == facts["answered"] == 1.0, text
            assert token_length(text) < task.max_tokens
            assert set(re.sub("|".join(MARKS), "", str(problem.prompt) + text)) <= set(CHARSET)
            assert text.startswith("<answer>" if style == "direct" else "<think>")


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_at_the_default_level_are_short(name: str) -> None:
    direct, trace = make_one(name), make_one(f"{name},style=trace")
    for i in range(300):
        assert token_length(direct.demonstration(direct.problem("train", i), random.Random(i))) <= 24
    lengths = [token_length(trace.demonstration(trace.problem("train", i), random.Random(i))) for i in range(300)]
    assert sum(lengths) / len(lengths) <= 140 and max(lengths) <= 200


@pytest.mark.parametrize("name", NAMES)
def test_some_traces_recheck_some_backtrack_and_most_do_neither(name: str) -> None:
    task = make_one(f"{name},style=trace")
    texts = [task.demonstration(task.problem("train", i), random.Random(i)) for i in range(1000)]
    checks, backs = sum("check" in text for text in texts), sum("\nno back\n" in text for text in texts)
    if name == "countdown":  # its wrong turns are the expressions that miss
        backs = sum(" no\n" in text for text in texts)
        assert 0.35 < backs / 1000 < 0.6
    else:
        assert 0.09 < backs / 1000 < 0.20
    assert 0.10 < checks / 1000 < RECHECK + 0.05
    assert sum("check" not in text and "back" not in text and " no\n" not in text for text in texts) > 300


@pytest.mark.parametrize("name", ["sort", "add", "chain"])
def test_the_line_before_a_backtrack_is_wrong_and_the_line_after_it_mends_it(name: str) -> None:
    task = make_one(f"{name},style=trace")
    seen = 0
    for i in range(300):
        text = task.demonstration(task.problem("train", i), random.Random(i))
        lines = text.removeprefix("<think>").split("</think>")[0].split("\n")
        if "no back" in lines:
            at, seen = lines.index("no back"), seen + 1
            assert lines[at - 1] != lines[at + 1]
            assert re.split("[:=]", lines[at - 1])[0] == re.split("[:=]", lines[at + 1])[0]
    assert seen > 20


def test_every_arithmetic_line_of_a_countdown_trace_is_true_and_its_verdict_too() -> None:
    task = make_one("countdown,style=trace")
    for i in range(300):
        problem = task.problem("train", i)
        target = int(problem.meta["content"].split(" = ")[1])
        for line in re.findall(
            r"^(?:<think>)?([0-9][^ ]*) (ok|no)", task.demonstration(problem, random.Random(i)), re.M
        ):
            for part in line[0].split(","):
                left, right = part.split("=")
                assert value(parse(left)) == int(right)
            assert (int(right) == target) == (line[1] == "ok")


def test_the_reference_of_a_countdown_agrees_with_exhaustive_search() -> None:
    task = make_one("countdown")
    for i in range(200):
        given, target = task.problem("test", i).meta["content"].split(" = ")
        reachable = {
            value(parse(f"({a}{p}{b}){q}{c}")) for (a, b, c), p, q in product(permutations(given.split()), "+-*", "+-*")
        }
        assert Fraction(target) in reachable
    with pytest.raises(ValueError, match="no solution"):
        solve((1, 1, 1), 50)


# --- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_right_answer_by_hand_scores_one_and_a_wrong_or_missing_one_zero(name: str) -> None:
    task, problem, right = solved(name)
    good = score(task, problem, f"<think>x\ny</think><answer> {right}\n</answer>")
    assert good["correct"] == good["answered"] == 1.0
    for wrong in (
        "7 7",
        "",
        "-1",
        "0",
        "3*5",
        right + "1",
        right + "?",
        right.translate({ord("3"): "4", ord("9"): "8", ord("4"): "5", ord("m"): "n"}),
    ):
        assert score(task, problem, f"<answer>{wrong}</answer>")["correct"] == 0.0, wrong
    assert score(task, problem, right)["answered"] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_spraying_answers_or_writing_after_one_is_not_an_answer(name: str) -> None:
    task, problem, right = solved(name)
    one = f"<answer>{right}</answer>"
    for text in (
        one + one,
        "<answer>0</answer>" + one,
        one + "<answer>0</answer>",
        one + " or so",
        one + "<think>",
        one + "</answer>",
        f"<answer><answer>{right}</answer></answer>",
        f"</answer>{right}<answer>",
        f"<answer>{right}",
        f"{right}</answer>",
        "",
    ):
        facts = score(task, problem, text)
        assert facts["correct"] == facts["answered"] == 0.0, text


@pytest.mark.parametrize(
    "end", ["", "\n", "<eos>", "</s>", "<|im_end|>\n", "<|endoftext|><|endoftext|>", "<end_of_turn>"]
)
def test_end_marks_after_the_answer_are_allowed(end: str) -> None:
    assert answer_of("<answer>132</answer>" + end) == "132"


@pytest.mark.parametrize("name", NAMES)
def test_other_digits_than_ascii_are_wrong(name: str) -> None:
    task, problem, right = solved(name)
    for zero in ("\u0660", "\uff10", "\U0001d7ce"):  # Arabic-Indic, full-width, mathematical bold
        strange = right.translate({ord("0") + d: chr(ord(zero) + d) for d in range(10)})
        assert strange != right or name == "search"  # whose answers are names
        strange = strange if strange != right else right + zero
        assert score(task, problem, f"<answer>{strange}</answer>")["correct"] == 0.0
    assert score(task, problem, f"<answer>{right}\u00b2</answer>")["correct"] == 0.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "piece", ["<answer>", "</answer>", "<tool>", "</tool>", "1+(", "9", " ", "\n", "<", "\u0661", "\x00"]
)
def test_two_million_characters_of_rubbish_are_wrong(name: str, piece: str) -> None:
    task, problem, right = solved(name)
    flood = piece * (2_000_000 // len(piece))
    for text in (flood, f"<answer>{flood}{right}</answer>", f"<answer>{right}</answer>x{flood}"):
        assert score(task, problem, text)["correct"] == 0.0


def test_a_flood_before_one_well_formed_answer_does_not_hide_it() -> None:
    task, problem, right = solved("add")
    assert score(task, problem, "1+1=3\n" * 300_000 + f"<answer>{right}</answer>")["correct"] == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_without_a_readable_content_is_abstained_on(name: str) -> None:
    for content in (None, "", "nonsense", 5, "1 +", "a=1 b=z+1", "\u0661 \u0662", "1 1 = 50"):
        problem = Problem("x", "", None, {"content": content})
        said = make_one(name).score(problem, rolled(problem, "<answer>1</answer>"))
        assert isinstance(said, Abstain), content
    assert isinstance(make_one(name).score(Problem("x", ""), rolled(Problem("x", ""), "")), Abstain)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("3*5+2", 1), ("2+5*3", 1), ("(3*5)+2", 1), (" 2 + 3 * 5 ", 1), ("((((2))))+3*5", 1), ("3/(1/5)+2", 0),
        ("17", 0), ("15+2", 0), ("3*5+2+0", 0), ("3*5+2*1", 0), ("3*5", 0), ("3*5+2=17", 0), ("1/0", 0), ("3/(5-5)", 0),
        ("(" * 199, 0), ("(" * 90 + "3*5+2" + ")" * 90, 0), ("3**5+2", 0), ("3*5+2)", 0), ("(3*5+2", 0), ("--3*5+2", 0),
        ("__import__('os')", 0), ("3*5+2\x00", 0), ("9" * 399, 0), ("+".join("3" * 150), 0), ("3e1", 0), ("3 5 2", 0),
    ],
)  # fmt: skip
def test_the_countdown_checker_takes_right_expressions_of_the_given_numbers_only(text: str, right: int) -> None:
    task, problem, _ = solved("countdown")
    assert score(task, problem, f"<answer>{text}</answer>")["correct"] == right


def test_the_countdown_checker_divides_exactly() -> None:
    # 8/(3-8/3) = 24: true in rationals, and not with integer division.
    problem = Problem("x", "", None, {"content": "8 3 8 3 = 24"})
    assert value(parse("8/(3-8/3)")) == 24
    # A left-to-right solution of + - * must exist for the key to be readable: 8*3+3-3 is none, so use 3 3 8 8 = 22.
    problem = Problem("x", "", None, {"content": "3 3 8 8 = 22"})
    assert score(make_one("countdown"), problem, "<answer>8+8+3+3</answer>")["correct"] == 1.0
    assert score(make_one("countdown"), problem, "<answer>8/(3-8/3)</answer>")["correct"] == 0.0


# --- arithmetic ----------------------------------------------------------------------------------------------------


def test_the_parser_agrees_with_python_on_random_expressions() -> None:
    rng = random.Random(3)

    def grow(depth: int) -> str:
        if depth == 0 or rng.random() < 0.3:
            return str(rng.randrange(100))
        return f"{rng.choice(('', '('))}{grow(depth - 1)}{rng.choice('+-*/')}{grow(depth - 1)}"

    checked = 0
    for _ in range(500):
        text = grow(3)
        text += ")" * text.count("(")
        try:
            ours = value(parse(text))
        except ValueError:
            continue
        # The test's own text, in Fractions so that / is exact.
        assert ours == eval(re.sub(r"([0-9]+)", r"Fraction(\1)", text), {"Fraction": Fraction})
        checked += 1
    assert checked > 300


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1+",
        "*2",
        "1 2",
        "2(3)",
        "()",
        "0x10",
        "1.5",
        "1_000",
        "9" * 13,
        "(" * 17 + "1" + ")" * 17,
        "1+" * 100 + "1",
    ],
)
def test_the_parser_refuses_what_is_not_bounded_arithmetic(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_values_are_bounded() -> None:
    with pytest.raises(ValueError, match="too large"):
        value(parse("*".join(["999999999999"] * 8)))
    with pytest.raises(ValueError, match="division by zero"):
        value(parse("1/(2-2)"))


# --- the calculator ------------------------------------------------------------------------------------------------


def test_the_calculator_world_snapshots_and_restores() -> None:
    make_world = make_one("calculator").environment()
    assert make_world is not None
    world = make_world()
    assert isinstance(world, Environment) and isinstance(world, Calculator)
    assert world.reset(prompt="calc 1+1") is None
    assert world.calculate("12*7") == "84" and world.calculate("-3*(2-4)") == "6" and world.calculate("7/2") == "7/2"
    before = world.snapshot()
    assert [call["result"] for call in before["calls"]] == ["84", "6", "7/2"]
    assert before["calls"][0] == {"name": "calculate", "parameters": {"expression": "12*7"}, "result": "84"}
    assert json.loads(json.dumps(before)) == before
    assert world.calculate("1/0") == "error division by zero"
    assert world.calculate("<answer>") == "error not arithmetic"
    assert [call["result"] for call in world.calls[3:]] == ["error division by zero", "error not arithmetic"]
    assert len(before["calls"]) == 3  # a copy
    world.restore(before)
    assert world.snapshot() == before
    other = make_world()
    other.restore(before)
    assert other.calculate("1+1") == "2" and len(other.calls) == 4 and len(world.calls) == 3
    world.reset()
    assert world.snapshot() == {"calls": []}


@pytest.mark.parametrize(
    "text", ["(" * 100_000, "9" * 1_000_000, "1/0", "", "\x00", "<result>1</result>", "9*" * 90 + "9"]
)
def test_the_calculator_answers_hostile_expressions_with_a_short_plain_text(text: str) -> None:
    said = Calculator().calculate(text)
    assert len(said) < 180 and set(said) <= set(CHARSET) - set("<>")


def test_only_a_task_with_a_tool_has_a_world_and_stops_at_a_call() -> None:
    for name in NAMES:
        task = make_one(name)
        assert (task.environment() is not None) == (name in WITH_TOOL)
        assert task.stop == (("</answer>", "</tool>") if name in WITH_TOOL else ("</answer>",))


def test_respond_runs_the_trailing_call_and_nothing_else() -> None:
    task, world = make_one("calculator"), Calculator()
    assert task.respond(world, "<think><tool>12*7</tool>") == "<result>84</result>"
    assert (
        task.respond(world, "<tool>1+1</tool><result>2</result>\n<tool>2*(3</tool>")
        == "<result>error unbalanced</result>"
    )
    assert task.respond(world, "<tool>1+1</tool><result>2</result>") is None
    assert task.respond(world, "1+1</tool>") is None
    assert task.respond(world, "<tool>1+1</tool>2+2</tool>") is None
    assert task.respond(world, "<answer>2</answer>") is None
    assert [call["result"] for call in world.calls] == ["84", "error unbalanced"]
    assert tool_call("<tool>9<tool>1+1</tool>") == "1+1"


def test_the_score_counts_calls_errors_and_their_cost_beside_the_exact_outcome() -> None:
    task, problem, _ = solved("calculator")
    text = (
        "<think><tool>12*7</tool><result>84</result>\n<tool>84+</tool><result>error not arithmetic</result>\n</think>"
    )
    facts = score(task, problem, text + "<answer>89</answer>")
    calls, final = facts.pop("calls"), facts.pop("final")
    assert facts == {"correct": 1.0, "answered": 1.0, "tool_calls": 2.0, "tool_errors": 1.0, "tool_cost": 0.1}
    assert final == "89" and calls == [
        {"name": "calculate", "parameters": {"expression": "12*7"}, "result": "84"},
        {"name": "calculate", "parameters": {"expression": "84+"}, "result": "error not arithmetic"},
    ]
    assert score(make_one("calculator,call_cost=0.5"), problem, text + "<answer>89</answer>")["tool_cost"] == 1.0
    assert score(task, problem, "<answer>89</answer>")["tool_calls"] == 0.0


def test_replaying_a_calculator_demonstration_through_the_world_gives_its_results() -> None:
    task = make_one("calculator,level=3,style=trace")
    replayed = 0
    for i in range(200):
        text, world = task.demonstration(task.problem("train", i), random.Random(i)), Calculator()
        spans = policy_spans(text)
        assert "".join(text[a:b] for a, b in spans) == re.sub(r"<result>.*?</result>", "", text)
        for (_, end), (start, _) in pairwise(spans):
            assert task.respond(world, text[:end]) == text[end:start]
            replayed += 1
    assert replayed > 100


def test_policy_spans_of_a_text_without_results_cover_it() -> None:
    assert policy_spans("abc") == [(0, 3)] and policy_spans("") == []
    assert policy_spans("<result>1</result><result>2</result>x") == [(36, 37)]


# --- specs ---------------------------------------------------------------------------------------------------------


def test_a_spec_sets_the_knobs() -> None:
    task = make_one("calculator, level=3, style=trace, seed=7, chat=true, call_cost=0.2")
    assert (task.level, task.style, task.seed, task.chat, task.call_cost) == (3, "trace", 7, True, 0.2)
    assert make_one("sort").level == TASKS["sort"].default["direct"] and make_one("calculator").call_cost == 0.05


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("srot", "did you mean 'sort'"), ("sort,levle=3", "did you mean 'level'"), ("sort,level=x", "cannot be 'x'"),
        ("sort,level=0", "from 2 to 16"), ("sort,level=17", "from 2 to 16"), ("countdown,level=99", "from 2 to 8"),
        ("sort,style=long", "direct or trace"), ("sort,call_cost=1", "unknown key"), ("sort,chat=maybe", "cannot be"),
        ("calculator,call_cost=-1", "from 0 up"), ("calculator,call_cost=nan", "from 0 up"), ("sort,", "unknown key"),
        ("", "unknown task"),
    ],
)  # fmt: skip
def test_a_bad_spec_is_refused_in_one_line_that_says_how_to_mend_it(spec: str, says: str) -> None:
    with pytest.raises(SettingError, match=says) as refused:
        make_one(spec)
    assert "\n" not in str(refused.value)


def test_a_cost_for_a_task_without_tools_is_refused() -> None:
    with pytest.raises(SettingError, match="tasks with a tool"):
        Generated(TASKS["sort"], level=4, call_cost=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_the_chat_form_asks_the_same_problem_in_one_user_message(name: str) -> None:
    plain, chat = make_one(f"{name},style=trace"), make_one(f"{name},style=trace,chat=true")
    one, other = plain.problem("test", 0), chat.problem("test", 0)
    assert one.id == other.id and one.answer == other.answer and len(other.prompt) == 1
    message = other.prompt[0]
    assert isinstance(message, dict) and message["role"] == "user"
    assert "<answer></answer>" in message["content"] and "<think></think>" in message["content"]
    assert ("<tool>" in message["content"]) == (name in WITH_TOOL)
    asked = plain.rules.shown(str(one.meta["content"]))
    assert set(re.findall(r"[0-9]+", asked)) <= set(re.findall(r"[0-9]+", message["content"]))


# --- how far a carry travels, and the default levels ----------------------------------------------------------------


def columns_passed(left: int, right: int, digits: int) -> int:
    """The longest run of columns that are handed a carry and pass it on though their digits add up to 9 only."""
    low = [(left % 10**i + right % 10**i) >= 10**i for i in range(digits)]  # whether column i is handed a carry
    nines = [left // 10**i % 10 + right // 10**i % 10 == 9 for i in range(digits)]
    runs = re.findall("1+", "".join("01"[a and b] for a, b in zip(low, nines, strict=True)))
    return max(map(len, runs), default=0)


@pytest.mark.parametrize("level", [201, 502, 705, 706, 1211])
def test_an_add_level_above_a_hundred_says_digits_and_how_far_a_carry_travels(level: int) -> None:
    digits, columns = divmod(level, 100)
    task = make_one(f"add,level={level},style=trace")
    for split in SPLITS:
        for index in range(40):
            problem = task.problem(split, index)
            left, right = map(int, str(problem.meta["content"]).split())
            assert len(str(left)) == len(str(right)) == digits
            assert columns_passed(left, right, digits) == columns
            told = task.demonstration(problem, random.Random(index))
            assert score(task, problem, told)["correct"] == 1.0 and token_length(told) < task.max_tokens


def test_an_add_level_up_to_twelve_still_asks_the_problems_it_asked_before() -> None:
    # Written down from the version before levels such as 502 came.
    assert [make_one("add,level=5").problem("dev", i).meta["content"] for i in (0, 1)] == ["37957 28478", "82089 74150"]


@pytest.mark.parametrize("level", [13, 100, 200, 202, 505, 799])
def test_an_add_level_that_is_none_is_refused_with_what_there_is(level: int) -> None:
    with pytest.raises(SettingError, match=rf"there is no level {level}; it is 1 to 12 digits, or .*such as 502"):
        make_one(f"add,level={level}").problem("train", 0)


LEARNED = sorted({name for _, mixture in tiny.PHASES for name, _ in mixture})
"""The tasks that the embedded model was fitted on; of others no accuracy is promised."""


def recorded() -> dict[str, Any]:
    """What benchmarks/bench_levels.py measured of the embedded model."""
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "levels.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", FITTED)
def test_a_default_level_is_the_recorded_one_and_meets_the_band_of_sampled_accuracy(name: str, style: str) -> None:
    spec, table = f"{name},style={style}", recorded()
    row = table["defaults"][spec]
    assert make_one(spec).level == row["level"]
    assert row["T=1"]["low"] <= 0.60 and row["T=1"]["high"] >= 0.25
    assert row["T=1"]["problems"] == 300 and table["split"] == "dev"
    beside = [other["T=1"]["mean"] for key, other in table["neighbours"].items() if key.startswith(f"{spec},")]
    assert min(abs(mean - 0.425) for mean in beside) > abs(row["T=1"]["mean"] - 0.425)


def test_the_table_of_levels_holds_every_task_the_model_was_fitted_on_and_style() -> None:
    assert set(recorded()["defaults"]) == {f"{name},style={style}" for name in FITTED for style in STYLES}
