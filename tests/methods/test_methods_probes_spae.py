"""SPAE: answers forced after every step, the potential they give a step, and the credit it shapes."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.component import knobs_of, spec_of
from truegain.core.errors import SettingError
from truegain.core.forms import members
from truegain.core.probing import reasoning_end, step_cuts
from truegain.core.types import Problem, Rollout, Turn
from truegain.methods.credit import forced_answers, group_normalise, potential_shaping, whiten
from truegain.policy.policy import Policy
from truegain.recipes.spae import spae
from truegain.tasks import make
from truegain.train.drawing import Draw
from truegain.train.folder import RunFolder
from truegain.train.models import load_models
from truegain.train.setup import Setup, State
from truegain.train.shaping import shape

SHARES = st.floats(0, 1)


def phi(right: float, sure: float) -> float:
    return 1.5 * right * sure + 0.5 * right - sure


def with_potential(values: list[float]) -> tuple[Tensor, Tensor]:
    """Probes that give these potentials: with confidence 0 it is half the correctness, which may leave [0, 1] here."""
    wanted = torch.tensor([values], dtype=torch.float64)
    return 2 * wanted, torch.zeros_like(wanted)


def steps_in_a_row(count: int) -> tuple[Tensor, Tensor]:
    step = torch.arange(count)[None]
    return step, step >= 0


def test_the_worked_example_of_the_catalog() -> None:
    # Increments 0, .6, .5, .35, .02, 0 scaled by .6 are 0, 1, .8333, .5833, .0333, 0; their exponentials 1, 2.7183,
    # 2.3010, 1.7920, 1.0339, 1 have the mean 1.6409, so g = -.6409, 1.0774, .6601, .1511, -.6070, -.6409.
    # Potentials above 0.9 before the step: C = 0, 0, 0, 0, 1, 2; f = 1 - (1 - e^-C) / 2 = 1, 1, 1, 1, .6839, .5677.
    # A = .5 f + .5 g.
    right, sure = with_potential([-0.5, 0.1, 0.6, 0.95, 0.97, 0.97])
    step, mask = steps_in_a_row(6)
    found, said = potential_shaping(torch.full((1, 6), 0.5, dtype=torch.float64), right, sure, step, mask)
    wanted = [0.1796, 1.0387, 0.8301, 0.5756, 0.0385, -0.0366]
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-4)
    assert float(said["truegain/checking_tokens"]) == 2.0
    # Counting the step's own saturation: C = 0, 0, 0, 1, 2, 3 and f = .6839, .5677, .5249 at the last three.
    found, _ = potential_shaping(
        torch.full((1, 6), 0.5, dtype=torch.float64), right, sure, step, mask, counted="up_to", bonus=0.0
    )
    assert (2 * found[0]).tolist() == pytest.approx([1, 1, 1, 0.6839, 0.5677, 0.5249], abs=1e-4)


def oracle(
    advantage: list[list[float]], right: Any, sure: Any, step: Any, alpha: float, xi: float, limit: float
) -> list[list[float]]:
    """The formula in Python floats, row by row and step by step; step ids are -1 outside the mask."""
    table: dict[tuple[int, int], tuple[float, float, float]] = {}
    for i, ids in enumerate(step):
        before, count, first = 0.0, 0, True
        for s in sorted({s for s in ids if s >= 0}):
            here = phi(right[i][s], sure[i][s])
            here = before if math.isnan(here) else here
            tokens = [a for a, t in zip(advantage[i], ids, strict=True) if t == s]
            change = 0.0 if first else here - before
            table[i, s] = (sum(tokens) / len(tokens), 1 - alpha * (1 - math.exp(-count)), change)
            count, before, first = count + (here > limit), here, False
    changes = [change for _, _, change in table.values()]
    low, width = min(changes), max(changes) - min(changes)
    grown = {k: math.exp((c - low) / width) if width else 1.0 for k, (_, _, c) in table.items()}
    mean = sum(grown.values()) / len(grown)
    return [
        [
            table[i, s][0] * table[i, s][1] + xi * (grown[i, s] - mean) if s >= 0 else a
            for a, s in zip(advantage[i], ids, strict=True)
        ]
        for i, ids in enumerate(step)
    ]


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5), tokens=st.integers(1, 9), alpha=SHARES, xi=SHARES)
def test_it_agrees_with_a_slow_oracle(seed: int, rows: int, tokens: int, alpha: float, xi: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=rng)
    step = torch.randint(0, 2, (rows, tokens), generator=rng).cumsum(1)
    # Holes: tokens of a tool, and now and then a whole step of them.
    hole = torch.rand(rows, tokens, generator=rng) < 0.2
    step = torch.where((torch.arange(tokens) < lengths) & ~hole, step, -1)
    if not bool((step >= 0).any()):
        return
    width = int(step.max()) + 1
    right, sure = torch.rand(2, rows, width, generator=rng, dtype=torch.float64)
    right[torch.rand(rows, width, generator=rng) < 0.1] = float("nan")
    advantage = torch.randn(rows, tokens, generator=rng, dtype=torch.float64)
    found, _ = potential_shaping(advantage, right, sure, step, step >= 0, damping=alpha, bonus=xi, saturated=0.2)
    wanted = oracle(advantage.tolist(), right.tolist(), sure.tolist(), step.tolist(), alpha, xi, 0.2)
    for i in range(rows):
        assert found[i].tolist() == pytest.approx(wanted[i], abs=1e-9)


@given(right=SHARES, sure=SHARES)
def test_the_potential_lies_between_minus_one_and_one_and_is_minus_the_confidence_of_what_is_wrong(
    right: float, sure: float
) -> None:
    step, mask = steps_in_a_row(1)
    probes = (torch.tensor([[right]], dtype=torch.float64), torch.tensor([[sure]], dtype=torch.float64))
    _, said = potential_shaping(torch.zeros(1, 1, dtype=torch.float64), *probes, step, mask)
    assert -1 <= float(said["truegain/potential"]) <= 1
    _, said = potential_shaping(torch.zeros(1, 1, dtype=torch.float64), 0 * probes[0], probes[1], step, mask)
    assert float(said["truegain/potential"]) == -sure


@given(values=st.lists(SHARES, min_size=1, max_size=8), alpha=SHARES)
def test_the_outcome_is_whole_before_saturation_and_shrinks_to_its_floor_after(
    values: list[float], alpha: float
) -> None:
    right, sure = with_potential(values)
    step, mask = steps_in_a_row(len(values))
    ones = torch.ones(1, len(values), dtype=torch.float64)
    kept = potential_shaping(ones, right, sure, step, mask, damping=alpha, bonus=0.0, saturated=0.5)[0][0].tolist()
    assert all(b <= a for a, b in pairwise(kept)) and min(kept) >= 1 - alpha
    first = next((n for n, value in enumerate(values) if value > 0.5), len(values))
    assert kept[: first + 1] == [1.0] * len(kept[: first + 1])


@given(seed=st.integers(0, 1000), rows=st.integers(1, 4), width=st.integers(1, 6))
def test_the_bonus_has_the_mean_zero_over_the_steps_of_the_batch(seed: int, rows: int, width: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    right, sure = torch.rand(2, rows, width, generator=rng, dtype=torch.float64)
    step = torch.arange(width).expand(rows, width)
    found, _ = potential_shaping(torch.zeros(rows, width, dtype=torch.float64), right, sure, step, step >= 0)
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-12)


def test_without_damping_and_bonus_it_is_the_outcome_above_the_group_mean_whitened() -> None:
    reward, group = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 0, 1])
    step = torch.tensor([[0, 0, 1], [0, 1, -1], [0, 1, 1], [0, 0, -1]])
    mask, probes = step >= 0, torch.rand(2, 4, 2, generator=torch.Generator().manual_seed(0))
    plain = group_normalise(reward, group, mask, std="none")
    found, _ = potential_shaping(plain, probes[0], probes[1], step, mask, damping=0.0, bonus=0.0)
    torch.testing.assert_close(found, plain)
    assert torch.equal(whiten(found, mask), whiten(plain, mask))


def test_a_step_that_no_probe_judged_keeps_the_potential_before_it() -> None:
    nan = float("nan")
    step, mask = steps_in_a_row(4)
    zero = torch.zeros(1, 4, dtype=torch.float64)
    known = potential_shaping(zero, *with_potential([0.0, 0.95, 0.95, 0.2]), step, mask)[0]
    gap = potential_shaping(zero, *with_potential([nan, 0.95, nan, 0.2]), step, mask)[0]
    torch.testing.assert_close(gap, known)


def test_tokens_outside_every_step_keep_their_credit_and_batches_without_steps_do_too() -> None:
    probes = torch.full((1, 1), 0.5)
    step = torch.tensor([[0, 0, -1]])
    found, _ = potential_shaping(torch.tensor([[1.0, 1.0, 3.0]]), probes, probes, step, torch.ones(1, 3).bool())
    assert found.tolist() == [[1.0, 1.0, 3.0]]
    given_credit = torch.ones(1, 3)
    empty = torch.zeros(1, 0)
    assert torch.equal(
        potential_shaping(given_credit, empty, empty, step.clamp(max=-1), torch.ones(1, 3).bool())[0], given_credit
    )


def test_rows_that_were_settled_and_end_wrong_are_counted() -> None:
    right, sure = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), torch.ones(3, 2)
    step = torch.arange(2).expand(3, 2)
    _, said = potential_shaping(torch.zeros(3, 2), right, sure, step, step >= 0)
    assert float(said["truegain/right_to_wrong"]) == pytest.approx(1 / 3)
    assert float(said["truegain/checking_tokens"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("knobs", [{"damping": 1.5}, {"bonus": -1.0}, {"counted": "after"}])
def test_knobs_out_of_bounds_are_refused(knobs: dict[str, Any]) -> None:
    step, mask = steps_in_a_row(1)
    one = torch.ones(1, 1)
    # A word that is no choice is refused by the shape checker that tests run under, before the component sees it.
    with pytest.raises(Exception, match=r"potential_shaping|counted"):
        potential_shaping(one, one, one, step, mask, **knobs)


# The probe


def spelled(text: str) -> Rollout:
    problem = Problem("a", "a")
    return Rollout(
        problem, (), tuple(range(len(text))), (0.0,) * len(text), text, "eos", (Turn("policy", 0, len(text)),)
    )


def test_the_reasoning_ends_before_the_first_mark() -> None:
    row = spelled("ab\ncd</think><answer>1")

    def decode(ids: Any) -> str:
        return row.text[: len(ids)]

    assert reasoning_end(row, decode, ("</think>", "<answer>")) == 5
    assert reasoning_end(row, decode, ("<answer>",)) == 13
    assert reasoning_end(row, decode, ("nowhere", "")) == len(row.ids)
    # Lines 0 and 1 end at tokens 3 and 22; the second is cut before the mark. A step that lies after it ends there too.
    ids = [0] * 3 + [1] * 12 + [2] * 7
    (cuts,) = step_cuts(torch.tensor([ids]), [row], decode, ("</think>", "<answer>"))
    assert cuts == {0: 3, 1: 5, 2: 5}


def probed(folder: Path, form: Any, task: str, fresh: int = 2) -> tuple[Any, list[Rollout], list[Any], Any]:
    """The batch of a form's stages on rollouts of the embedded model, with every fork that its probes drew."""
    seen: list[Any] = []
    policy = Policy.load("tiny")
    with RunFolder(folder) as held:
        setup = Setup(form, policy, make(task), held)
        models, state = load_models(form, policy, policy.reference()), State()
        rollouts = Draw(setup, models, state, "sampled", "train").fresh(fresh)
        drawn = Draw.fork

        def fork(self: Draw, places: Any, samples: int, **how: Any) -> Any:
            found = drawn(self, places, samples, **how)
            seen.append((places, samples, how, found))
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Draw, "fork", fork)
            made = shape(setup, models, state, rollouts)
            batch, spent = made.batch, made.spent
    return batch, rollouts, seen, spent


def small(form: Any, **loop: Any) -> Any:
    changes = {"prompts": 2, "samples": 2, "max_tokens": 60, "eval_every": 0, **loop}
    return replace(form, loop=form.loop.model_copy(update=changes))


def test_forced_answers_are_what_the_model_says_when_it_is_cut_off(tmp_path: Path) -> None:
    task = make("sort,level=4,style=trace")
    batch, rollouts, ((places, samples, how, forks),), spent = probed(
        tmp_path / "run", small(spae(samples=3)), "sort,level=4,style=trace"
    )
    policy = Policy.load("tiny")
    assert (samples, how["temperature"]) == (3, 0.6)
    found: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for n, fork in enumerate(forks):
        parent, cut = places[n // 3]
        shared = policy.decode(parent.ids[:cut])
        assert fork.text.startswith(shared + "</think><answer>") and "<answer>" not in shared
        own = fork.engine_logp[cut + 2 :]
        verdict = float(task.score(parent.problem, fork)["correct"])  # pyright: ignore[reportIndexIssue]
        found.setdefault((parent.key, cut), []).append((verdict, math.exp(sum(own) / len(own))))
    for i, row in enumerate(rollouts):
        ids = batch["step"][i].tolist()
        for s in range(batch["probe_correct"].shape[1]):
            if s not in ids:
                assert batch["probe_correct"][i, s].isnan() and batch["probe_confidence"][i, s].isnan()
                continue
            end = max(t for t, at in enumerate(ids) if at == s) + 1
            written = policy.decode(row.ids[:end]).partition("</think>")[0].partition("<answer>")[0]
            answers = found[row.key, len(policy.encode(written))]
            right, sure = (sum(values) / 3 for values in zip(*answers, strict=True))
            assert float(batch["probe_correct"][i, s]) == pytest.approx(right)
            assert float(batch["probe_confidence"][i, s]) == pytest.approx(sure, rel=1e-5)
    assert batch["tokens"][0, : len(rollouts[0].ids)].tolist() == list(rollouts[0].ids), "probes change no rollout"
    assert spent.probed > 0


def test_answers_that_no_check_judged_are_left_out_and_where_none_is_left_stands_nan() -> None:
    class Loop:
        def fork(self, places: Any, samples: int, **how: Any) -> list[Rollout]:
            row, cut = places[0]
            made = replace(row, ids=(*row.ids[:cut], 7, 8), engine_logp=(0.0,) * cut + (0.0, -1.0), facts={})
            judged = [replace(made, facts=facts) for facts in ({"correct": 1.0}, {"abstained": "no key"})]
            return [*judged, *[replace(made, facts={"abstained": "no key"})] * 2]

    class Role:
        class policy:
            encode = staticmethod(lambda text: (9,))
            decode = staticmethod(lambda ids: "abc"[: len(ids)])

    found = forced_answers({"policy": Role}, Loop(), [spelled("abc")], torch.tensor([[0, 1, 1]]), samples=2)
    assert found["probe_correct"][0, 0] == 1.0 and found["probe_correct"][0, 1].isnan()
    assert found["probe_confidence"][0, 1].isnan()
    with pytest.raises(SettingError, match="temperature=0"):
        forced_answers({"policy": Role}, Loop(), [spelled("abc")], torch.tensor([[0, 1, 1]]), temperature=0.0)


def test_the_recipe_wires_probe_potential_and_z_score() -> None:
    form = spae(damping=0.3, bonus=0.7, samples=2)
    names = [spec_of(member).name for member in members(form.terms[0].credit)]
    assert names == ["group_normalise", "potential_shaping", "whiten"]
    (probe,) = members(form.probe)
    assert knobs_of(probe)["samples"] == 2
