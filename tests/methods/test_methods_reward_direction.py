"""A corrected direction of an embedding reward: worked example, oracle, properties; the study that learns it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.errors import SettingError
from truegain.core.system import build
from truegain.methods.reward import corrected_direction, direction_study
from truegain.methods.reward._direction_study import _optimised, learn_direction, outputs
from truegain.train.chain import Chain, execute
from truegain.train.launch import StopSignal

vectors = st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(lambda v: math.hypot(*v) > 0.05)


def oracle(e: list[float], b: list[float], omega: float, renormalise: bool) -> list[float]:
    def unit(v: list[float]) -> list[float]:
        return [x / math.hypot(*v) for x in v]

    plus, minus = (unit([x + sign * y for x, y in zip(e, b, strict=True)]) for sign in (1, -1))
    moved = [m + omega * (p - m) for p, m in zip(plus, minus, strict=True)]
    return unit(moved) if renormalise else moved


def corrected(e: list[float], b: list[float], omega: float, renormalise: bool = False) -> list[float]:
    rows = (torch.tensor(v, dtype=torch.float64) for v in (e, b))
    return corrected_direction(*rows, omega=omega, renormalise=renormalise).tolist()


def test_the_worked_example_and_what_it_scores():
    # e+- = (1, +-0.5, 0) / sqrt(1.25) = (0.89443, +-0.44721, 0); e~ = -0.5 e- + 1.5 e+ = (0.89443, 0.89443, 0)
    found = corrected([1.0, 0.0, 0.0], [0.0, 0.5, 0.0], 1.5)
    assert found == pytest.approx([0.89443, 0.89443, 0.0], abs=1e-5)
    image = [0.6, 0.8, 0.0]
    assert sum(x * y for x, y in zip(found, image, strict=True)) == pytest.approx(1.2522, abs=1e-4)
    # at length 1 it is the diagonal: 1.4 / sqrt(2)
    scaled = corrected([1.0, 0.0, 0.0], [0.0, 0.5, 0.0], 1.5, renormalise=True)
    assert sum(x * y for x, y in zip(scaled, image, strict=True)) == pytest.approx(1.4 / math.sqrt(2))


@given(vectors, vectors, st.floats(-2, 3), st.booleans())
def test_it_is_its_formula(e, b, omega, renormalise):
    e = [x / math.hypot(*e) for x in e]
    sums = ([x + s * y for x, y in zip(e, b, strict=True)] for s in (1, -1))
    plain = oracle(e, b, omega, False) if all(math.hypot(*v) > 1e-3 for v in sums) else None
    if plain is None or math.hypot(*plain) < 1e-3:
        return
    assert corrected(e, b, omega, renormalise) == pytest.approx(oracle(e, b, omega, renormalise), abs=1e-8)


@given(vectors, vectors, st.floats(-2, 3))
def test_no_vector_changes_nothing_and_a_reversed_one_is_guidance_the_other_way(e, b, omega):
    e = [x / math.hypot(*e) for x in e]
    assert corrected(e, [0.0] * 3, omega) == pytest.approx(e, abs=1e-9)
    minus = [-x for x in b]
    assert corrected(e, minus, omega) == pytest.approx(corrected(e, b, 1 - omega), abs=1e-9)
    middle = [(p + m) / 2 for p, m in zip(corrected(e, b, 1.0), corrected(e, b, 0.0), strict=True)]
    assert corrected(e, b, 0.5) == pytest.approx(middle, abs=1e-9)


def test_a_vector_that_cancels_the_prompt_gives_numbers():
    assert corrected([1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], 1.5) == pytest.approx([-0.5, 0.0, 0.0])


# The study


def test_the_outputs_are_what_they_are_said_to_be():
    world = outputs(3, prompts=4, bias=0.5)
    gold = world.reward(world.true)
    assert torch.allclose(gold[:, :15], torch.full((4, 15), 0.8, dtype=torch.float64))
    assert torch.allclose(gold[:, 15:], torch.full((4, 35), 0.3, dtype=torch.float64))
    assert torch.allclose(world.output.norm(dim=2), torch.ones(4, 50, dtype=torch.float64))
    assert torch.allclose(world.lean(world.text), torch.full((4,), 0.5, dtype=torch.float64))
    assert torch.allclose(world.lean(world.true), torch.zeros(4, dtype=torch.float64), atol=1e-12)


def test_stage_1_trains_the_vector_alone_and_raises_what_the_frozen_policy_scores():
    world = outputs(0, prompts=6)
    before = [x.clone() for x in (world.text, world.output)]
    chance = torch.full((6, 50), 0.02, dtype=torch.float64)
    mean = (chance[..., None] * world.output).sum(1)
    scores: list[float] = []
    for steps in (0, 20, 100):
        b = learn_direction(world, chance, omega=1.5, renormalise=True, steps=steps, lr=0.01)
        assert b.shape == (32,) and not b.requires_grad
        scores.append(float((mean * corrected_direction(world.text, b)).sum(1).mean()))
    assert scores[0] < scores[1] < scores[2]
    assert all(torch.equal(x, y) for x, y in zip(before, (world.text, world.output), strict=True))
    none = learn_direction(world, chance, omega=1.5, renormalise=True, steps=0, lr=0.01)
    assert float(none.abs().sum()) == 0.0


def test_stage_2_ends_at_the_closed_form_of_reward_minus_penalty():
    reward = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(_optimised(reward, 800, 0.05, 0.5), (reward / 0.5).softmax(1), atol=1e-3)
    assert torch.allclose(_optimised(reward, 0, 0.05, 0.5), torch.full((3, 5), 0.2, dtype=torch.float64))


def test_the_plain_reward_keeps_its_lean_and_the_other_reading_overshoots():
    plain = direction_study(correction="none", seed=5, bias=0.5, updates=5, stage1_steps=5)
    assert plain["lean"] == pytest.approx(0.5) and plain["length"] == 0.0
    learned = direction_study(seed=5, bias=0.5, updates=5)
    assert abs(learned["lean"]) < 0.1 and learned["length"] > 0
    # By hand, for one prompt: with u = t - 0.5 past the bias, 1.5 / sqrt(1 + u^2) - 0.5 / sqrt(1 + (1 + u)^2) is
    # largest near u = 0.115, where the lean is (-1.5 * 0.114 - 0.5 * 0.744) / (1.5 * 0.993 - 0.5 * 0.668) = -0.47
    dot = direction_study(seed=5, bias=0.5, renormalise=False, updates=5, stage1_steps=400)
    assert dot["lean"] == pytest.approx(-0.47, abs=0.1)


def test_random_and_reversed_vectors_have_the_learned_ones_length():
    found = {how: direction_study(correction=how, seed=1, updates=2) for how in ("learned", "reversed", "random")}
    assert found["reversed"]["length"] == pytest.approx(found["learned"]["length"])
    assert found["random"]["length"] == pytest.approx(found["learned"]["length"])
    assert found["reversed"]["lean"] > 1.0 > found["learned"]["lean"]


@pytest.mark.parametrize("knobs", [{"updates": -1}, {"lr": 0.0}, {"beta": -1.0}, {"correction": "guessed"}])
def test_what_cannot_be_run_is_refused(knobs):
    with pytest.raises((SettingError, TypeCheckError)):
        direction_study(**knobs)


def test_the_recipe_runs_as_a_study_and_again_to_the_same_numbers(tmp_path: Path):
    records = []
    for name in ("a", "b"):
        chain = Chain(build("d2-align"), "d2-align", tmp_path / name, seed=4)
        list(execute(chain, StopSignal()))
        records.append(json.loads((tmp_path / name / "1-study" / "record.json").read_text()))
        records[-1].pop("seconds")
    assert records[0] == records[1] and records[0]["kept"] > 1.0
