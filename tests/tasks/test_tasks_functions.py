"""TRL-style reward functions: a number or an abstention with its reason per row, whatever the function does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from truegain.core.errors import RunError, SettingError, WiringError
from truegain.core.types import Abstain, Problem, Rollout, Turn
from truegain.tasks.functions import RewardFunction, RewardSpec, columns_of, reward_spec, without_end_marks

REWARDS = """
import math, os, time
from decimal import Decimal
from fractions import Fraction

class Array:  # as numpy and torch show themselves
    def __init__(self, values): self.values = values
    def tolist(self): return self.values

def length(completions, **columns):
    return [float(len(text)) for text in completions]

def exact(completions, answer):
    return [float(text == gold) for text, gold in zip(completions, answer)]

def chat(prompts, completions, **kwargs):
    return [len(p[-1]["content"]) + len(c[0]["content"]) * 100 for p, c in zip(prompts, completions)]

def everything(prompts, completions, completion_ids, solution, level, trainer_state, log_metric, log_extra, **rest):
    assert trainer_state is None
    assert sorted(rest) == ["answer", "mixed"], sorted(rest)
    log_metric("depth", 1.0)
    log_metric("depth", 2.0)
    log_extra("seen", completions)
    return [len(ids) + lv + int(s) for ids, lv, s in zip(completion_ids, level, solution)]

async def awaited(completions, **kwargs):
    return [1.5] * len(completions)

def array(completions, **kwargs):
    return Array([0.5] * len(completions))

def raises(completions, **kwargs):
    raise KeyError("no such thing")

def short(completions, **kwargs):
    return [1.0]

def scalar(completions, **kwargs):
    return 1.0

def nothing(completions, **kwargs):
    print("no return")

def rows(completions, **kwargs):
    values = {"none": None, "nan": math.nan, "inf": -math.inf, "text": "1.0", "list": [1.0], "huge": 10**400,
              "true": True, "int": 3, "decimal": Decimal("0.25"), "fraction": Fraction(1, 2), "complex": 1j,
              "object": object()}
    return [values[text] for text in completions]

def slow(completions, **kwargs):
    while "wait" in completions:
        time.sleep(1)
    return [1.0] * len(completions)

def dies(completions, **kwargs):
    os._exit(9)

def picky(completions, soluton):
    return [0.0] * len(completions)

def positional(completions, /, answer):
    return [0.0] * len(completions)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards")
    (path / "rewards.py").write_text(REWARDS)
    return path


def rollout(text: str, problem: Problem | None = None) -> Rollout:
    ids = tuple(range(len(text)))
    problem = problem or Problem("p", "say it", "4")
    return Rollout(problem, (1,), ids, (0.0,) * len(ids), text, "eos", (Turn("policy", 0, len(ids)),))


def scores(path: str, *texts: str, problem: Problem | None = None, deadline: float = 10.0) -> list[float | Abstain]:
    rollouts = [rollout(text, problem) for text in texts]
    with RewardFunction(path, deadline) as function:
        return function.score([r.problem for r in rollouts], rollouts)


def test_a_function_gets_completions_and_gives_numbers(folder: Path) -> None:
    assert scores(f"{folder}/rewards.py:length", "abc", "", "x") == [3.0, 0.0, 1.0]


def test_a_function_without_keyword_catch_all_is_given_what_it_names(folder: Path) -> None:
    assert scores(f"{folder}/rewards.py:exact", "4", "5") == [1.0, 0.0]


def test_an_importable_function_is_found_by_either_dotted_form(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    assert scores("rewards:length", "ab") == scores("rewards.length", "ab") == [2.0]


def test_a_function_in_the_current_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert scores("rewards:length", "ab") == scores("rewards.py:length", "ab") == [2.0]


def test_conversations_arrive_as_messages(folder: Path) -> None:
    problem = Problem("p", ({"role": "system", "content": "s"}, {"role": "user", "content": "four"}), "4")
    # 4 characters asked, 2 answered, once the end mark is gone
    assert scores(f"{folder}/rewards.py:chat", "ab<|im_end|>", problem=problem) == [204.0]


def test_every_dataset_column_and_the_logging_hooks_are_given(folder: Path) -> None:
    problems = [Problem("a", "x", "7", {"level": 10, "mixed": 1}), Problem("b", "y", "8", {"level": 20})]
    with RewardFunction(f"{folder}/rewards.py:everything") as function:
        # completion ids 3 and 2, levels 10 and 20, answers 7 and 8 offered as solution
        assert function.score(problems, [rollout("abc"), rollout("de")]) == [20.0, 30.0]
        assert function.metrics == {"depth": 1.5}
        assert function.extra == {"seen": ["abc", "de"]}


def test_columns_are_lists_with_one_entry_per_rollout_and_none_where_a_row_has_none() -> None:
    problems = [Problem("a", "x", "7", {"level": 1, "prompt": "raw", "solution": "long"}), Problem("b", "y")]
    assert columns_of(problems, [rollout("t<eos>"), rollout("u")]) == {
        "level": [1, None],
        "answer": ["7", None],
        "solution": ["long", None],
        "prompts": ["x", "y"],
        "completions": ["t", "u"],
        "completion_ids": [[0, 1, 2, 3, 4, 5], [0]],
    }


@pytest.mark.parametrize(("name", "value"), [("awaited", 1.5), ("array", 0.5)])
def test_coroutines_and_arrays_are_taken(folder: Path, name: str, value: float) -> None:
    assert scores(f"{folder}/rewards.py:{name}", "a", "b") == [value, value]


def test_a_function_that_raises_makes_every_row_abstain_with_the_reason(folder: Path) -> None:
    assert (
        scores(f"{folder}/rewards.py:raises", "a", "b")
        == [Abstain("raises: rewards.py:34: KeyError: 'no such thing'")] * 2
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("inner", "errors.py:5: ValueError: no number in 'a'"),  # the innermost line in the file, below it is json's
        ("wrapped", "errors.py:5: ValueError: no number in 'a'"),
        ("bound", "errors.py:5: ValueError: no number in 'a'"),
        ("Judge.score", "errors.py:5: ValueError: no number in 'a'"),
        ("helped", "errors.py:24: JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        ("late", "errors.py:28: ZeroDivisionError: division by zero"),
        ("loud", f"errors.py:31: ValueError: {'x ' * 1000}"[: len("errors.py:31: ") + 500]),
        ("biggest", "TypeError: max expected at least 1 argument, got 0"),  # written in no file
    ],
)
def test_an_error_is_told_with_the_line_of_the_functions_own_file(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "errors.py").write_text(
        "import functools, json\n"
        "\n"
        "def number(text):\n"
        "    if text == 'a':\n"
        "        raise ValueError('no number\\n in ' + repr(text))\n"
        "\n"
        "def inner(completions, **kwargs):\n"
        "    return [number(text) for text in completions]\n"
        "\n"
        "@functools.wraps(inner)\n"
        "def wrapped(*args, **kwargs):\n"
        "    return inner(*args, **kwargs)\n"
        "\n"
        "bound = functools.partial(inner, x=1)\n"
        "\n"
        "class Judge:\n"
        "    def __call__(self, completions, **kwargs):\n"
        "        return inner(completions)\n"
        "\n"
        "Judge.score = Judge()\n"
        "biggest = max\n"
        "\n"
        "def helped(completions, **kwargs):\n"
        "    return [json.loads(text) for text in completions]\n"
        "\n"
        "async def late(completions, **kwargs):\n"
        "    'Awaited by the adapter, and still told with its line.'\n"
        "    return [1 / 0]\n"
        "\n"
        "def loud(completions, **kwargs):\n"
        "    raise ValueError('x\\n' * 1000)\n"
    )
    (found,) = scores(f"{tmp_path}/errors.py:{name}", "a")
    assert found == Abstain(f"{name.rpartition('.')[2]}: {reason}")


def test_a_reward_is_asked_for_with_a_weight_and_a_deadline() -> None:
    assert reward_spec("a.b:f") == RewardSpec("a.b:f", 1.0, 30.0)
    assert reward_spec("a=b/r.py:f=-2") == RewardSpec("a=b/r.py:f", -2.0, 30.0)
    assert reward_spec("r.py:f,deadline=90") == RewardSpec("r.py:f", 1.0, 90.0)
    assert reward_spec("r.py:f=0.5, deadline=0.1") == RewardSpec("r.py:f", 0.5, 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r.py:f=x", "the weight after '=' must be a finite number, not 'x'"),
        ("r.py:f=nan", "must be a finite number, not 'nan'"),
        ("r.py:f,deadline=soon", "deadline must be a finite number, not 'soon'"),
        ("r.py:f,deadline=0", "deadline must be above 0 seconds, not '0'"),
        ("r.py:f,deadlin=3", "unknown setting 'deadlin'; write path:fn=WEIGHT,deadline=SECONDS"),
    ],
)
def test_a_reward_that_is_asked_for_wrongly_is_one_line(text: str, message: str) -> None:
    with pytest.raises(SettingError) as error:
        reward_spec(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_function_that_kills_its_process_makes_every_row_abstain(folder: Path) -> None:
    assert scores(f"{folder}/rewards.py:dies", "a", "b") == [Abstain("dies: worker died (exit code 9)")] * 2


def test_a_function_that_never_returns_abstains_and_serves_the_next_batch(folder: Path) -> None:
    with RewardFunction(f"{folder}/rewards.py:slow", deadline=0.5) as function:
        problem = Problem("p", "x")
        began = time.monotonic()
        assert (
            function.score([problem] * 2, [rollout("wait"), rollout("b")])
            == [Abstain(f"slow: no answer within 0.5 s; {folder}/rewards.py:slow,deadline=SECONDS allows more")] * 2
        )
        assert time.monotonic() - began < 10
        assert function.score([problem], [rollout("go")]) == [1.0]


def test_rows_without_a_finite_number_abstain_alone(folder: Path) -> None:
    texts = ["none", "nan", "inf", "huge", "text", "list", "complex", "object", "true", "int", "decimal", "fraction"]
    assert scores(f"{folder}/rewards.py:rows", *texts) == [
        Abstain("rows: returned None"),
        Abstain("rows: returned nan"),
        Abstain("rows: returned -inf"),
        Abstain("rows: returned inf"),
        Abstain("rows: returned a str, not a number"),
        Abstain("rows: returned a list, not a number"),
        Abstain("rows: returned a complex, not a number"),
        Abstain("rows: returned a object, not a number"),
        1.0,
        3.0,
        0.25,
        0.5,
    ]


@pytest.mark.parametrize(
    ("name", "returned"),
    [
        ("short", "returned 1 rewards for 3 completions"),
        ("scalar", "returned a float"),
        ("nothing", "returned None"),
    ],
)
def test_a_wrong_length_stops_the_run_and_names_function_and_counts(folder: Path, name: str, returned: str) -> None:
    with pytest.raises(RunError) as error:
        scores(f"{folder}/rewards.py:{name}", "a", "b", "c")
    assert f"rewards.py:{name}'" in str(error.value) and returned in str(error.value)
    assert "3 completions" in str(error.value) and "\n" not in str(error.value)


def test_a_required_column_that_is_not_there_is_named_with_the_nearest(folder: Path) -> None:
    with pytest.raises(WiringError, match=r"needs the column 'soluton' \(did you mean 'solution'\?\); the data offers"):
        scores(f"{folder}/rewards.py:picky", "a")


def test_a_function_that_wants_positional_arguments_abstains_with_the_reason(folder: Path) -> None:
    (answer,) = scores(f"{folder}/rewards.py:positional", "a")
    assert isinstance(answer, Abstain) and "positional" in answer.reason


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{folder}/rewards.py:lenght", "has no function 'lenght' (did you mean 'length'?)"),
        ("{folder}/reward.py:length", "(did you mean 'rewards.py'?)"),
        ("nowhere_at_all.rewards:length", "no module 'nowhere_at_all'"),
        ("length", "'length' names no function"),
    ],
)
def test_a_function_that_is_not_found_is_one_line(folder: Path, path: str, message: str) -> None:
    with pytest.raises(SettingError) as error:
        RewardFunction(path.format(folder=folder))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_rollouts_give_no_scores(folder: Path) -> None:
    assert scores(f"{folder}/rewards.py:dies") == []


def test_values_that_json_cannot_hold_reach_the_function_as_text(folder: Path) -> None:
    problem = Problem("p", "x", "4", {"when": {1}, "pair": (1, 2), 3: "odd key"})  # pyright: ignore[reportArgumentType]
    assert scores(f"{folder}/rewards.py:length", "ab", problem=problem) == [2.0]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a b \n", "a b \n"),
        ("a \n<eos>", "a \n"),
        ("4<|im_end|>\n<|endoftext|> ", "4"),
        ("<eos> is a mark", "<eos> is a mark"),
        ("<answer>4</answer></s>", "<answer>4</answer>"),
        ("x" + "<pad>" * 5000, "x"),
        ("", ""),
        ("<eos>", ""),
    ],
)
def test_only_marks_at_the_end_are_dropped(text: str, kept: str) -> None:
    assert without_end_marks(text) == kept
