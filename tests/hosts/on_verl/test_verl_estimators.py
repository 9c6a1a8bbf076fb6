"""Advantage estimators inside verl: against our own arithmetic, and against verl's where it has the same one."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import advantage, masks, rewards, uids, v1_advantage
from torch import Tensor
from verl.trainer.config import AlgoConfig
from verl.trainer.config.algorithm import FilterGroupsConfig
from verl.trainer.ppo import core_algos

import truegain.hosts.verl as plugin
from truegain.core.arithmetic import credit_stage, reward_stage
from truegain.core.batch import Batch
from truegain.core.component import REGISTRY
from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import Term, Train
from truegain.core.system import build
from truegain.hosts.offers import offer, refusal
from truegain.hosts.verl_columns import groups_of
from truegain.hosts.verl_config import Config, entries, read

ROWS, WIDTH = 8, 9


def truth(form: Train, mask: Tensor, reward: Tensor, **more: Tensor) -> Tensor:
    """What our own loop gives for the same rows: `correct` or `score` from the checker, groups, and the mask."""
    scores = reward.sum(1)
    batch = Batch(mask=mask.bool(), group=groups_of(uids(len(mask))), correct=scores, score=scores, **more)
    facts = {"max_tokens": WIDTH}
    found = credit_stage(form, reward_stage(form, batch, facts)[0], facts)[0][0]
    assert found is not None
    return found


def around(*credit: Any) -> Train:
    """A form of components alone."""
    term = Term(
        credit=tuple(REGISTRY[f"credit.{one}"].function if isinstance(one, str) else one for one in credit),
        surrogate=REGISTRY["objective.policy_gradient"].function,
        weight=REGISTRY["objective.token_mean"].function,
    )
    return Train(reward=REGISTRY["reward.user_score"].function, terms=(term,))


@pytest.fixture
def knobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register again under a file of knobs; the plain names come back after the test."""

    def write(text: str) -> Config:
        (tmp_path / "verl.toml").write_text(text)
        monkeypatch.setenv("TRUEGAIN_VERL_CONFIG", str(tmp_path / "verl.toml"))
        plugin.install()
        return read()

    yield write
    monkeypatch.delenv("TRUEGAIN_VERL_CONFIG", raising=False)
    plugin.install()


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("name", ["group_normalise", "leave_one_out", "return_to_go", "weighted_rewards"])
def test_an_estimator_gives_our_loops_numbers(name: str, turns: bool) -> None:
    for seed in range(3):
        mask = masks(ROWS, WIDTH, seed, turns)
        reward = rewards(mask, seed, verdicts=False)
        found, returns = advantage(f"truegain_{name}", reward, mask, uids(ROWS))
        assert torch.equal(found, truth(around(name), mask, reward))
        assert torch.equal(found, returns)
        assert found.dtype == torch.float32
        assert (found[mask == 0] == 0).all()


def by_hand(mask: Tensor) -> Tensor:
    """Turns by counting runs, row by row, up to the last policy token."""
    out = torch.full(mask.shape, -1)
    for i, row in enumerate(mask.tolist()):
        runs = [list(run) for _, run in itertools.groupby(row[: max(t + 1 for t in range(len(row)) if row[t])])]
        flat = [number for number, run in enumerate(runs) for _ in run]
        out[i, : len(flat)] = torch.tensor(flat)
    return out


@pytest.mark.parametrize("turns", [False, True])
def test_turn_and_step_rewards_are_rebuilt_from_dense_ones(turns: bool) -> None:
    mask = masks(ROWS, WIDTH, 3, turns)
    reward = rewards(mask, 3, dense=True)
    found, _ = advantage("truegain_turn_returns", reward, mask, uids(ROWS))
    # By hand: the reward of a turn is what stands on its tokens and on those of the tool behind them.
    turn = by_hand(mask)
    sums = torch.full((ROWS, int(turn.max()) + 1), math.nan)
    for i in range(ROWS):
        sums[i, : int(turn[i].max()) + 1] = 0.0
        own = 0
        for t in range(WIDTH):
            own = int(turn[i, t]) if mask[i, t] else own
            sums[i, own] += reward[i, t]
    assert torch.allclose(found, truth(around("turn_returns"), mask, reward, turn=turn, turn_reward=sums), atol=1e-6)
    assert found.abs().sum() > 0
    steps, _ = advantage("truegain_step_returns", reward, mask, uids(ROWS))
    ended = reward != 0
    step = (ended.long().cumsum(1) - ended.long()).masked_fill(mask == 0, -1)
    assert (steps[step == 0] != 0).any()
    for i in range(ROWS):
        for s in step[i][step[i] >= 0].unique().tolist():
            later = reward[i][ended[i].long().cumsum(0) - ended[i].long() >= s].sum()
            assert torch.allclose(steps[i][step[i] == s], later.expand(int((step[i] == s).sum())), atol=1e-5)


def test_a_component_of_steps_refuses_a_reward_that_stands_at_the_end() -> None:
    plugin.install()  # it has not seen the dense rewards of other tests
    mask = masks(ROWS, WIDTH, 0)
    with pytest.raises(WiringError, match=r"credit\.min_form needs column 'step_reward'.*assemble_rm_scores"):
        advantage("truegain_min_form", rewards(mask, 1), mask, uids(ROWS))


@pytest.mark.parametrize(
    ("ours", "theirs", "config"),
    [
        ("group_normalise", "grpo", {}),
        ("leave_one_out", "rloo", {}),
        ("leave_one_out", "rloo_vectorized", {}),
        ("dr_grpo", "gpg", {}),
    ],
)
def test_the_same_estimator_of_verls_own_gives_the_same_numbers(ours: str, theirs: str, config: Any) -> None:
    for seed in range(5):
        mask = masks(ROWS, WIDTH, seed, turns=seed % 2 == 1)
        reward = rewards(mask, seed, verdicts=False)
        mine, _ = advantage(f"truegain_{ours}", reward, mask, uids(ROWS), **config)
        their, _ = advantage(theirs, reward, mask, uids(ROWS), **config)
        assert torch.allclose(mine, their, atol=2e-5), (mine - their).abs().max()


def test_dr_grpo_is_verls_grpo_without_the_deviation() -> None:
    from verl import DataProto
    from verl.trainer.ppo.ray_trainer import compute_advantage

    mask = masks(ROWS, WIDTH, 1)
    reward = rewards(mask, 1)
    data = DataProto.from_dict(
        tensors={"token_level_rewards": reward, "response_mask": mask}, non_tensors={"uid": uids(ROWS)}
    )
    theirs = compute_advantage(data, "grpo", norm_adv_by_std_in_grpo=False, config=AlgoConfig()).batch["advantages"]
    assert torch.allclose(advantage("truegain_dr_grpo", reward, mask, uids(ROWS))[0], theirs, atol=1e-6)


def test_reinforce_plus_plus_is_whitened_returns_under_a_file_of_knobs(knobs: Any) -> None:
    knobs('[whiten]\nwith = ["return_to_go"]\n[return_to_go]\ngamma = 0.9\n')
    mask = masks(ROWS, WIDTH, 2, turns=True)
    reward = rewards(mask, 2)
    mine, _ = advantage("truegain_whiten", reward, mask, uids(ROWS), gamma=0.9)
    theirs, _ = advantage("reinforce_plus_plus", reward, mask, uids(ROWS), gamma=0.9)
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_a_group_of_one_gets_nothing_where_verl_keeps_its_raw_reward() -> None:
    mask, index = masks(3, WIDTH, 0), np.array(["a", "a", "b"], dtype=object)
    reward = torch.zeros(3, WIDTH)
    reward[:, 0] = torch.tensor([1.0, 0.0, 1.0])
    assert (advantage("truegain_grpo", reward, mask, index)[0][2] == 0).all()
    assert (advantage("grpo", reward, mask, index)[0][2][mask[2] == 1] != 0).all()


def test_an_abstention_is_left_out_of_its_group_and_gets_no_advantage() -> None:
    mask = masks(ROWS, WIDTH, 4)
    reward = rewards(mask, 4, verdicts=False)
    reward[1, 0] = math.nan
    found, _ = advantage("truegain_grpo", reward, mask, uids(ROWS))
    rest = [0, *range(2, ROWS)]
    alone, _ = advantage("truegain_grpo", reward[rest], mask[rest], uids(ROWS)[rest])
    assert torch.equal(found[rest], alone)
    assert (found[1] == 0).all()
    none, _ = advantage("truegain_grpo", torch.full_like(reward, math.nan), mask, uids(ROWS))
    assert (none == 0).all()


def test_rows_without_a_token_and_a_batch_of_one_row_are_served() -> None:
    mask = masks(ROWS, WIDTH, 5)
    mask[3] = 0
    found, _ = advantage("truegain_grpo", torch.rand(ROWS, WIDTH), mask, uids(ROWS))
    assert (found[3] == 0).all()
    assert found.isfinite().all()
    one, _ = advantage("truegain_leave_one_out", torch.ones(1, 2), torch.ones(1, 2).long(), uids(1))
    assert one.tolist() == [[0.0, 0.0]]


def runnable(kind: str) -> list[str]:
    """What `truegain hosts verl` says runs, of a kind."""
    list(entries(Config()))
    return sorted(s.name for s in REGISTRY.values() if s.kind == kind and refusal(s, offer("verl")) is None)


FILTER = FilterGroupsConfig(enable=True, metric="acc")


@pytest.mark.parametrize("name", runnable("credit"))
def test_every_estimator_that_the_table_says_runs_does(name: str, knobs: Any) -> None:
    base = "step_returns" if name == "spare_separators" else "group_normalise"
    modifies = REGISTRY[next(k for k in REGISTRY if k.endswith(f".{name}"))].modifies is not None
    knobs(f"max_tokens = {WIDTH}\n" + (f'[{name}]\nwith = ["{base}"]\n' if modifies else ""))
    mask = masks(ROWS, WIDTH, 6, turns=True)
    reward = rewards(mask, 6, dense=True)
    if "correct" in REGISTRY[next(k for k in REGISTRY if k.endswith(f".{name}"))].inputs:
        # Dense, with 0 or 1 in sum.
        reward = rewards(mask, 6)
        reward[:, 0] += 0.5
        reward[:, 2] -= 0.5
    found, _ = advantage(f"truegain_{name}", reward, mask, uids(ROWS))
    assert found.shape == mask.shape
    assert found.isfinite().all()
    assert found.abs().sum() > 0
    assert (found[mask == 0] == 0).all()


@pytest.mark.parametrize("name", runnable("reward"))
def test_every_reward_that_the_table_says_runs_does(name: str, knobs: Any) -> None:
    knobs(f'max_tokens = {WIDTH}\n[leave_one_out]\nrewards = ["{name}"]\n')
    mask = masks(ROWS, WIDTH, 7, turns=True)
    reward = rewards(mask, 7)
    if {"step_reward", "turn_reward"} & set(REGISTRY[next(k for k in REGISTRY if k.endswith(f".{name}"))].inputs):
        reward[:, 0] += 0.25
    found, _ = advantage("truegain_leave_one_out", reward, mask, uids(ROWS))
    assert found.isfinite().all()
    assert found.abs().sum() > 0


def recipes() -> list[str]:
    return sorted(e.recipe for e in entries(Config()) if e.kind == "credit" and e.recipe and e.form and not e.refused)


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_that_the_table_says_runs_gives_our_loops_advantages(name: str, knobs: Any) -> None:
    knobs(f"max_tokens = {WIDTH}\n")
    mask = masks(ROWS, WIDTH, 8, turns=True)
    reward = rewards(mask, 8)
    more: dict[str, Tensor] = {}
    if name == "matchtir":
        reward[:, 0] += 0.25
        turn = by_hand(mask)
        sums = torch.zeros(ROWS, int(turn.max()) + 1)
        sums[:, 0] = 0.25
        last = turn.amax(1)
        sums[torch.arange(ROWS), last] += reward.sum(1) - 0.25
        past = torch.arange(sums.shape[1]) > last[:, None]
        more = {"turn": turn, "turn_reward": sums.masked_fill(past, math.nan)}
    registered = f"truegain_{name.replace('-', '_')}"
    found, _ = advantage(registered, reward, mask, uids(ROWS), filter_groups=FILTER)
    (form,) = build(name)
    assert isinstance(form, Train)
    assert torch.allclose(found, truth(form, mask, reward, **more), atol=1e-6)
    assert found.abs().sum() > 0


def test_dapo_refuses_to_run_without_the_filter_that_it_stands_on(knobs: Any) -> None:
    knobs(f"max_tokens = {WIDTH}\n")
    mask = masks(ROWS, WIDTH, 0)
    with pytest.raises(SettingError, match=r"algorithm\.filter_groups\.enable=True"):
        advantage("truegain_dapo", rewards(mask, 0), mask, uids(ROWS))
    knobs("")
    with pytest.raises(WiringError, match=r"length\.overlong_penalty needs 'max_tokens'"):
        advantage("truegain_dapo", rewards(mask, 0), mask, uids(ROWS), filter_groups=FILTER)


def test_what_verl_cannot_feed_raises_its_reason_when_it_is_used() -> None:
    mask = masks(ROWS, WIDTH, 0)
    for name, said in (
        ("entropy_modulation", "needs column 'old_logp', which verl 0.9.1 does not supply"),
        ("seeupo", "objective.turns_in_order is a plan, which verl 0.9.1 cannot run"),
        ("ace", "needs column 'old_logp'"),
        ("whiten", 'with = ["group_normalise"]'),
        ("da_dler", "3 forms in order"),
    ):
        with pytest.raises(WiringError) as caught:
            advantage(f"truegain_{name}", rewards(mask, 0), mask, uids(ROWS))
        assert said in str(caught.value)


def test_a_verl_that_hands_over_its_batch_feeds_components_that_need_more() -> None:
    """The call of verl#7473, which is open: not yet made by any release."""
    mask = masks(ROWS, WIDTH, 2)
    reward = rewards(mask, 2)
    old, ref = -torch.rand(ROWS, WIDTH), -torch.rand(ROWS, WIDTH)
    call = functools.partial(
        core_algos.get_adv_estimator_fn("truegain_ace"),
        token_level_rewards=reward,
        response_mask=mask,
        index=uids(ROWS),
        config=AlgoConfig(),
    )
    found, _ = call(batch={"old_log_probs": old, "ref_log_prob": ref}, non_tensor_batch={})
    (form,) = build("ace")
    assert isinstance(form, Train)
    cut = {name: value.masked_fill(mask == 0, 0.0) for name, value in {"old_logp": old, "ref_logp": ref}.items()}
    assert torch.allclose(found, truth(form, mask, reward, **cut), atol=1e-5)
    with pytest.raises(WiringError, match="needs column 'ref_logp'"):
        call(batch={"old_log_probs": old}, non_tensor_batch={})


def test_the_v1_trainer_gets_the_same_advantages(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = masks(ROWS, WIDTH, 9, turns=True)
    reward = rewards(mask, 9)
    lengths = [int(row.nonzero().max()) + 1 for row in mask]
    rows = {
        name: [row[:n] for row, n in zip(value, lengths, strict=True)]
        for name, value in {"rm_scores": reward, "response_mask": mask}.items()
    }
    given: dict[str, Any] = {**rows, "uid": uids(ROWS)}
    written, asked = v1_advantage(monkeypatch, "truegain_grpo", given)
    plain, _ = advantage("truegain_grpo", reward, mask, uids(ROWS))
    for row, n, found in zip(plain, lengths, written["advantages"].unbind(), strict=True):
        assert torch.allclose(found, row[:n], atol=1e-6)
    assert {"uid", "response_mask", "rm_scores"} <= set(asked)
