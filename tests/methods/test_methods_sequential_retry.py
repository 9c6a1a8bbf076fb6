"""Reflect, retry from the pivot, learn after it: worked example, properties, hostile reflections, a run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.errors import SettingError, WiringError
from truegain.core.settings import loop_with
from truegain.core.types import Problem, Rollout, Turn
from truegain.methods.credit import amplify_positive, by_step, fork_cuts, group_normalise
from truegain.methods.exploration import reflect_retry
from truegain.methods.objective import after_cut
from truegain.policy.policy import Policy
from truegain.recipes.r3l import r3l
from truegain.tasks import make
from truegain.tasks.judges import make_judge
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train


def amplified(reward: torch.Tensor, **knobs: Any) -> list[float]:
    mask, group = torch.ones(len(reward), 1, dtype=torch.bool), torch.zeros(len(reward), dtype=torch.long)
    base = group_normalise(reward, group, mask, std="none", singleton="raw")
    return amplify_positive(base, reward, mask, **knobs).flatten().tolist()


def test_successes_count_one_and_other_gains_three_times() -> None:
    # Mean (0.2 + 0.6 + 0 + 1 + 1) / 5 = 0.56: -0.36, 3 * 0.04 = 0.12, -0.56, then 1 and 1 as rewards reach 1.
    found = amplified(torch.tensor([0.2, 0.6, 0.0, 1.0, 1.0]))
    assert found == pytest.approx([-0.36, 0.12, -0.56, 1.0, 1.0], abs=1e-6)


@given(st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=8))
def test_without_its_two_rules_what_is_left_is_the_reward_minus_the_mean(reward: list[float]) -> None:
    found = amplified(torch.tensor(reward, dtype=torch.float64), alpha=1.0, success=None)
    mean = sum(reward) / len(reward)
    assert found == pytest.approx([r - mean for r in reward], abs=1e-6)


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=8))
def test_a_success_is_worth_one_regardless_of_its_group(reward: list[float]) -> None:
    for value, found in zip(reward, amplified(torch.tensor(reward)), strict=True):
        assert value < 1 or found == 1.0


def test_a_group_of_one_has_the_baseline_0() -> None:
    assert amplified(torch.tensor([0.5])) == [1.5]
    assert math.isnan(amplified(torch.tensor([math.nan, 0.0]))[0])
    with pytest.raises(SettingError, match="alpha=-1"):
        amplified(torch.zeros(2), alpha=-1.0)


# The pivot


@settings(max_examples=30)
@given(st.integers(0, 99))
def test_what_a_row_and_its_fork_share_has_no_gradient_and_the_rest_is_the_mean_over_it(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.rand(6, 5, generator=rng) < 0.8
    mask[0, 4] = True
    cut = torch.tensor([2, 2, -1, 5, 0, 9])
    logp = -torch.rand(6, 5, generator=rng, dtype=torch.float64)
    logp.requires_grad_()
    batch = Batch(mask=mask, group=torch.arange(6) // 2, cut=cut, reward=torch.rand(6, generator=rng).double())
    form = r3l()
    step = step_on(form, batch)
    loss = loss_on(form, step, logp)
    (grad,) = torch.autograd.grad(loss, logp)
    (advantage,) = step.advantages
    assert advantage is not None
    left = [(i, t) for i in range(6) for t in range(5) if mask[i, t] and t >= int(cut[i])]
    # Half the mean of -A * logp over what is left: 1 / (1 + tau) with tau = 1.
    wanted = sum(-float(advantage[i, t]) * float(logp.detach()[i, t]) for i, t in left) / len(left) / 2
    assert loss.item() == pytest.approx(wanted, rel=1e-5, abs=1e-9)
    assert all(float(grad[i, t]) == 0.0 for i in range(6) for t in range(5) if (i, t) not in left)


def test_a_batch_that_lies_before_its_cuts_has_no_weight() -> None:
    assert not after_cut(torch.ones(2, 3, dtype=torch.bool), torch.tensor([3, 7])).any()
    assert after_cut(torch.zeros(0, 3, dtype=torch.bool), torch.zeros(0, dtype=torch.long)).shape == (0, 3)


def row(text: str, key: int = 1, **more: Any) -> Rollout:
    ids = tuple(map(ord, text))
    turns = (Turn("policy", 0, len(ids)),) if ids else ()
    return Rollout(Problem("p", "q\n"), (9,), ids, (-0.5,) * len(ids), text, "eos", turns, key=key, **more)


def test_a_row_with_several_forks_takes_the_earliest_cut() -> None:
    base = row("abc", key=1)
    forks = [row("abd", key=2, parent="1", cut=2), row("ax", key=3, parent="1", cut=1)]
    rows = [base, *forks, row("q", key=4), row("z", key=5, parent="77", cut=0)]
    assert fork_cuts(rows)["cut"].tolist() == [1, 2, 1, -1, 0]


# The resampler


class Loop:
    """What the loop hands to a resampler: characters are tokens, forks write what they are told to."""

    def __init__(self, writes: Sequence[str] = ("R",), verdicts: Sequence[float] | None = (1.0, 0.0, 1.0)) -> None:
        self.writes, self.forked, self.round = list(writes), [], 0
        task = SimpleNamespace(name="toy", step_verdicts=lambda problem, text: verdicts)
        self.setup: Any = SimpleNamespace(task=task, form=SimpleNamespace(segment={"step": by_step}))

    def judge(self, spec: str) -> Any:
        return make_judge(spec, self.setup.task)

    def rewards(self, rollouts: Sequence[Rollout], *, first: bool = False) -> list[float]:
        return [r.facts.get("correct", math.nan) for r in rollouts]

    def fork(self, places: Any, samples: int, *, insert: str = "", max_tokens: int | None = None) -> list[Rollout]:
        out: list[Rollout] = []
        for parent, cut in places:
            for _ in range(samples):
                self.forked.append((parent, cut, insert))
                own, start = self.writes.pop(0), cut + len(insert)
                text = parent.text[:cut] + insert + own
                ids, turns = tuple(map(ord, text)), (Turn("tool", cut, start),) if insert else ()
                turns = (Turn("policy", 0, cut), *turns, Turn("policy", start, len(ids)))
                facts = {"correct": float(own.startswith("R"))}
                made = replace(parent, ids=ids, text=text, turns=turns, facts=facts, parent=str(parent.key), cut=cut)
                out.append(replace(made, engine_logp=(-1.0,) * len(ids), key=100 + len(self.forked)))
        return out


def text_of(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


ROLES: Any = {
    "policy": SimpleNamespace(
        policy=SimpleNamespace(decode=text_of, encode_prompt=lambda prompt: (9, *map(ord, str(prompt))))
    )
}
WRONG, RIGHT = {"correct": 0.0}, {"correct": 1.0}


def retried(loop: Loop, rows: Sequence[Rollout], **knobs: Any) -> Any:
    return partial(reflect_retry, **knobs)(ROLES, loop, rows)


def test_only_failures_are_retried_from_the_first_token_of_their_first_wrong_step() -> None:
    loop = Loop()
    found = retried(loop, [row("aa\nbb\ncc", facts=WRONG), row("aa\nbb\ncc", key=2, facts=RIGHT)])
    (made,) = found.add
    assert (made.text, made.cut, made.parent, made.context) == ("aa\nR", 3, "1", None)
    assert list(found.drop) == [] and len(loop.forked) == 1
    loop.round = 1
    assert not retried(loop, [row("aa\nbb\ncc", facts=WRONG)]).add


def test_the_sampler_sees_the_hint_and_the_learner_does_not() -> None:
    rows = [row("aa\nbb\ncc", facts=WRONG), row("aa\nbb\ncc", key=2, facts=RIGHT)]
    found = retried(loop := Loop(), rows, hint="not {line} at {step}! ")
    made = found.add[-1]
    assert text_of(loop.forked[0][0].prompt_ids[1:]) == "not bb at 1! q\n"
    assert made.trained_prompt == (9,) and "not" not in text_of(made.trained_prompt) and "not" not in made.text
    # One group: the others of the problem hold the same context.
    assert [r.context for r in found.add] == [(9,)] * 3 and list(found.drop) == [0, 1]
    assert [r.key for r in found.add[:2]] == [1, 2]


def test_a_rollout_without_a_wrong_step_or_a_verdict_stays_as_it_is() -> None:
    assert not retried(Loop(verdicts=(1.0, 1.0, 1.0)), [row("a\nb\nc", facts=WRONG)]).add
    assert not retried(Loop(), [row("a\nb", facts={})]).add
    assert not retried(Loop(verdicts=()), [row("", facts=WRONG)]).add
    with pytest.raises(WiringError, match="judges no steps: take chain"):
        retried(Loop(verdicts=None), [row("a\nb", facts=WRONG)])
    with pytest.raises(SettingError, match="tries=0"):
        retried(Loop(), [], tries=0)
    bare = Loop()
    bare.setup.form.segment = {}
    with pytest.raises(WiringError, match="give the form segment"):
        retried(bare, [])


def test_a_policy_s_own_diagnosis_is_followed_and_learned_where_the_retry_succeeds() -> None:
    said = json.dumps({"retry_from_step": 2, "guidance": "mind c"})
    loop = Loop([f"so {said} etc", "R"])
    found = retried(loop, [row("aa\nbb\ncc", facts=WRONG)], diagnoser="policy", ask="?")
    base, made, lesson = found.add
    assert made.cut == 6 and text_of(loop.forked[1][0].prompt_ids[1:]) == "mind cq\n"
    assert base.context == made.context == (9,) and list(found.drop) == [0]
    assert lesson.text == f"so {said} etc" and text_of(lesson.prompt_ids[1:]) == "aa\nbb\ncc?"
    assert lesson.problem.id.startswith("p/reflection") and lesson.facts == made.facts
    assert all(lesson.mask) and lesson.turns[-1].end == len(lesson.ids) == len(lesson.engine_logp)
    # Where the retry fails, nothing is learned from the reflection.
    assert len(retried(Loop([said, "X"]), [row("aa\nbb\ncc", facts=WRONG)], diagnoser="policy").add) == 2


HOSTILE = ["", "no json", "{", '{"retry_from_step": 1}', '{"retry_from_step": "1", "guidance": "x"}', "[" * 5000]
HOSTILE += ['{"retry_from_step": true, "guidance": ""}', '{"retry_from_step": -1, "guidance": "x"}', '{"a":' * 400]
HOSTILE += ['{"retry_from_step": 99, "guidance": "x"}', '{"retry_from_step": 1e999, "guidance": "x"}']


@pytest.mark.parametrize("said", HOSTILE, ids=range(len(HOSTILE)))
def test_a_reflection_that_cannot_be_read_leaves_an_ordinary_rollout(said: str) -> None:
    found = retried(Loop([said]), [row("aa\nbb\ncc", facts=WRONG)], diagnoser="policy")
    assert not found.add and not found.drop


# A run


@pytest.mark.parametrize("knobs", [{}, {"hint": "not {line}\n"}, {"diagnoser": "policy"}], ids=["bare", "hint", "asks"])
def test_two_steps_on_chains_are_finite(tmp_path: Path, knobs: dict[str, Any]) -> None:
    form = loop_with(r3l(**knobs), steps=2, prompts=3, samples=3, eval_every=0, save_every=0, max_tokens=60)
    with RunFolder(tmp_path / "run") as held:
        lines = list(train(Setup(form, Policy.load("tiny"), make("chain,style=trace,level=4"), held), lambda: None))
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 2 and all(math.isfinite(line["loss"]) for line in steps)
    if knobs.get("diagnoser") != "policy":
        assert sum(line["truegain/rows"] for line in steps) > 18
