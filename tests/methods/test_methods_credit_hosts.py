"""Credit components against verl's and TRL's own functions on the inputs of `tests/vectors/make_credit.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from truegain.core.arithmetic import credit_stage, reward_stage
from truegain.core.batch import Batch
from truegain.core.component import Member
from truegain.core.forms import Term, Train
from truegain.methods import credit, objective, reward

VECTORS = Path(__file__).parents[1] / "vectors"
VERL, TRL = (
    json.loads((VECTORS / f"credit_{host}.json").read_text(encoding="utf-8"))["sets"] for host in ("verl", "trl")
)
BETA = 0.1


def batch_of(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    doubles = {n: torch.tensor(v, dtype=torch.float64) for n, v in inputs.items() if n not in ("mask", "group")}
    return {"mask": torch.tensor(inputs["mask"]), "group": torch.tensor(inputs["group"]), **doubles}


def credited(inputs: Mapping[str, Any], *members: Member, rewards: tuple[Member, ...] = ()) -> Tensor:
    """What a term's credit gives, as the stage composes it."""
    columns = batch_of(inputs)
    term = Term(credit=members, surrogate=objective.ppo_clip, weight=objective.token_mean)
    form = Train(reward=rewards or reward.user_score, terms=(term,))
    if rewards:
        columns["score"] = columns.pop("reward")
        columns = dict(reward_stage(form, Batch(**columns), {})[0])
    (advantage,), _ = credit_stage(form, Batch(**columns), {})
    assert advantage is not None
    return advantage


RAW = partial(credit.group_normalise, singleton="raw")
CENTRED = partial(credit.group_normalise, std="none", singleton="raw")

VERL_CASES: dict[str, tuple[Member, ...]] = {
    "grpo/std": (RAW,),
    "grpo/no-std": (CENTRED,),
    "rloo": (partial(credit.leave_one_out, singleton="raw"),),
    "reinforce++baseline": (CENTRED, credit.whiten),
    "remax": (credit.greedy_baseline,),
}
for gamma in (1.0, 0.9):
    to_go, penalty = (
        partial(credit.return_to_go, gamma=gamma),
        partial(credit.reference_kl_to_go, beta=BETA, gamma=gamma),
    )
    VERL_CASES[f"return/{gamma}"] = (to_go,)
    VERL_CASES[f"return+kl/{gamma}"] = (to_go, penalty)
    VERL_CASES[f"reinforce++/{gamma}"] = (to_go, credit.whiten)
    VERL_CASES[f"reinforce+++kl/{gamma}"] = (to_go, penalty, credit.whiten)
for gamma, lam in ((1.0, 1.0), (1.0, 0.95), (0.9, 0.8)):
    knobs: dict[str, float] = {"gamma": gamma, "lam": lam}
    penalty = partial(credit.reference_kl_to_go, beta=BETA, gamma=gamma * lam)
    for name, extra in (("", ()), ("+kl", (penalty,))):
        VERL_CASES[f"gae{name}/{gamma}/{lam}"] = (partial(credit.gae, **knobs), *extra, credit.whiten)
        VERL_CASES[f"gae-returns{name}/{gamma}/{lam}"] = (partial(credit.gae_returns, **knobs), *extra)


@pytest.mark.parametrize("seed", VERL)
@pytest.mark.parametrize("name", VERL_CASES)
def test_credit_equals_verl(name: str, seed: str) -> None:
    found = credited(VERL[seed]["inputs"], *VERL_CASES[name])
    torch.testing.assert_close(found, torch.tensor(VERL[seed]["cases"][name]).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", VERL)
def test_whitening_equals_verl_with_and_without_its_mean(seed: str) -> None:
    columns = batch_of(VERL[seed]["inputs"])
    for name, mean in (("whiten", "remove"), ("whiten/keep", "keep")):
        found = credit.whiten(columns["target"], columns["mask"], mean=mean)
        torch.testing.assert_close(found, torch.tensor(VERL[seed]["cases"][name]).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", VERL)
@pytest.mark.parametrize("width", [0.5, 0.1])
def test_the_clipped_value_loss_equals_verl(seed: str, width: float) -> None:
    columns = batch_of(VERL[seed]["inputs"])
    mask, wanted = columns["mask"], VERL[seed]["cases"][f"value/{width}"]
    per_token, logs = objective.value_clip(columns["value"], columns["old_value"], columns["target"], cliprange=width)
    assert float((per_token * mask).sum() / mask.sum()) == pytest.approx(wanted["loss"], abs=1e-6)
    assert float(logs["vf_clip_ratio"][mask].mean()) == pytest.approx(wanted["clipped"], abs=1e-6)


def test_every_stored_case_of_verl_is_compared() -> None:
    for seed in VERL.values():
        assert set(seed["cases"]) == {*VERL_CASES, "whiten", "whiten/keep", "value/0.5", "value/0.1"}


TRL_STD: Callable[..., Any] = partial(credit.group_normalise, eps=1e-4)
TRL_CASES: dict[str, tuple[Member, ...]] = {
    "grpo/group": (TRL_STD,),
    "grpo/batch": (partial(TRL_STD, std="batch"),),
    "grpo/none": (partial(TRL_STD, std="none"),),
    "rloo": (credit.leave_one_out,),
    "rloo/normalised": (credit.leave_one_out, partial(credit.whiten, per="row", eps=1e-4, eps_in="deviation")),
    "rloo/kl": (credit.leave_one_out,),
    "grpo/singletons": (TRL_STD,),
    "rloo/singletons": (credit.leave_one_out,),
}


@pytest.mark.parametrize("seed", TRL)
@pytest.mark.parametrize("name", TRL_CASES)
def test_credit_equals_trl(name: str, seed: str) -> None:
    inputs, wanted = TRL[seed]["inputs"], torch.tensor(TRL[seed]["cases"][name]).double()
    if name.endswith("singletons"):
        inputs = {**inputs, "group": list(range(len(inputs["group"])))}
    rewards = (reward.user_score, partial(reward.reference_kl, beta=BETA)) if name == "rloo/kl" else ()
    found = credited(inputs, *TRL_CASES[name], rewards=rewards)
    torch.testing.assert_close(found, wanted[:, None] * torch.tensor(inputs["mask"]), rtol=1e-6, atol=1e-6)


def test_every_stored_case_of_trl_is_compared() -> None:
    for seed in TRL.values():
        assert set(seed["cases"]) == set(TRL_CASES)
