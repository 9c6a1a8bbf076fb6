"""One reward in three signatures: each host is told of an abstention in its own way, and never gets a silent 0."""

from __future__ import annotations

import asyncio
import importlib
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from truegain.core.errors import RunError, SettingError, WiringError
from truegain.core.types import Abstain, Problem
from truegain.hosts.data import problems_of, record_of, trl_rows, verl_rows
from truegain.hosts.rewards import ABSTAINED, Abstained, Reward

REWARDS = """
import os, time

def contains(completions, answer, **columns):
    return [float(a in c) for a, c in zip(answer, completions)]

def logs(prompts, completions, completion_ids, level, log_metric, log_extra, **rest):
    log_metric("depth", 1.0)
    log_metric("depth", 3.0)
    log_extra("seen", completions)
    return [float(lv + len(ids)) for lv, ids in zip(level, completion_ids)]

def odd(completions, **columns):
    given = {"none": None, "nan": float("nan"), "text": "1", "one": 1}
    return [given[text] for text in completions]

def short(completions, **columns):
    return [1.0]

def picky(completions, soluton):
    return [1.0] * len(completions)

def nested(completions, tests, **columns):
    return [float(len(t["cases"])) for t in tests]

def compute_score(data_source, solution_str, ground_truth, extra_info=None, scale=1.0):
    if solution_str == "raise":
        raise ValueError("no " + data_source)
    if solution_str == "wait":
        time.sleep(60)
    if solution_str == "die":
        os._exit(7)
    return {"score": scale * (solution_str == ground_truth) + extra_info["index"], "acc": 1.0}

def neither(text):
    return 1.0

def who(completions, **columns):
    time.sleep(1.0)
    return [float(os.getpid())] * len(completions)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("rewards") / "my_rewards.py"
    file.write_text(REWARDS)
    return str(file)


@pytest.fixture(scope="module")
def of(path: str) -> Iterator[Callable[..., Reward]]:
    """Makes a reward of that file, each once."""
    known: dict[Any, Reward] = {}

    def made(name: str, **knobs: Any) -> Reward:
        key = (name, *sorted(knobs.items()))
        return known.setdefault(key, known.get(key) or Reward.of(f"{path}:{name}", **knobs))

    yield made
    for reward in known.values():
        reward.close()


@pytest.fixture(scope="module")
def sort() -> Iterator[Reward]:
    reward = Reward.of("sort,level=4", workers=1)
    yield reward
    reward.close()


PROBLEMS = problems_of("sort,level=4", "train", 4)
RIGHT = [f"<answer>{problem.answer}</answer>" for problem in PROBLEMS]


def columns(problems: list[Problem]) -> dict[str, list[Any]]:
    """What TRL hands over of a converted data set."""
    rows = trl_rows(problems).rows
    found = {name: [row[name] for row in rows] for name in rows[0]}
    return {"prompts": found.pop("prompt"), "completion_ids": [[1, 2]] * len(rows), **found}


def test_a_tasks_checker_judges_a_batch_of_trls(sort: Reward) -> None:
    logged: dict[str, float] = {}
    texts = [RIGHT[0], RIGHT[1] + "<eos>", "<answer>no</answer>", ""]
    trl = sort.as_trl()
    given = trl(completions=texts, **columns(PROBLEMS), trainer_state=object(), log_metric=logged.__setitem__)
    assert given == [1.0, 1.0, 0.0, 0.0]
    assert logged == {"truegain/abstained/sort": 0.0}
    assert trl.__name__ == "sort"


def test_a_tasks_checker_judges_a_sample_of_verls(sort: Reward) -> None:
    verl = sort.as_verl(abstained=0.0)
    for row, text, value in zip(verl_rows(PROBLEMS).rows, [RIGHT[0], "x", "", RIGHT[0]], [1, 0, 0, 0], strict=True):
        judged = row["reward_model"]["ground_truth"], row["extra_info"]
        assert verl(row["data_source"], text, *judged, reward_router_address=None) == {"score": value, ABSTAINED: 0.0}
    assert verl.__name__ == "sort"


def test_it_travels_by_pickle_and_judges_there_with_workers_of_its_own(sort: Reward) -> None:
    again = pickle.loads(pickle.dumps(sort.as_trl()))
    assert again == sort.as_trl()
    assert again.reward is not sort
    assert again(completions=RIGHT, **columns(PROBLEMS)) == [1.0] * 4
    again.reward.close()


def test_generated_problems_are_told_by_their_own_columns_without_a_record(sort: Reward) -> None:
    given = columns(PROBLEMS)
    del given["truegain"]
    assert sort.as_trl()(completions=RIGHT, **given) == [1.0] * 4


@pytest.mark.parametrize("host", ["trl", "verl", "verifiers"])
def test_data_that_a_task_cannot_judge_is_refused_by_the_column(sort: Reward, host: str) -> None:
    with pytest.raises(WiringError, match=r"reward 'sort,level=4' needs the column 'content'.*`truegain convert`"):
        if host == "trl":
            sort.as_trl()(prompts=["x"], completions=["y"], answer=["1"])
        elif host == "verl":
            sort.as_verl(abstained=0.0)("x", "y", "1", {"index": 0})
        else:
            asyncio.run(sort.as_verifiers()(trace("y"), task(prompt="x", answer="1")))


def test_a_trl_function_is_called_once_a_batch_with_its_columns(of: Callable[..., Reward]) -> None:
    logged: dict[str, Any] = {}
    tell = {"log_metric": logged.__setitem__, "log_extra": logged.__setitem__}
    assert of("logs").as_trl()(completions=["a", "b", "c", "d"], **columns(PROBLEMS), **tell) == [6.0] * 4
    assert logged == {"depth": 2.0, "truegain/abstained/logs": 0.0, "seen": ["a", "b", "c", "d"]}


def test_a_trl_function_is_given_columns_that_only_the_record_holds(of: Callable[..., Reward]) -> None:
    rows = [Problem(str(n), "x", "1", {"tests": {"cases": [0] * n}}) for n in range(3)]
    assert of("nested").as_trl()(completions=["a"] * 3, **columns(rows)) == [0.0, 1.0, 2.0]


def test_a_trl_function_serves_verl(of: Callable[..., Reward]) -> None:
    assert of("contains").as_verl(abstained=0.0)("any", "I get 7", "7", {}) == {"score": 1.0, ABSTAINED: 0.0}


def test_a_verl_function_serves_trl(of: Callable[..., Reward]) -> None:
    trl = of("compute_score").as_trl()
    rows = {"prompts": ["p", "q"], "completions": ["7", "8"], "answer": ["7", "7"], "index": [10, 20]}
    assert trl(**rows) == [11.0, 20.0]


def test_a_verl_function_is_handed_what_verl_hands_over(of: Callable[..., Reward]) -> None:
    verl = of("compute_score").as_verl(abstained=0.0)
    assert verl("x", "7", "7", {"index": 2}, scale=5.0, tokenizer=object()) == {"score": 7.0, ABSTAINED: 0.0}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise", r"compute_score: my_rewards.py:\d+: ValueError: no data"),
        ("wait", "compute_score: no answer within 0.5 s"),
        ("die", r"compute_score: worker died \(exit code 7\)"),
    ],
)
def test_what_fails_is_an_abstention_with_its_reason_in_every_host(
    of: Callable[..., Reward], caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    reward = of("compute_score", deadline=0.5)
    logged: dict[str, float] = {}
    rows = {"prompts": ["p", "q"], "answer": ["7", "7"], "index": [0, 0], "data_source": ["data", "data"]}
    given = reward.as_trl()(completions=[text, "7"], **rows, log_metric=logged.__setitem__)
    assert given == [None, 1.0]
    assert logged == {"truegain/abstained/compute_score": 0.5}
    assert reward.as_verl(abstained=0.0)("data", text, "7", {"index": 0}) == {"score": 0.0, ABSTAINED: 1.0}
    assert reward.as_verl(abstained=-1.0)("data", text, "7", {"index": 0})["score"] == -1.0
    left, row = trace(text), task(prompt="p", answer="7", index=0, data_source="data")
    with pytest.raises(Abstained, match=why):
        asyncio.run(reward.as_verifiers()(left, row))
    assert list(left.info["truegain_abstained"]) == ["compute_score"]
    assert asyncio.run(reward.as_verifiers(metric=True)(left, row)) == {"compute_score_abstained": 1.0}


def test_each_reason_is_logged_once(of: Callable[..., Reward], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            of("odd").as_trl()(prompts=["p"] * 2, completions=["none", "nan"])
    assert [record.message for record in caplog.records] == [
        "the reward odd abstains: odd: returned None",
        "the reward odd abstains: odd: returned nan",
    ]


def test_rows_that_are_no_number_abstain_alone(of: Callable[..., Reward]) -> None:
    assert of("odd").as_trl()(prompts=["p"] * 4, completions=["one", "none", "nan", "text"]) == [1.0, None, None, None]


def test_a_function_that_returns_the_wrong_number_of_rewards_stops_the_run(of: Callable[..., Reward]) -> None:
    with pytest.raises(RunError, match="returned 1 rewards; it must return one number or None for each of the 2"):
        of("short").as_trl()(prompts=["p"] * 2, completions=["a", "b"])


def test_a_column_that_a_function_lacks_is_named_with_the_nearest(of: Callable[..., Reward]) -> None:
    with pytest.raises(WiringError, match=r"needs the column 'soluton' \(did you mean 'solution'\?\)"):
        of("picky").as_trl()(prompts=["p"], completions=["a"], solution=["1"])


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("FILE:contain", r"has no function 'contain' \(did you mean 'contains'\?\)"),
        ("FILE:neither", "takes text; a reward takes completions"),
        ("sotr", r"unknown task 'sotr' \(did you mean 'sort'\?\).*exact, math and python"),
        ("sort,level=99", "level must be a whole number from 2 to 16"),
        ("none.jsonl", "none.jsonl: no such file"),
        ("FOLDER", "holds no head.safetensors: it is no reward model"),
        ("FOLDER/my_reward", r"no such folder or file \(did you mean 'my_rewards.py'\?\)"),
        ("runs/nope", "^the reward 'runs/nope' cannot be loaded: no such folder or file$"),
        ("", "a reward has a name .*, not ''"),
    ],
)
def test_what_cannot_be_loaded_says_so_when_it_is_made(path: str, source: str, why: str) -> None:
    with pytest.raises(SettingError, match=why):
        Reward.of(source.replace("FILE", path).replace("FOLDER", str(Path(path).parent)))


def test_a_function_itself_is_found_again_by_its_name(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(path).parent))
    contains = importlib.import_module("my_rewards").contains
    reward = Reward.of(contains)
    assert (reward.source, reward.name) == ("my_rewards:contains", "contains")
    assert reward.as_trl()(prompts=["p"], completions=["abc"], answer=["b"]) == [1.0]
    reward.close()
    with pytest.raises(SettingError, match="has no name to find it by"):
        Reward.of(lambda completions: [0.0])
    monkeypatch.setattr(contains, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", path, raising=False)
    assert Reward.of(contains).source == f"{path}:contains"


@pytest.mark.parametrize(
    ("checker", "key", "texts", "said"),
    [
        ("exact", "7", ["I get 7.", r"\boxed{7}", "8", ""], [1, 1, 0, 0]),
        ("exact", "Paris", ["paris", "<answer>Paris</answer>", "it is Paris"], [1, 1, 0]),
        ("math", "1/2", [r"so $\frac{2}{4}$", "0.5", "2"], [1, 1, 0]),
    ],
)
def test_answers_of_anybodys_data_are_checked_against_the_rows_own(
    checker: str, key: str, texts: list[str], said: list[float]
) -> None:
    reward = Reward.of(checker, workers=1)
    rows = {"prompts": ["p"] * len(texts), "answer": [key] * len(texts)}
    assert reward.as_trl()(completions=texts, **rows) == said
    assert [reward.as_verl(abstained=0.0)("d", text, key, {})["score"] for text in texts] == said
    assert [asyncio.run(reward.as_verifiers()(trace(t), task(prompt="p", ground_truth=key))) for t in texts] == said
    with pytest.raises(WiringError, match=f"reward '{checker}' needs the column 'answer'"):
        reward.as_trl()(prompts=["p"], completions=["a"])
    reward.close()


def test_a_row_without_an_answer_abstains() -> None:
    reward = Reward.of("exact", workers=1)
    assert reward.as_trl()(prompts=["p"] * 2, completions=["7", "7"], answer=["7", None]) == [1.0, None]
    reward.close()


def test_messages_of_a_chat_are_read_as_what_the_policy_wrote() -> None:
    reward = Reward.of("exact", workers=1)
    chat = [
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "<answer>9</answer>"},
        {"role": "assistant", "content": "<answer>7</answer>"},
    ]
    prompts = [[{"role": "user", "content": "3+4?"}]]
    assert reward.as_trl()(prompts=prompts, completions=[chat], answer=["7"]) == [1.0]
    reward.close()


def test_a_folder_of_a_tasks_name_does_not_hide_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exact").mkdir()
    monkeypatch.chdir(tmp_path)
    reward = Reward.of("exact", workers=1)
    assert reward.kind == "task"
    reward.close()


def test_a_function_is_given_prompts_that_are_no_text(of: Callable[..., Reward]) -> None:
    shown = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]]
    assert of("contains").as_trl()(prompts=shown, completions=["a cat"], answer=["cat"]) == [1.0]


def test_callers_on_many_threads_are_judged_side_by_side(of: Callable[..., Reward]) -> None:
    verl = of("who", workers=3).as_verl(abstained=0.0)
    seen: list[float] = []
    threads = [threading.Thread(target=lambda: seen.append(verl("d", "a", "1", {})["score"])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 3


def test_a_closed_reward_starts_again_when_it_is_asked(sort: Reward) -> None:
    sort.close()
    assert sort.score(PROBLEMS[:1], RIGHT[:1]) == [1.0]


def test_the_problem_of_a_task_of_ours_is_read_from_its_record(sort: Reward) -> None:
    row = task(prompt="anything else", truegain=record_of(PROBLEMS[0]))
    assert asyncio.run(sort.as_verifiers()(trace(RIGHT[0]), row)) == 1.0
    assert isinstance(sort.score([Problem("p", "x", "1")], ["y"])[0], Abstain)


@pytest.mark.slow
def test_a_reward_model_is_a_reward(tmp_path: Path) -> None:
    import torch

    from truegain.policy import Policy
    from truegain.policy.heads import ScalarHead

    torch.manual_seed(0)
    policy = Policy.load("tiny")
    policy.save(tmp_path / "rm")
    head = ScalarHead(policy.width if hasattr(policy, "width") else policy.model.config.hidden_size)
    torch.nn.init.normal_(head.linear.weight)
    head.save(tmp_path / "rm" / "head.safetensors")
    reward = Reward.of(str(tmp_path / "rm"))
    first, second = reward.as_trl()(prompts=["sort 3 1\n"] * 2, completions=["<answer>1 3</answer>", "x"])
    assert first is not None
    assert second is not None
    assert first != second
    assert reward.as_verl(abstained=0.0)("d", "x", "", {"prompt": "sort 3 1\n"})["score"] == pytest.approx(
        second, abs=1e-5
    )
    reward.close()


def trace(text: str) -> Any:
    return SimpleNamespace(last_reply=text, info={})


def task(**fields: Any) -> Any:
    """Stands in for a `TaskData`: pydantic's dump, and the prompt's text."""
    return SimpleNamespace(model_dump=lambda mode: fields, prompt_text=str(fields.get("prompt", "")))
