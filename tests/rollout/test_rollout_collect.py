from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from rollout_models import FakePolicy, model_of

from truegain.core.batch import Batch
from truegain.core.draws import draw_key
from truegain.core.errors import DataError
from truegain.core.types import Abstain, Problem, Request, Rollout, Sample, Sampling, Turn
from truegain.policy.table import table_model
from truegain.rollout.batch import to_columns
from truegain.rollout.collect import collect, score_rollouts
from truegain.rollout.native import NativeEngine

PROBLEMS = [Problem(id=f"p/{i}", prompt=text, answer="7") for i, text in enumerate(("abc", "de", "xyz "))]
KNOBS: dict[str, Any] = {"seed": 1, "stage": "train", "step": 4}


class World:
    def __init__(self, opening: str | None = None) -> None:
        self.opening, self.calls, self.row = opening, 0, {}

    def reset(self, **row: Any) -> str | None:
        self.row = row
        return self.opening

    def snapshot(self) -> Any:
        return self.calls

    def restore(self, state: Any) -> None:
        self.calls = state


@dataclass
class Tasklet:
    """A task whose tool answers every text that ends with ':'."""

    world: Callable[[], World] | None = None
    answer: str = "<12>"
    stop: tuple[str, ...] = (":",)
    name: str = "tasklet"
    worlds: list[World] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def score(self, problem: Problem, rollout: Rollout) -> Mapping[str, Any] | Abstain:
        if rollout.sample == 1:
            return Abstain("cannot read it")
        if rollout.sample == 2:
            raise ValueError("broken checker")
        return {"correct": 1.0, "length": len(rollout.ids), "note": "x"}

    def environment(self) -> Callable[[], World] | None:
        if self.world is None:
            return None

        def made() -> World:
            assert self.world is not None
            self.worlds.append(self.world())
            return self.worlds[-1]

        return made

    def respond(self, env: World, text: str) -> str | None:
        self.seen.append(text)
        if not text.endswith(":"):
            return None
        env.calls += 1
        return self.answer


class Script:
    """An engine that says fixed things: per turn of a row, by how many tokens were given beyond the prompt."""

    def __init__(self, policy: FakePolicy, lines: Sequence[tuple[str, str]]) -> None:
        self.policy, self.lines, self.requests, self.turn = policy, lines, [], 0

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        self.requests.append((list(requests), sampling))
        text, stop = self.lines[self.turn]
        self.turn += 1
        ids = self.policy.encode(text)[: sampling.max_tokens]
        stop = stop if len(ids) == len(text) else "length"
        return [Sample(ids, tuple(-0.5 for _ in ids), stop) for _ in requests]  # type: ignore[arg-type]


def test_single_turn_rows_are_problem_major_and_keyed_by_their_names() -> None:
    policy = FakePolicy(model_of(), frozenset({5, 11}))
    engine = NativeEngine(policy)
    rollouts = collect(
        policy, engine, Tasklet(), PROBLEMS, samples=3, sampling=Sampling(max_tokens=9), version=2, **KNOBS
    )
    assert [(r.problem.id, r.sample) for r in rollouts] == [(p.id, s) for p in PROBLEMS for s in range(3)]
    for r in rollouts:
        key = draw_key(1, "train", 4, r.problem.id, 0, r.sample)
        prompt = policy.encode_prompt(r.problem.prompt)
        (alone,) = engine.generate([Request(prompt, key=key)], Sampling(max_tokens=9, stop=(":",)))
        assert (r.ids, r.stop, r.prompt_ids) == (alone.ids, alone.stop, prompt)
        assert r.turns == (Turn("policy", 0, len(r.ids)),) and all(r.mask) and r.text == policy.decode(r.ids)
        assert r.version == 2 and r.role == "policy" and not r.facts


@pytest.mark.parametrize("other", [{"seed": 2}, {"stage": "dev"}, {"step": 5}, {"copy": 1}])
def test_every_name_of_a_draw_changes_the_completions(other: dict[str, Any]) -> None:
    policy = FakePolicy(table_model(vocab_size=40, bos_token_id=1))
    engine = NativeEngine(policy)

    def drawn(**knobs: Any) -> list[tuple[int, ...]]:
        rows = collect(policy, engine, Tasklet(), PROBLEMS, samples=2, sampling=Sampling(max_tokens=9), **knobs)
        return [row.ids for row in rows]

    assert drawn(**KNOBS) == drawn(**KNOBS)
    assert not set(drawn(**KNOBS)) & set(drawn(**{**KNOBS, **other}))


def test_tool_turns_are_appended_masked_and_given_to_the_next_turn() -> None:
    policy, task = FakePolicy(None), Tasklet(World)
    script = Script(policy, [("ab:", "stop"), ("c:", "stop"), ("done", "eos")])
    (row, *_) = collect(policy, script, task, PROBLEMS[:2], samples=2, sampling=Sampling(max_tokens=40), **KNOBS)
    assert row.text == "ab:<12>c:<12>done" and row.stop == "eos"
    assert row.turns == (
        Turn("policy", 0, 3), Turn("tool", 3, 7), Turn("policy", 7, 9), Turn("tool", 9, 13), Turn("policy", 13, 17)
    )  # fmt: skip
    assert row.mask == (True,) * 3 + (False,) * 4 + (True,) * 2 + (False,) * 4 + (True,) * 4
    assert row.engine_logp == tuple(-0.5 if m else 0.0 for m in row.mask)
    assert [world.calls for world in task.worlds] == [2] * 4
    assert task.worlds[0].row["id"] == "p/0" and task.worlds[0].row["answer"] == "7"
    assert [s.max_tokens for _, s in script.requests] == [40, 33, 27]
    given = [requests[0].given for requests, _ in script.requests]
    assert given == [policy.encode("abc" + text) for text in ("", "ab:<12>", "ab:<12>c:<12>")]
    keys = [request.key for requests, _ in script.requests for request in requests]
    assert len(set(keys)) == 12  # each turn of each row draws its own numbers


def test_the_environment_is_asked_once_per_turn() -> None:
    policy, task = FakePolicy(None), Tasklet(World)
    collect(
        policy,
        Script(policy, [("a:", "stop"), ("b", "eos")]),
        task,
        PROBLEMS[:1],
        samples=1,
        sampling=Sampling(),
        **KNOBS,
    )
    assert task.seen == ["a:", "a:<12>b"]


def test_tool_tokens_count_and_the_token_limit_ends_a_row() -> None:
    policy = FakePolicy(None)
    for limit, text, turns in ((5, "ab:<1", 2), (7, "ab:<12>", 2), (8, "ab:<12>c", 3), (2, "ab", 1)):
        script = Script(policy, [("ab:", "stop"), ("cccccccc", "eos")])
        (row,) = collect(
            policy, script, Tasklet(World), PROBLEMS[:1], samples=1, sampling=Sampling(max_tokens=limit), **KNOBS
        )
        assert (row.text, row.stop, len(row.turns)) == (text, "length", turns)


def test_rows_with_less_room_are_cut_to_their_own() -> None:
    policy, task = FakePolicy(None), Tasklet(World)
    task.respond = lambda env, text: {"a": "<", "b": "<12>"}[text[0]] if len(text) == 2 else None  # type: ignore

    class Uneven(Script):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
            if not self.turn:
                self.turn = 1
                return [Sample(policy.encode(f"{c}:"), (-0.5, -0.5), "stop") for c in "ab"]
            self.requests.append((list(requests), sampling))
            ids = policy.encode("eeeeee")[: sampling.max_tokens]
            return [Sample(ids, (-0.5,) * len(ids), "eos") for _ in requests]

    script = Uneven(policy, [])
    rows = collect(policy, script, task, PROBLEMS[:2], samples=1, sampling=Sampling(max_tokens=9), **KNOBS)
    assert [(row.text, row.stop, len(row.engine_logp)) for row in rows] == [
        ("a:<eeeeee", "eos", 9),
        ("b:<12>eee", "length", 9),
    ]
    assert len(script.requests) == 1 and script.requests[0][1].max_tokens == 6


def test_at_most_max_turns_turns_are_played() -> None:
    policy, task = FakePolicy(None), Tasklet(World)
    script = Script(policy, [("a:", "stop")] * 9)
    (row,) = collect(policy, script, task, PROBLEMS[:1], samples=1, sampling=Sampling(max_tokens=500), **KNOBS)
    assert script.turn == 8 and row.stop == "stop" and row.text.endswith("a:") and task.worlds[0].calls == 7


def test_what_the_environment_says_first_is_part_of_the_prompt() -> None:
    policy = FakePolicy(None)
    script = Script(policy, [("b", "eos")])
    (row,) = collect(
        policy, script, Tasklet(lambda: World("hi ")), PROBLEMS[:1], samples=1, sampling=Sampling(), **KNOBS
    )
    assert row.prompt_ids == policy.encode("abchi ") and row.text == "b"


def test_after_the_deadline_no_further_turn_begins() -> None:
    policy = FakePolicy(None)
    script = Script(policy, [("a:", "stop")] * 9)
    past = time.monotonic() - 1
    (row,) = collect(
        policy, script, Tasklet(World), PROBLEMS[:1], samples=1, sampling=Sampling(), deadline=past, **KNOBS
    )
    assert row.stop == "deadline" and row.ids == () and script.turn == 0


def test_an_environment_that_raises_is_an_abstention_of_its_row() -> None:
    class Broken(World):
        def reset(self, **row: Any) -> str | None:
            if row["id"] == "p/1":
                raise RuntimeError("no such world")
            return None

    policy = FakePolicy(None)
    rows = collect(
        policy, Script(policy, [("b", "eos")]), Tasklet(Broken), PROBLEMS, samples=1, sampling=Sampling(), **KNOBS
    )
    assert [row.text for row in rows] == ["b", "", "b"]
    assert rows[1].facts == {"abstained": "environment: RuntimeError: no such world"} and not rows[0].facts
    assert score_rollouts(Tasklet(), rows)[1] == rows[1]


def test_multi_turn_rows_do_not_depend_on_their_neighbours() -> None:
    policy = FakePolicy(model_of(), frozenset({5}))
    engine = NativeEngine(policy)
    task = Tasklet(World, stop=("a", "e", "i", ":"), answer="b")
    task.respond = lambda env, text: "xy" if text[-1] in "aei" else None  # type: ignore[method-assign]
    knobs = {**KNOBS, "sampling": Sampling(max_tokens=30, temperature=5.0)}
    together = collect(policy, engine, task, PROBLEMS, samples=4, **knobs)
    alone = [row for problem in PROBLEMS for row in collect(policy, engine, task, [problem], samples=4, **knobs)]
    assert [row.ids for row in together] == [row.ids for row in alone]
    assert max(len(row.turns) for row in together) >= 5
    for row in together:  # the reported log-probs are right after the tool's tokens, too
        with torch.no_grad():
            logits = policy.model(torch.tensor([row.prompt_ids + row.ids])).logits[0] / 5.0
        want = logits.log_softmax(-1)[len(row.prompt_ids) - 1 : -1].gather(-1, torch.tensor(row.ids)[:, None])[:, 0]
        mask = torch.tensor(row.mask)
        assert torch.allclose(torch.tensor(row.engine_logp), want * mask, atol=1e-4)


def test_abstentions_and_broken_scorers_are_facts_with_a_reason() -> None:
    policy = FakePolicy(None)
    rows = collect(
        policy, Script(policy, [("b", "eos")]), Tasklet(), PROBLEMS[:1], samples=3, sampling=Sampling(), **KNOBS
    )
    facts = [row.facts for row in score_rollouts(Tasklet(), rows)]
    assert facts[0] == {"correct": 1.0, "length": 1, "note": "x"}
    assert facts[1] == {"abstained": "cannot read it"}
    assert facts[2] == {"abstained": "scorer: ValueError: broken checker"}


def rollout(problem: int = 0, ids: tuple[int, ...] = (4, 5), **more: Any) -> Rollout:
    base: dict[str, Any] = {
        "problem": PROBLEMS[problem], "prompt_ids": (1,), "ids": ids, "engine_logp": (-1.0,) * len(ids), "text": "",
        "stop": "eos", "turns": (Turn("policy", 0, len(ids)),),
    }  # fmt: skip
    return Rollout(**{**base, **more})


def test_columns_hold_completions_right_padded() -> None:
    three = (Turn("policy", 0, 1), Turn("tool", 1, 3), Turn("policy", 3, 4))
    rows = [
        rollout(1, (9, 8, 7, 6), turns=three, stop="length", facts={"correct": 1.0, "note": "x", "tool_calls": 2}),
        rollout(0, facts={"correct": 0.0, "note": "y", "tool_calls": 1}),
        rollout(1, (), turns=(), facts={"correct": True, "tool_calls": 0, "answered": 1.0}),
        rollout(1, context=(3,), facts={"correct": 1, "tool_calls": 0}),
    ]
    columns = to_columns(rows)
    assert columns["tokens"].tolist() == [[9, 8, 7, 6], [4, 5, 0, 0], [0] * 4, [4, 5, 0, 0]]
    assert columns["mask"].tolist() == [
        [True, False, False, True],
        [True, True, False, False],
        [False] * 4,
        [True, True, False, False],
    ]
    assert columns["turn"].tolist() == [[0, 1, 1, 2], [0, 0, -1, -1], [-1] * 4, [0, 0, -1, -1]]
    assert columns["engine_logp"][1].tolist() == [-1.0, -1.0, 0.0, 0.0]
    assert columns["group"].tolist() == [0, 1, 0, 2] and columns["truncated"].tolist() == [True, False, False, False]
    assert columns["correct"].tolist() == [1.0, 0.0, 1.0, 1.0] and columns["tool_calls"].tolist() == [
        2.0,
        1.0,
        0.0,
        0.0,
    ]
    assert "note" not in columns and "answered" not in columns
    assert Batch(**columns).rows == 4


def test_a_batch_of_empty_completions_has_no_token_columns_and_none_at_all_is_an_error() -> None:
    columns = to_columns([rollout(ids=(), turns=()), rollout(1, ids=(), turns=())])
    assert columns["tokens"].shape == (2, 0) and columns["mask"].dtype == torch.bool
    with pytest.raises(DataError, match="no rollouts"):
        to_columns([])
    with pytest.raises(DataError, match="'group'"):
        to_columns([rollout(facts={"group": 1.0})])
