"""HiPER: parts of turns, penalties, and the advantages of three levels against derivations and a slow oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import truegain.recipes  # noqa: F401  (fills the systems)
from truegain.core.errors import SettingError, WiringError
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.methods.credit import by_tags, gae, goal_penalties, hierarchical_advantage, level_mean
from truegain.policy.policy import Policy
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train

SEEDS = st.integers(0, 500)


def row(switch: list[bool], rewards: list[float], heads: list[list[float]], outcome: float = 0.0) -> dict[str, Tensor]:
    """One row: decision, subgoal and action, a token each, per turn; ``heads`` are V_action, V_goal, V_decision."""
    turns = len(switch)
    part = torch.tensor([[n for s in switch for n in (int(s), 2, 3)]])
    values = torch.zeros(1, 3 * turns, 3, dtype=torch.float64)
    for level, at in ((0, 2), (1, 1), (2, 0)):
        values[0, at::3, level] = torch.tensor(heads[level], dtype=torch.float64)
    return {
        "reward": torch.tensor([outcome], dtype=torch.float64),
        "turn_reward": torch.tensor([rewards], dtype=torch.float64),
        "old_values": values,
        "truncated": torch.tensor([False]),
        "turn": torch.arange(turns).repeat_interleave(3)[None],
        "part": part,
        "mask": part >= 0,
    }


def found(columns: dict[str, Tensor], level: Any, **knobs: Any) -> list[float]:
    """The advantage at each turn's token of the level."""
    at = {"decision": 0, "goal": 1, "action": 2}[level]
    value = hierarchical_advantage(**columns, level=level, scale=False, **knobs)
    others = value.clone()
    others[:, at::3] = 0
    assert not others.any(), "tokens of another level are credited"
    return value[0, at::3].tolist()


def oracle(columns: dict[str, Tensor], gamma: float, turn_lam: float, goal_lam: float, bootstrap: bool) -> Any:
    """The three lists by the formulas, segment by segment."""
    turns = columns["turn_reward"].shape[1]
    r = columns["turn_reward"][0].tolist()
    r[-1] += float(columns["reward"])
    low, high, term = (columns["old_values"][0, at::3, n].tolist() for n, at in ((0, 2), (1, 1), (2, 0)))
    starts = [t for t in range(turns) if t == 0 or columns["part"][0, 3 * t] == 1]
    ends = [s - 1 for s in starts[1:]] + [turns - 1]
    cut = bool(columns["truncated"]) and bootstrap
    action, goal, decision = [0.0] * turns, [0.0] * turns, [0.0] * turns
    carried = 0.0
    for k in reversed(range(len(starts))):
        s, e, final = starts[k], ends[k], k == len(starts) - 1
        beyond = (high[s] if cut else 0.0) if final else high[starts[k + 1]]
        for t in range(e, s - 1, -1):
            following = low[t + 1] if t < e else (low[e] if cut else 0.0) if final else beyond
            action[t] = r[t] + gamma * following - low[t] + (gamma * turn_lam * action[t + 1] if t < e else 0.0)
            decision[t] = (
                sum(gamma ** (j - t) * r[j] for j in range(t, e + 1)) + gamma ** (e - t + 1) * beyond - term[t]
            )
        n = e - s + 1
        total = sum(gamma**j * r[s + j] for j in range(n))
        carried = total + gamma**n * beyond - high[s] + (0.0 if final else gamma**n * goal_lam * carried)
        goal[s] = carried
    return action, goal, decision


def drawn(seed: int, turns: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    heads = torch.randn(3, turns, generator=rng).tolist()
    switch = (torch.rand(turns, generator=rng) < 0.4).tolist()
    return row(switch, torch.randn(turns, generator=rng).tolist(), heads, float(torch.randn((), generator=rng)))


def test_a_worked_example() -> None:
    # Two turns, then a switch to one: V_action .3 .4 | .6, V_goal .35 | .5, reward 1 at the end, both lambdas .95.
    # action: 1 - .6 = .4; .5 - .4 = .1; .4 - .3 + .95 * .1 = .195. goal: 1 - .5 = .5; .5 - .35 + .95 * .5 = .625.
    # decision with V_decision = 0: the return to the segment's end: .5, .5 (V_goal of the next), 1.
    columns = row([True, False, True], [0.0] * 3, [[0.3, 0.4, 0.6], [0.35, 9.0, 0.5], [0.0] * 3], outcome=1.0)
    assert found(columns, "action", turn_lam=0.95) == pytest.approx([0.195, 0.1, 0.4])
    assert found(columns, "goal", goal_lam=0.95) == pytest.approx([0.625, 0.0, 0.5])
    assert found(columns, "decision") == pytest.approx([0.5, 0.5, 1.0])


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, turns=st.integers(1, 7), bootstrap=st.booleans(), cut=st.booleans())
def test_it_agrees_with_a_slow_oracle(seed: int, turns: int, bootstrap: bool, cut: bool) -> None:
    columns = drawn(seed, turns) | {"truncated": torch.tensor([cut])}
    knobs = {"gamma": 0.9, "turn_lam": 0.8, "goal_lam": 0.7, "bootstrap": bootstrap}
    for level, wanted in zip(("action", "goal", "decision"), oracle(columns, **knobs), strict=True):
        assert found(columns, level, **knobs) == pytest.approx(wanted, abs=1e-12)


@given(seed=SEEDS, turns=st.integers(1, 6))
def test_one_segment_with_one_value_is_gae_over_turns(seed: int, turns: int) -> None:
    values = torch.randn(turns, generator=torch.Generator().manual_seed(seed)).tolist()
    columns = row([True] + [False] * (turns - 1), [0.0] * turns, [values, values, values], outcome=1.0)
    flat = torch.tensor([values], dtype=torch.float64)
    one = torch.ones(1, turns, dtype=torch.bool)
    wanted = gae(columns["reward"], flat, one, gamma=0.9, lam=0.8)[0].tolist()
    assert found(columns, "action", gamma=0.9, turn_lam=0.8) == pytest.approx(wanted)


@given(seed=SEEDS, turns=st.integers(2, 6))
def test_when_every_turn_switches_an_action_is_credited_by_one_step_to_the_next_goals_value(
    seed: int, turns: int
) -> None:
    columns = drawn(seed, turns) | {"part": torch.tensor([[1, 2, 3] * turns])}
    low, high = columns["old_values"][0, 2::3, 0].tolist(), columns["old_values"][0, 1::3, 1].tolist()
    r = columns["turn_reward"][0].tolist()
    r[-1] += float(columns["reward"])
    wanted = [r[t] + (high[t + 1] if t + 1 < turns else 0.0) - low[t] for t in range(turns)]
    assert found(columns, "action") == pytest.approx(wanted)


@given(turns=st.integers(1, 5), level=st.sampled_from(["action", "goal", "decision"]))
def test_nothing_earned_and_nothing_foreseen_is_nothing(turns: int, level: Any) -> None:
    columns = row([False] * turns, [0.0] * turns, [[0.0] * turns] * 3)
    assert found(columns, level) == [0.0] * turns


def test_the_end_of_a_row_stops_every_bootstrap_unless_it_was_cut_off() -> None:
    columns = row([True, False], [0.0, 0.0], [[5.0, 7.0], [3.0, 0.0], [0.0, 0.0]])
    assert found(columns, "action", bootstrap=True)[1] == -7.0 and found(columns, "goal", bootstrap=True)[0] == -3.0
    cut = columns | {"truncated": torch.tensor([True])}
    assert found(cut, "action", bootstrap=True)[1] == 0.0 and found(cut, "goal", bootstrap=True)[0] == 0.0
    # The decision's return goes on with V_goal of the segment, as the subgoal's does.
    assert found(cut, "decision", bootstrap=True) == [3.0, 3.0]
    assert found(cut, "action")[1] == -7.0 and found(cut, "decision") == [0.0, 0.0]


def test_whitening_is_over_the_turns_that_have_the_level() -> None:
    columns = drawn(3, 5)
    raw = torch.tensor(found(columns, "goal"))
    begins = torch.tensor([t == 0 or columns["part"][0, 3 * t] == 1 for t in range(5)])
    wanted = (raw - raw[begins].mean()) / (raw[begins].std(unbiased=False) + 1e-8) * begins
    value = hierarchical_advantage(**columns, level="goal")[0, 1::3]  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(value, wanted.double(), atol=1e-6, rtol=1e-5)


@given(seed=SEEDS)
def test_a_critics_target_is_its_advantage_and_its_value_where_its_weight_is(seed: int) -> None:
    columns = drawn(seed, 4)
    for n, level in enumerate(("action", "goal", "decision")):
        aim = hierarchical_advantage(**columns, level=level, target=True)  # pyright: ignore[reportArgumentType]
        plain = hierarchical_advantage(**columns, level=level, scale=False)  # pyright: ignore[reportArgumentType]
        weight = level_mean(columns["turn"], columns["part"], columns["mask"], level=level)  # pyright: ignore[reportArgumentType]
        at = weight > 0
        torch.testing.assert_close(aim[at], (plain + columns["old_values"][..., n])[at])
        assert not aim[~at].any() and float(weight.sum()) == pytest.approx(1.0)


def test_another_number_of_critics_and_knobs_out_of_bounds_are_refused() -> None:
    columns = drawn(0, 2)
    with pytest.raises(WiringError, match=r"3 critics.*the form has 2 roles"):
        hierarchical_advantage(**columns | {"old_values": columns["old_values"][..., :2]})
    with pytest.raises(SettingError, match=r"gamma=1\.5"):
        hierarchical_advantage(**columns, gamma=1.5)
    with pytest.raises(SettingError, match="keep="):
        goal_penalties(columns["turn"], columns["turn"], columns["part"], columns["mask"], keep=-1.0)


def parts(text: str, cuts: list[tuple[int, int]] | None = None) -> list[int]:
    return by_tags(text, cuts or [(i, i + 1) for i in range(len(text))])


@pytest.mark.parametrize(
    "text", ["", "up", "<action>up", "<switch>SWITCH<subgoal>key</switch>", "<action></action>", "</action><action>"]
)
def test_malformed_tags_crash_nothing_and_give_no_subgoal_nor_decision(text: str) -> None:
    assert set(parts(text)) <= {-1, 3}


def test_a_switch_in_lower_case_counts_and_anything_else_keeps() -> None:
    assert parts("<switch> switch </switch><action>a</action>")[8] == 1
    assert parts("<switch>SWITCHES</switch><action>a</action>")[8] == 0


def test_what_a_tool_wrote_completes_no_tag() -> None:
    text = "<action>up<result></action></result>"
    cuts = [(0, 8), (8, 10), (-1, -1)]
    assert by_tags(text, cuts) == [3, 3, -1]


def test_penalties_by_hand() -> None:
    # Turn 0 begins; turn 1 keeps and writes another subgoal; turn 2 has no tags; turn 3 switches.
    part = torch.tensor([[1, 2, 3, 0, 2, 3, 3, 1, 2, 3]])
    turn = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 3, 3, 3]])
    words = torch.tensor([[9, 5, 1, 8, 6, 1, 4, 9, 7, 1]])
    by_turn = goal_penalties(words, turn, part, part >= 0, per="turn")["turn_reward"]
    torch.testing.assert_close(by_turn, torch.tensor([[0.0, -0.6, -0.4, 0.0]]))
    shared = goal_penalties(words, turn, part, part >= 0)["turn_reward"]
    torch.testing.assert_close(shared, torch.tensor([[0.0, -0.375, -0.175, 0.0]]))
    nothing = goal_penalties(words, turn, part, torch.zeros_like(part, dtype=torch.bool))["turn_reward"]
    assert nothing.isnan().all()


@pytest.mark.parametrize("task", ["calculator", "sort"])
def test_two_real_steps_train_all_three_critics(task: str, tmp_path: Path) -> None:
    (form,) = build("hiper-hae")
    form = loop_with(form, steps=2, prompts=2, samples=4, max_tokens=24, eval_every=0, save_every=0)
    with RunFolder(tmp_path / "run") as folder:
        lines = list(train(Setup(form, Policy.load("tiny"), make(task), folder, 0), lambda: None))
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 2
    for level in ("action", "goal", "decision"):
        assert steps[-1][f"truegain/{level}_critic/grad_norm"] > 0
