"""Forks of rollouts with tools: the world stands as it did at the cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from truegain.core.types import Rollout, Sampling, Turn
from truegain.policy.policy import Policy
from truegain.rollout.collect import Fork, collect, collect_forks
from truegain.rollout.engines import engine_for
from truegain.tasks import make
from truegain.tasks.calculator import Calculator

TASK = make("calculator,style=trace,level=4")
LIMIT = 160


@cache
def tiny() -> tuple[Policy, Any]:
    policy = Policy.load("tiny")
    return policy, engine_for(policy)


@cache
def parents(temperature: float) -> tuple[Rollout, ...]:
    """Rollouts that the embedded model wrote, with a call at least."""
    problems = [TASK.problem("dev", i) for i in range(8)]
    how = {"sampling": Sampling(LIMIT, temperature), "seed": 3, "stage": "test", "step": 0}
    found = collect(*tiny(), TASK, problems, samples=1, **how)
    called = tuple(r for r in found if len(r.turns) >= 3)
    assert len(called) >= 2
    return called


def forked(forks: list[Fork], temperature: float = 0.0, task: Any = TASK) -> list[Rollout]:
    return collect_forks(*tiny(), task, forks, sampling=Sampling(temperature=temperature))


def as_it_was(made: Rollout, parent: Rollout) -> bool:
    same = (made.ids, made.text, made.turns, made.stop, made.mask)
    close = made.engine_logp == pytest.approx(parent.engine_logp, abs=1e-4)
    return close and same == (parent.ids, parent.text, parent.turns, parent.stop, parent.mask)


def test_a_greedy_fork_at_any_token_is_the_rollout_itself() -> None:
    for parent in parents(0.0)[:2]:
        # inside a tool's answer the rest of it is not the tool's any more, but the policy's
        cuts = [t for t in range(0, len(parent.ids), 5) if t == 0 or parent.mask[t]]
        cuts += [turn.start for turn in parent.turns] + [turn.end for turn in parent.turns[:-1]]
        made = forked([Fork(parent, cut, (), LIMIT, 0, 7) for cut in cuts])
        for cut, row in zip(cuts, made, strict=True):
            assert as_it_was(row, parent), cut
            assert (row.parent, row.cut, row.key) == (str(parent.key), cut, 7)
            assert row.engine_logp[:cut] == parent.engine_logp[:cut]


def test_a_fork_between_turns_with_the_rollouts_key_draws_what_the_rollout_drew() -> None:
    checked = 0
    for parent in parents(1.0):
        tools = [turn for turn in parent.turns if turn.author == "tool"]
        cuts = [turn.end for turn in tools] + [turn.start for turn in tools]
        for row in forked([Fork(parent, cut, (), LIMIT, 0, parent.key) for cut in cuts if cut < LIMIT], 1.0):
            assert as_it_was(row, parent)
            checked += 1
    assert checked >= 4


def test_another_key_goes_on_otherwise_and_in_a_world_of_its_own() -> None:
    parent = next(r for r in parents(1.0) if r.turns[-1].author == "policy")
    end = next(turn.end for turn in parent.turns if turn.author == "tool")
    worlds: list[Calculator] = []
    task = Watched(worlds)
    made = forked([Fork(parent, end, (), LIMIT, n, n) for n in range(6)], 1.0, task)
    assert len({row.ids for row in made}) > 1
    assert len(worlds) == 7, "one replay for the place, then a world per row"
    for row, world in zip(made, worlds[1:], strict=True):
        # each world knows the call of the shared tokens once, and its own
        assert len(world.calls) == sum(turn.author == "tool" for turn in row.turns)
        assert [t for t in row.turns if t.end <= end] == [t for t in parent.turns if t.end <= end]


def test_what_is_inserted_is_not_the_policys_and_a_call_in_it_is_answered() -> None:
    parent = parents(0.0)[0]
    policy, _ = tiny()
    given = policy.encode("<tool>2*3</tool>")
    begin = len(policy.encode("<think>"))
    (row,) = forked([Fork(parent, begin, given, LIMIT, 0, 1)])
    assert row.text.startswith("<think><tool>2*3</tool><result>6</result>")
    answer = len(policy.encode("<result>6</result>"))
    middle = begin + len(given)
    assert row.turns[:3] == (
        Turn("policy", 0, begin),
        Turn("tool", begin, middle),
        Turn("tool", middle, middle + answer),
    )
    assert not any(row.mask[begin : middle + answer]) and row.mask[middle + answer]
    # a fork of the fork: the inserted call is not taken for a tool's answer
    (again,) = forked([Fork(row, middle + answer, (), LIMIT, 0, 1)])
    assert as_it_was(again, row) and again.facts == {}


def test_a_cut_inside_a_tools_answer_keeps_its_beginning_and_the_limit_holds() -> None:
    parent = parents(0.0)[0]
    tool = next(turn for turn in parent.turns if turn.author == "tool")
    cut = tool.start + 3
    (row,) = forked([Fork(parent, cut, (), cut + 5, 0, 1)])
    assert row.ids[:cut] == parent.ids[:cut] and len(row.ids) <= cut + 5
    assert row.turns[1] == Turn("tool", tool.start, cut) and row.turns[2].author == "policy"
    (full,) = forked([Fork(parent, tool.start, (), tool.start + 2, 0, 1)])
    assert (full.ids, full.stop) == (parent.ids[: tool.start + 2], "length"), "the answer fills the room"
    (none,) = forked([Fork(parent, cut, (), cut, 0, 1)])
    assert (none.ids, none.stop) == (parent.ids[:cut], "length")


def test_a_world_that_answers_otherwise_or_breaks_ends_its_rows_with_the_reason() -> None:
    parent = parents(0.0)[0]
    end = next(turn.end for turn in parent.turns if turn.author == "tool")
    lying = Watched([], answer=lambda text: "<result>no</result>")
    rows = forked([Fork(parent, end, (), LIMIT, n, n) for n in range(2)], task=lying)
    assert all("answers '<result>no</result>' where the forked" in row.facts["abstained"] for row in rows)
    assert all(row.ids == parent.ids[:end] for row in rows)

    def broken(text: str) -> str:
        raise RuntimeError("no  power")

    (row,) = forked([Fork(parent, end, (), LIMIT, 0, 0)], task=Watched([], answer=broken))
    assert row.facts["abstained"] == "environment: RuntimeError: no power"


class Watched:
    """The calculator, which hands its worlds out, or answers by ``answer``."""

    stop, name = TASK.stop, "watched"

    def __init__(self, worlds: list[Calculator], answer: Callable[[str], str] | None = None) -> None:
        self.worlds, self.answer = worlds, answer

    def environment(self) -> Callable[[], Calculator]:
        def made() -> Calculator:
            self.worlds.append(Calculator())
            return self.worlds[-1]

        return made

    def respond(self, env: Any, text: str) -> str | None:
        return TASK.respond(env, text) if self.answer is None else self.answer(text)


def test_a_draw_forks_rollouts_of_the_search_task_and_judges_them(tmp_path: Any) -> None:
    from truegain.core.forms import Decode, Loop
    from truegain.train.drawing import Draw
    from truegain.train.folder import RunFolder
    from truegain.train.models import frozen_models
    from truegain.train.setup import Setup, State

    task = make("search,style=trace,level=2")
    policy, _ = tiny()
    problem = task.problem("train", 0)
    call = problem.meta["content"].partition(" ")[2].replace(" of ", " ")
    ids = policy.encode(f"<think><tool>{call}</tool>")
    row = Rollout(problem, policy.encode_prompt(problem.prompt), ids, (-0.5,) * len(ids), "", "stop",
                  (Turn("policy", 0, len(ids)),), key=5)  # fmt: skip
    form = Decode(loop=Loop(max_tokens=120))
    with RunFolder(tmp_path / "run") as held:
        models = frozen_models({}, policy)
        draw = Draw(Setup(form, policy, task, held), models, State(), "sampled", "test")  # pyright: ignore[reportArgumentType]
        made = draw.fork([(replace(row, text=policy.decode(ids)), len(ids))], 3)
    assert all(f"</tool><result>{call.replace(' ', ' of ')} is {problem.answer}</result>" in r.text for r in made)
    assert all(r.facts["tool_calls"] >= 1 and "correct" in r.facts for r in made)
    assert draw.ledger.sampled > 0
