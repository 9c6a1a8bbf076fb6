"""ReBalance: the control function, the sampler that pushes at the ends of steps, and the fit on traces."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import DataError, SettingError
from truegain.core.types import Request, Sampling
from truegain.methods.length import fit_balance, steer_balanced
from truegain.methods.length._balance import Balance, coefficient, curve, steepness
from truegain.methods.length._fit_balance import explained
from truegain.policy.policy import Policy
from truegain.rollout.engines import engine_for

SHARES = st.floats(0.0, 1.0)
PUBLISHED = Balance()


def u(confidence: float, variance: float, balance: Balance = PUBLISHED) -> float:
    c, v = (torch.tensor([x], dtype=torch.float64) for x in (confidence, variance))
    return float(coefficient(c, v, balance))


def oracle(c: float, v: float, b: Balance) -> float:
    """The formula of the catalog in plain Python, its k found by a scan of another kind."""
    (c25, c75), (v25, v75) = b.sure, b.restless
    m, s, a = (c25 + c75) / 2, (c75 - c25) / 2, b.low / 2

    def gap(k: float) -> float:
        return a - b.low / (2 * math.tanh(k * s)) * math.tanh(k * (1 - m)) - 0.01

    # F(1) falls in k: secant steps by regula falsi on the bracket.
    low, high = 1e-3, 1e4
    for _ in range(4000):
        k = (low + high) / 2
        low, high = (k, high) if gap(k) > 0 else (low, k)

    def f(x: float) -> float:
        return a - b.low / (2 * math.tanh(k * s)) * math.tanh(k * (x - m))

    def sig(x: float) -> float:
        x = min(max(x, -60.0), 60.0)
        return 1 / (1 + math.exp(-x))

    w_low = min(1.0, sig(1200 * (c25 - c) / (c75 - c25)) * sig(1200 * (v - v75) / (v75 - v25)) / 0.25)
    top = sig(12 * (1 - c75) / (c75 - c25)) * 0.5
    w_high = min(1.0, sig(1200 * (c - c75) / (c75 - c25)) * sig(1200 * (v25 - v) / (v75 - v25)) / top)
    found = f(c) + (b.hard_low - f(c25)) * w_low + (b.hard_high - f(1.0)) * w_high
    return min(max(found, min(b.low, b.hard_low)), max(0.01, b.hard_high))


def test_the_worked_example_of_the_catalog() -> None:
    # m = .775, s = .125: tanh(.225 k) / tanh(.125 k) = 1.02 at k = 18.357.
    assert steepness(PUBLISHED) == pytest.approx(18.3574, abs=1e-4)
    c = torch.tensor([0.65, 0.9, 1.0, 0.5, 0.98, 0.775], dtype=torch.float64)
    v = torch.tensor([0.0, 0.005, 0.005, 0.02, 0.0001, 0.02], dtype=torch.float64)
    assert curve(c, PUBLISHED).tolist() == pytest.approx([-1.0, 0.0, 0.01, -1.0102, 0.0097, -0.5], abs=1e-4)
    assert coefficient(c, v, PUBLISHED).tolist() == pytest.approx([-1.0, 0.0, 0.01, -2.0, 0.0997, -0.5], abs=1e-4)


@given(c=SHARES, v=st.floats(0.0, 0.25), low=st.floats(-3.0, -0.2), more=st.floats(0.0, 2.0), up=st.floats(0.0, 0.5))
def test_the_coefficient_is_the_formulas_and_stays_within_its_bounds(
    c: float, v: float, low: float, more: float, up: float
) -> None:
    balance = Balance(low=low, hard_low=low - more, hard_high=up)
    assert u(c, v, balance) == pytest.approx(oracle(c, v, balance), abs=1e-6)
    assert min(low, low - more) - 1e-9 <= u(c, v, balance) <= max(0.01, up) + 1e-9


@given(pair=st.tuples(SHARES, SHARES), top=st.floats(0.8, 0.95), low=st.floats(-3.0, -0.2))
def test_the_curve_rises_through_the_quartiles_to_its_top(pair: tuple[float, float], top: float, low: float) -> None:
    balance = Balance(sure=(top - 0.2, top), low=low, hard_low=2 * low)
    try:
        values = curve(torch.tensor([*sorted(pair), top - 0.2, top, 1.0], dtype=torch.float64), balance).tolist()
    except SettingError:
        # (1 - m) / s must exceed 1 - 2 TOP / low: only a low near 0, or a quartile near 1, has no such curve.
        assert (1.1 - top) / 0.1 <= 1 - 0.02 / low
        return
    assert values[0] <= values[1] + 1e-12
    assert values[2:] == pytest.approx([low, 0.0, 0.01], abs=1e-3)


def test_restless_and_unsure_is_pushed_hard_and_sure_and_calm_the_other_way() -> None:
    assert u(0.5, 0.05) == pytest.approx(-2.0)
    assert u(0.99, 0.0) == pytest.approx(0.1, abs=1e-3) and u(0.99, 0.0) > 0


@pytest.mark.parametrize(
    "wrong",
    [{"sure": (0.9, 0.9)}, {"sure": (0.5, 1.0)}, {"restless": (0.1, 0.1)}, {"low": 0.0}, {"sure": (0.5, 0.999)}],
)
def test_numbers_that_no_curve_fits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="steering"):
        steepness(Balance(**wrong))


def pushes(pieces: list[str], peaks: list[float], tmp_path: Path, **knobs: Any) -> list[float]:
    """How far a row's hidden state is pushed at each of its tokens, in units of the direction."""
    file = tmp_path / "d.npy"
    np.save(file, (torch.tensor([2.0, 0.0])).numpy())
    state: dict[str, torch.Tensor] = {}
    found: list[float] = []
    for piece, peak in zip(pieces, peaks, strict=True):
        hidden, state = steer_balanced(
            torch.ones(1, 2), torch.tensor([peak]), [piece], state, direction=str(file), **knobs
        )
        assert hidden[0, 1] == 1.0
        found.append((float(hidden[0, 0]) - 1) / 2)
    return found


def test_only_the_ends_of_steps_inside_the_thought_are_pushed_by_the_steps_own_numbers(tmp_path: Path) -> None:
    pieces = ["x\n\n", "<think>", "a", "\n\n", "b", "c\n\n", "</think>", "d\n\n"]
    peaks = [0.1, 0.1, 0.6, 0.7, 0.9, 0.5, 0.2, 0.3]
    # Steps: (.6 + .7) / 2 = .65, v = 0; (.9 + .5) / 2 = .7, v = .05^2 / 4 = .000625.
    wanted = [0, 0, 0, oracle(0.65, 0.0, PUBLISHED), 0, oracle(0.7, 0.000625, PUBLISHED), 0, 0]
    assert pushes(pieces, peaks, tmp_path) == pytest.approx(wanted, abs=1e-5)
    # A prompt that opens the thought: the first step is that before the mark, too.
    assert pushes(pieces[:1], [0.65], tmp_path, opened=True) == pytest.approx([-1.0], abs=1e-4)
    assert pushes(pieces, peaks, tmp_path, constant=-0.3) == pytest.approx([0, 0, 0, -0.3, 0, -0.3, 0, 0], abs=1e-6)


def test_a_second_thought_begins_anew(tmp_path: Path) -> None:
    said = ["<think>", "a\n\n", "</think>", "<think>", "b\n\n"]
    found = pushes(said, [0.5, 0.3, 0.5, 0.5, 0.99], tmp_path)
    # No step before it: v = 0, not ((.99 - .3) / 2)^2.
    assert found[4] == pytest.approx(oracle(0.99, 0.0, PUBLISHED), abs=1e-5)


def test_without_a_direction_or_with_one_of_another_width_it_is_refused(tmp_path: Path) -> None:
    given_ = (torch.ones(1, 3), torch.tensor([0.5]), ["a"], {})
    with pytest.raises(SettingError, match="names no file"):
        steer_balanced(*given_)
    with pytest.raises(DataError, match="holds no direction"):
        steer_balanced(*given_, direction=str(tmp_path / "nothing"))
    np.save(tmp_path / "d.npy", (torch.zeros(2)).numpy())
    with pytest.raises(DataError, match="2 numbers, a state of the model 3"):
        steer_balanced(*given_, direction=str(tmp_path / "d.npy"))


class Reader:
    """A model whose state is the token's own row of a table, plus noise, and whose log-probs are given per token."""

    device = torch.device("cpu")
    pieces = ("<think>", "calm\n", "check\n", "dull\n", "</think>", "9")
    # log-probs of the six tokens after any other one: calm steps are sure, checks are not
    chances = torch.tensor([0.05, 0.6, 0.1, 0.15, 0.05, 0.05])

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.table = torch.randn(6, 3, 8, generator=rng)  # by token and layer
        self.noise = rng

    def decode(self, ids: tuple[int, ...]) -> str:
        return "".join(self.pieces[i] for i in ids)

    def model(self, input_ids: torch.Tensor, output_hidden_states: bool) -> Any:
        ids = input_ids[0]
        noise = 0.05 * torch.randn(len(ids), 3, 8, generator=self.noise)
        # Layer 2 of 3 (block 1) knows the token; block 0 sees noise alone.
        states = self.table[ids] * torch.tensor([0.0, 0.0, 1.0])[None, :, None] + noise
        hidden = [states[None, :, n] for n in range(3)] + [torch.zeros(1, len(ids), 8)]
        return SimpleNamespace(logits=self.chances.log().expand(1, len(ids), 6), hidden_states=hidden)


def rows(count: int) -> list[dict[str, Any]]:
    rng = torch.Generator().manual_seed(1)
    body = torch.randint(1, 4, (count, 12), generator=rng).tolist()
    return [{"prompt_ids": [5], "completion_ids": [0, *ids, 4, 5]} for ids in body]


def test_the_fit_finds_the_block_that_knows_the_steps_and_the_direction_between_them(tmp_path: Path) -> None:
    reader = Reader()
    found = fit_balance(reader, rows(40), tmp_path, boundary="\n", quartiles=(0.3, 0.6), words=("check",))
    # One-token steps: c is the token's own chance, .6, .1 or .15; a third of each.
    assert found["sure"] == pytest.approx([0.1, 0.15], abs=1e-5) or found["sure"] == pytest.approx([0.1, 0.6], abs=1e-5)
    assert found["layer"] == 1 and found["r2"][1] > 0.9 > found["r2"][0]
    direction = torch.from_numpy(np.load(tmp_path / "direction.npy"))
    wanted = reader.table[2, 2] - reader.table[1, 2]
    assert torch.allclose(direction, wanted, atol=0.15)
    settings = found["settings"]
    assert settings["sampler.steer_balanced.layer"] == 1
    assert settings["sampler.steer_balanced.direction"] == str(tmp_path / "direction.npy")
    assert found["low"] == -1.0 and -3.0 <= found["hard_low"] <= -1.0


def test_swapping_the_labels_turns_the_direction_round(tmp_path: Path) -> None:
    (a, b) = (tmp_path / "a", tmp_path / "b")
    for place, words in ((a, ("check",)), (b, ("calm",))):
        place.mkdir()
        reader = Reader()
        # Unsure and sure are swapped by the chances, reflecting and calm by the word.
        if words == ("calm",):
            reader.chances = reader.chances[[0, 2, 1, 3, 4, 5]]
        fit_balance(reader, rows(40), place, boundary="\n", quartiles=(0.3, 0.6), words=words)
    first, second = (torch.from_numpy(np.load(place / "direction.npy")) for place in (a, b))
    assert torch.allclose(first, -second, atol=0.15)


def test_too_few_steps_or_shares_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few"):
        fit_balance(Reader(), rows(0), tmp_path)
    with pytest.raises(DataError, match="too few"):
        fit_balance(Reader(), [{"prompt_ids": [5], "completion_ids": [0, *[1] * 20]}], tmp_path, boundary="\n")
    with pytest.raises(SettingError, match="rise between 0 and 1"):
        fit_balance(Reader(), rows(2), tmp_path, quartiles=(0.7, 0.3))


def test_the_share_explained_is_1_for_a_linear_target_and_no_more_than_0_for_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(200, 6, generator=rng, dtype=torch.float64)
    test = torch.arange(200) % 5 == 0
    assert explained(states, states @ torch.arange(6.0).double(), test, 64, 1e-9) == pytest.approx(1.0)
    assert explained(states, torch.randn(200, generator=rng, dtype=torch.float64), test, 64, 1.0) < 0.1
    assert explained(states, torch.ones(200, dtype=torch.float64), test, 64, 1.0) == float("-inf")


def test_on_the_embedded_model_the_fit_reads_its_states_and_the_sampler_changes_what_is_drawn(tmp_path: Path) -> None:
    policy = Policy.load("tiny")
    engine = engine_for(policy)
    prompt = policy.encode_prompt("chain a=3 b=a+4 c=b*2 d=c+5 e=d-1 think\n")
    drawn = engine.generate([Request(prompt, key=n) for n in range(32)], Sampling(max_tokens=100, stop=("</answer>",)))
    data = [{"prompt_ids": list(prompt), "completion_ids": list(s.ids)} for s in drawn]
    fitted = fit_balance(policy, data, tmp_path, boundary="\n")
    knobs = {name.rpartition(".")[2]: value for name, value in fitted["settings"].items()}
    strong = partial(steer_balanced, **{**knobs, "constant": 20.0})
    how = Sampling(max_tokens=100, stop=("</answer>",), samplers=(strong,))
    pushed = engine.generate([Request(prompt, key=n) for n in range(32)], how)
    changed = [n for n, (a, b) in enumerate(zip(drawn, pushed, strict=True)) if a.ids != b.ids]
    assert changed
    for n in changed:
        # Up to the first line's end nothing is pushed, so nothing differs.
        first = next(t for t, i in enumerate(drawn[n].ids) if "\n" in policy.decode((i,)))
        assert drawn[n].ids[: first + 1] == pushed[n].ids[: first + 1]
