"""Objective components against losses and gradients that verl and TRL computed (tests/vectors/make_objective.py)."""

from __future__ import annotations

import json
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from truegain.core.component import Member, call
from truegain.methods import objective as o

VECTORS = Path(__file__).parents[1] / "vectors"
HOSTS = {host: json.loads((VECTORS / f"objective_{host}.json").read_text())["sets"] for host in ("verl", "trl")}
LIMIT = 9  # the completion limit that the script gave to TRL
TOKENS = 7  # verl's length constant: the padded width

PPO_VERL = partial(o.ppo_clip, dual=3.0)
GSPO = partial(o.sequence_clip, clip_low=0.05, clip_high=0.1)
free = partial(partial, log_ratio_bound=inf)  # TRL bounds no log-ratio
PPO_TRL = free(o.ppo_clip)
Parts = tuple[tuple[Member, ...], tuple[Member, ...]]

# verl: POLICY/AGGREGATION/ADVANTAGE -> surrogates, weights
POLICY: dict[str, Member] = {
    "vanilla": PPO_VERL,
    "vanilla-wide": partial(o.ppo_clip, clip_low=0.1, clip_high=0.28, dual=1.5),
    "gspo": GSPO,
    "cispo": partial(o.capped_ratio, floor=0.8, cap=1.2),
    "sapo": o.soft_gate,
    "reinforce": o.policy_gradient,
}
AGGREGATION: dict[str, Member] = {
    "token-mean": o.token_mean,
    "token-sum": o.token_sum,
    "seq-mean-token-sum": o.sequence_sum,
    "seq-mean-token-mean": o.sequence_mean,
    "seq-mean-token-sum-norm": partial(o.sequence_sum, length=float(TOKENS)),
}
KL = partial(o.kl_to_reference, beta=0.1, log_ratio_bound=inf, bound=inf)
TRL: dict[str, Parts] = {
    "grpo": ((PPO_TRL,), (o.sequence_mean,)),
    "bnpo": ((PPO_TRL,), (o.token_mean,)),
    "dapo": ((partial(PPO_TRL, clip_high=0.28),), (o.token_mean,)),
    "dr_grpo": ((PPO_TRL,), (o.limit_mean,)),
    "delta": ((partial(PPO_TRL, delta=1.6),), (o.sequence_mean,)),
    "gspo": ((partial(GSPO, log_ratio_bound=inf),), (o.sequence_mean,)),
    "cispo": ((free(o.capped_ratio, cap=1.4),), (o.token_mean,)),
    "sapo": ((free(o.soft_gate),), (o.sequence_mean,)),
    "kl": ((PPO_TRL, KL), (o.sequence_mean,)),
    "kl-corrected": (
        (PPO_TRL, partial(o.corrected_kl_to_reference, beta=0.1, log_ratio_bound=inf, bound=inf)),
        (o.sequence_mean,),
    ),
    "off-policy": ((PPO_TRL,), (o.sequence_mean, partial(o.off_policy_mask, delta=0.01))),
    "given-ratio": ((PPO_TRL,), (o.sequence_mean, free(o.truncated_importance, cap=None))),
    "rloo": (
        (partial(o.sequence_clip, clip_low=0.2, clip_high=0.2, ratio="sum", log_ratio_bound=inf),),
        (o.sequence_mean,),
    ),
}


def columns_of(inputs: dict[str, Any], advantage: str = "row") -> dict[str, Tensor]:
    found = {k: torch.tensor(v, dtype=torch.bool if k == "mask" else torch.float64) for k, v in inputs.items()}
    return {**found, "advantage": found[advantage]}


def losses(columns: dict[str, Tensor], parts: Parts) -> tuple[float, Tensor]:
    """The loop's arithmetic: surrogates add, weights multiply; the scalar and its gradient."""
    logp = columns["logp"].clone().requires_grad_()
    offered, facts = {**columns, "logp": logp}, {"max_tokens": LIMIT}
    weight = torch.ones_like(columns["logp"])
    for member in parts[1]:
        weight = weight * call(member, columns, facts)[0]
    per_token = torch.zeros_like(logp)
    for member in parts[0]:
        per_token = per_token + call(member, offered, facts)[0]
    loss = (per_token.masked_fill(~columns["mask"], 0.0) * weight).sum()
    loss.backward()
    assert logp.grad is not None
    return loss.item(), logp.grad


def check(found: tuple[float, Tensor], case: dict[str, Any], scale: float = 1.0) -> None:
    # The weights of the means are float32, verl adds 1e-8 to a row's length: both relative errors below 1e-6.
    assert found[0] * scale == pytest.approx(case["loss"], rel=1e-6, abs=1e-7)
    wanted = torch.tensor(case["gradient"], dtype=torch.float64)
    torch.testing.assert_close(found[1] * scale, wanted, rtol=1e-6, atol=1e-9)


def policies() -> list[tuple[str, str]]:
    return [(s, n) for s, v in HOSTS["verl"].items() for n in v["cases"] if n.split("/")[0] in POLICY]


@pytest.mark.parametrize(("which", "name"), policies())
def test_a_policy_loss_and_its_gradient_are_verls(which: str, name: str) -> None:
    data = HOSTS["verl"][which]
    policy, mode, advantage = name.split("/")
    parts = ((POLICY[policy],), (AGGREGATION[mode],))
    check(losses(columns_of(data["inputs"], advantage), parts), data["cases"][name])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs", "k1+", "k3+", "abs+"])
@pytest.mark.parametrize("which", ["near", "far"])
def test_a_kl_estimate_and_its_gradient_are_verls(which: str, estimator: str) -> None:
    data = HOSTS["verl"][which]
    parts = ((partial(o.kl_to_reference, beta=1.0, estimator=estimator),), (o.token_mean,))
    check(losses(columns_of(data["inputs"]), parts), data["cases"][f"kl/{estimator}"])


@pytest.mark.parametrize("mode", AGGREGATION)
def test_a_row_without_tokens_counts_nowhere_as_in_verl(mode: str) -> None:
    data = HOSTS["verl"]["near"]
    columns = columns_of(data["inputs"])
    columns["mask"][1] = False
    columns["advantage"] = torch.ones_like(columns["logp"])
    parts = ((o.policy_gradient,), (AGGREGATION[mode],))
    check(losses(columns, parts), data["cases"][f"agg/{mode}"], scale=-1.0)  # verl summed logp, not -logp


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("threshold", "knobs"), [("2.0", {}), ("0.5_2.0", {"floor": 0.5, "beyond": "mask"})])
@pytest.mark.parametrize("which", ["near", "far"])
def test_the_weight_between_learner_and_sampler_is_verls(
    which: str, level: str, threshold: str, knobs: dict[str, Any]
) -> None:
    data = HOSTS["verl"][which]
    c = columns_of(data["inputs"])
    found, _ = o.truncated_importance(c["old_logp"], c["engine_logp"], c["mask"], level=level, **knobs)
    wanted = torch.tensor(data["cases"][f"is/{level}/{threshold}"]["weight"], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("name", TRL)
@pytest.mark.parametrize("which", ["near", "far"])
def test_a_policy_loss_and_its_gradient_are_trls(which: str, name: str) -> None:
    data = HOSTS["trl"][which]
    check(losses(columns_of(data["inputs"]), TRL[name]), data["cases"][name])


def test_trl_counts_a_row_without_tokens_and_ours_is_larger_by_the_share_that_has_some() -> None:
    # 5 of 6 rows have tokens: TRL divides by 6, we by 5.
    data = HOSTS["trl"]["near"]
    columns = columns_of(data["inputs"])
    columns["mask"][1] = False
    check(losses(columns, TRL["grpo"]), data["cases"]["grpo/empty"], scale=5 / 6)


def test_every_stored_case_is_compared() -> None:
    for sets in HOSTS["verl"].values():
        assert {name.split("/")[0] for name in sets["cases"]} == {*POLICY, "kl", "agg", "is"}
    for sets in HOSTS["trl"].values():
        assert set(sets["cases"]) == {*TRL, "grpo/empty"}


def test_the_two_sets_reach_every_clip_and_every_bound() -> None:
    near, far = (columns_of(HOSTS["verl"][which]["inputs"]) for which in ("near", "far"))
    rho = {name: (c["logp"] - c["old_logp"])[c["mask"]].exp() for name, c in (("near", near), ("far", far))}
    assert (rho["near"] > 1.2).any() and (rho["near"] < 0.8).any() and ((rho["near"] - 1).abs() < 0.2).any()
    assert rho["far"].log().max() > 20 and (far["ref_logp"] - far["logp"])[far["mask"]].max() > 20
    kept, _ = o.off_policy_mask(near["old_logp"], near["engine_logp"], near["row"], near["mask"], delta=0.01)
    assert 0 < kept[near["mask"]].mean() < 1
