"""Traces of verifiers become rollouts; a file that does not fit together is refused by its line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from truegain.core.batch import Batch
from truegain.core.errors import DataError
from truegain.core.types import Turn
from truegain.hosts import traces
from truegain.hosts.data import problems_of, record_of
from truegain.hosts.traces import read_traces, rollouts_of
from truegain.rollout.batch import to_columns


def node(parent: int | None, role: str, text: str, ids: list[int], chosen: int = 0, **more: Any) -> dict[str, Any]:
    """A node whose last ``chosen`` tokens were sampled."""
    mask = [False] * (len(ids) - chosen) + [True] * chosen
    given = {"parent": parent, "message": {"role": role, "content": text}, "token_ids": ids, "mask": mask}
    return {**given, "sampled": chosen > 0, "logprobs": [-0.5] * chosen, **more}


def trace(nodes: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    task = {"type": "T", "key": "k1", "data": {"prompt": "1+1?", "answer": "2", "level": 3}}
    return {"id": "t1", "task": task, "agent": {"name": "agent"}, "nodes": nodes, "rewards": {}, **more}


ONE = [
    node(None, "user", "1+1?", [1, 2, 3]),
    node(0, "assistant", "let me see", [4, 5, 6], 2, advantages=[0.1, 0.2]),
    node(1, "tool", "2", [7, 8]),
    node(2, "assistant", "it is 2", [9, 10], 1, advantages=[0.3]),
]


def test_a_trace_becomes_a_rollout_with_ids_mask_logprobs_and_turns() -> None:
    (made,) = rollouts_of(trace(ONE, rewards={"a": {"score": 1.0, "weight": 0.5}, "b": {"score": -2.0}}))
    # The completion begins at the first sampled token, 5; 4 is the template before it.
    assert made.prompt_ids == (1, 2, 3, 4)
    assert made.ids == (5, 6, 7, 8, 9, 10)
    assert made.mask == (True, True, False, False, False, True)
    assert made.engine_logp == (-0.5, -0.5, 0.0, 0.0, 0.0, -0.5)
    assert made.turns == (Turn("policy", 0, 2), Turn("tool", 2, 5), Turn("policy", 5, 6))
    assert made.text == "let me see\n2\nit is 2"
    assert (made.problem.id, made.problem.prompt, made.problem.answer) == ("k1", "1+1?", "2")
    assert made.problem.meta == {"answer": "2", "level": 3}
    assert made.facts["score"] == 0.5 - 2.0
    assert made.facts["rewards"] == {"a": 0.5, "b": -2.0}
    assert made.facts["advantage"] == [0.1, 0.2, 0.0, 0.0, 0.0, 0.3]
    assert "ref_logp" not in made.facts


def test_rollouts_of_traces_are_a_batch_like_any_other() -> None:
    rewards = {"a": {"score": 1.0, "weight": 1.0}}
    batch = Batch(**to_columns([*rollouts_of(trace(ONE, rewards=rewards)), *rollouts_of(trace(ONE, rewards=rewards))]))
    assert batch["mask"].tolist() == [[True, True, False, False, False, True]] * 2
    assert batch["group"].tolist() == [0, 0]
    assert batch["score"].tolist() == [1.0, 1.0]


def test_each_branch_is_a_rollout_and_an_abandoned_compaction_is_none() -> None:
    nodes = [
        *ONE[:2],
        node(0, "assistant", "other", [4, 11], 1),
        node(1, "assistant", "summary", [12], 1, semantic_parents=[{"node": 1, "type": "compaction_attempt"}]),
    ]
    assert [one.text for one in rollouts_of(trace(nodes))] == ["other"]
    nodes.append(node(None, "user", "go on", [1], semantic_parents=[{"node": 3, "type": "compaction"}]))
    assert [one.text for one in rollouts_of(trace(nodes))] == ["other", "let me see\nsummary", ""]


class Counted(int):
    """A number that counts its comparisons, and gives up on a hundred thousand."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        assert Counted.compared < 100_000, "each node is held against each other one"
        return int(self) == other

    __hash__ = int.__hash__


def test_a_hostile_trace_of_many_nodes_and_links_takes_work_in_its_size() -> None:
    count = 20_000
    links = [{"type": kind, "node": Counted(-1)} for kind in ("compaction_attempt", "compaction", "compaction")]
    nodes = [{"message": {"role": "user", "content": ""}, "semantic_parents": links}] * count
    Counted.compared = 0
    assert rollouts_of(trace(nodes)) == []
    assert Counted.compared <= 3 * count
    nodes[0] = {**nodes[0], "semantic_parents": [{"type": "compaction", "node": ["no", "number"]}]}
    assert len(rollouts_of(trace(nodes))) == 1


def test_branches_that_repeat_a_long_text_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_TEXT", 1000)
    said = {**node(None, "assistant", "x" * 400, []), "sampled": True}
    leaves = [node(0, "user", "", []) for _ in range(2)]
    assert len(rollouts_of(trace([said, *leaves]))) == 2
    with pytest.raises(DataError, match="its branches hold more than 1000 characters"):
        rollouts_of(trace([said, *leaves, *leaves]))


def test_a_trace_without_tokens_has_its_text_and_no_ids() -> None:
    nodes = [node(None, "user", "1+1?", []), {**node(0, "assistant", "2", []), "sampled": True}]
    nodes[1]["message"]["reasoning_content"] = "easy"
    (made,) = rollouts_of(trace(nodes))
    assert (made.ids, made.turns, made.text) == ((), (), "<think>easy</think>\n2")


def test_a_reward_that_was_not_judged_leaves_no_score() -> None:
    (made,) = rollouts_of(trace(ONE, rewards={"a": {"score": 1.0}, "b": None}, errors=[{"message": "TaskError: x"}]))
    assert "score" not in made.facts
    assert made.facts["rewards"] == {"a": 1.0}
    assert made.facts["errors"] == ["TaskError: x"]


@pytest.mark.parametrize(
    ("more", "stop"),
    [
        ({}, "eos"),
        ({"is_timeout": True}, "deadline"),
        ({"stop_condition": "max_turns"}, "length"),
        ({"calls": [{"finish_reason": "length"}]}, "length"),
        ({"calls": [{"finish_reason": "stop"}, {"finish_reason": "length", "error": {"message": "x"}}]}, "eos"),
    ],
)
def test_why_a_trace_ended_is_told(more: dict[str, Any], stop: str) -> None:
    assert rollouts_of(trace(ONE, **more))[0].stop == stop


def test_a_problem_of_ours_comes_back_as_it_was() -> None:
    (problem,) = problems_of("sort,level=4", "dev", 1)
    data = {"prompt": "in English", "truegain": record_of(problem, "dev")}
    (made,) = rollouts_of(trace(ONE, task={"key": "x", "data": data}))
    assert made.problem == problem


def test_a_file_gives_its_rollouts_numbered_within_each_problem(tmp_path: Path) -> None:
    lines = [{"traces": [trace(ONE), trace(ONE)]}, trace(ONE), {"traces": []}]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = list(read_traces(tmp_path))
    assert [one.sample for one in found] == [0, 1, 2]
    assert len({one.key for one in found}) == 3
    assert list(read_traces(tmp_path / "traces.jsonl")) == found


def changed(**more: Any) -> dict[str, Any]:
    return trace([{**ONE[0], **more}, *ONE[1:]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"traces": 3}, "line 2: 'traces' is no list"),
        ({"traces": [3]}, "line 2, trace 0: no trace"),
        ({"nodes": []}, "line 2, trace 0: no task with its data"),
        (trace([3]), "trace 0, node 0: no message"),  # type: ignore[list-item]
        (changed(parent=0), "node 0: its parent 0 is no node before it"),
        (changed(parent=-1), "node 0: its parent -1"),
        (changed(parent=True), "node 0: its parent True"),
        (changed(parent="0"), "node 0: its parent 0"),
        (changed(token_ids=[1, -2, 3]), "node 0: 'token_ids' are no list of token numbers"),
        (changed(token_ids=[1, 2**40, 3]), "node 0: 'token_ids' are no list"),
        (changed(token_ids=[1, 2.0, 3]), "node 0: 'token_ids' are no list"),
        (changed(token_ids={"a": 1}), "node 0: 'token_ids' are no list"),
        (changed(mask=[True]), "node 0: 'mask' is no true or false for each of its 3 tokens"),
        (changed(mask=[0, 0, 0]), "node 0: 'mask' is no true or false"),
        (changed(logprobs=[0.1]), "node 0: 'logprobs' are no finite number for each of its 0 sampled"),
        (trace([ONE[0], {**ONE[1], "logprobs": [0.1, float("nan")]}]), "node 1: 'logprobs' are no finite number"),
        (trace([ONE[0], {**ONE[1], "logprobs": [0.1, 10**400]}]), "node 1: 'logprobs' are no finite number"),
        (trace([ONE[0], {**ONE[1], "entropies": [0.1]}]), "node 1: 'entropies' are no finite number"),
        (trace(ONE, rewards=[1]), "'rewards' is no object"),
        (trace(ONE, rewards={"a": {"score": float("inf")}}), "the reward 'a' has no finite score"),
        (trace(ONE, rewards={"a": 1.0}), "the reward 'a' has no finite score"),
        (trace(ONE, task={"data": {"truegain": "{"}}), "no problem that truegain wrote"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_its_line(tmp_path: Path, line: Any, message: str) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(json.dumps({"traces": []}) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(DataError, match=r"traces\.jsonl, ") as raised:
        list(read_traces(file))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: bad JSON"),
        ("[" * 200_000, "line 1: bad JSON"),
        ("[1]", "line 1: a list, not an object"),
        ('{"id": ' + "9" * 5000 + "}", "line 1: bad JSON"),
    ],
)
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(text + "\n")
    with pytest.raises(DataError, match=f"traces.jsonl, {message}"):
        list(read_traces(file))


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_NODES", 3)
    with pytest.raises(DataError, match="4 nodes; at most 3 are read"):
        rollouts_of(trace(ONE))
    monkeypatch.setattr(traces, "MAX_NODES", 1000)
    comb = [node(None, "user", "x", [1])] + [node(n // 2 * 2 if n % 2 else n, "user", "x", [1]) for n in range(400)]
    monkeypatch.setattr(traces, "MAX_STEPS", 1000)
    with pytest.raises(DataError, match="hold more than 1000 nodes"):
        rollouts_of(trace(comb))
    monkeypatch.setattr(traces, "MAX_STEPS", 10**6)
    monkeypatch.setattr(traces, "MAX_TOKENS", 1000)
    with pytest.raises(DataError, match="hold more than 1000 tokens"):
        rollouts_of(trace(comb))
    with pytest.raises(DataError, match="traces are JSON lines"):
        list(read_traces(tmp_path / "traces.json"))


def test_a_mangled_trace_gives_rollouts_or_a_data_error_and_nothing_else() -> None:
    draw = random.Random(0)
    junk: list[Any] = [None, True, -1, 10**30, 0.5, "x", [], {}, [None], {"a": []}, [[1]], "\ud800"]
    for _ in range(1500):
        given = json.loads(json.dumps(trace(ONE, rewards={"a": {"score": 1.0}}, calls=[{"finish_reason": "stop"}])))
        place: Any = given
        while True:
            keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.7:
                place = place[key]
                continue
            place[key] = draw.choice(junk)
            break
        try:
            for one in rollouts_of(given, "here"):
                assert len(one.ids) == len(one.engine_logp) == len(one.mask)
        except DataError as error:
            assert str(error).startswith("here")
