from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._bundles import Bundles, bundles_of
from truegain.methods.credit._shared import centred_within, over_tokens

Share = Literal["excess", "deviation", "uniform", "outcome"]


@component("credit", cite=("arXiv:2510.00911", "RTkenny/RiskPO core_algos.py bundle_rvar quantile_tracking"))
def bundled_risk(
    reward: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    key: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    bundle: int = 5,
    lower: float = 0.2,
    upper: float = 0.8,
    lower_at: float | None = None,
    upper_at: float | None = None,
    tracked: float = 1.0,
    mixing: float = 1.5,
    seeks: Literal["lower", "upper"] = "lower",
    natural: bool = False,
    normalise: bool = True,
    share: Share = "excess",
    share_bound: float | None = 10.0,
    floor: float = 1e-3,
) -> Float[Tensor, "B T"]:
    """Mixed value at risk of bundles of prompts: their lower tail counts more, their upper tail nothing.

    ``bundle`` prompts, drawn by lot, make a bundle; their j-th rows make paper j, as many papers as the smallest group
    has rows. With R the sum of a paper's rewards (in a last bundle of fewer prompts, ``bundle`` times their mean), q_d
    and q_u the quantiles of R at the levels ``lower`` = a and ``upper`` = b:

        RVaR = ((R - q_d)+ - (R - q_u)+ + natural * (q_d - q_u)) / (b - a + 1e-6)
        CVaR = -(q_d - R)+ / (a + 1e-6)
        A = (mixing * CVaR + RVaR) / (mixing + 1), with ``normalise`` over (deviation of the bundle's R + 1e-6)

    ``lower_at`` and ``upper_at`` are tracked quantiles (a fold, `track_quantiles`, sets them); None takes each
    bundle's own, and ``tracked`` in [0, 1] mixes the two (1 track, 0.5 mix, 0 batch). ``seeks="upper"`` puts
    ``(R - q_u)+ / (1 - b + 1e-6)`` in the place of CVaR. A deviation of at most ``floor`` counts as 1, and the
    quantiles of a bundle of one paper are its own score.

    ``share`` says what row i of question q in paper j gets: ``excess``: ``A_j (r_i - mean_q) / sum over the paper``,
    or ``A_j`` over the paper's rows where that sum is within 1e-6 of 0; the factor is clamped to +-``share_bound``,
    None for no clamp, as a small sum of mixed signs has none. ``deviation``: ``A_j / (std_q + 1e-6)``. ``uniform``:
    A_j. ``outcome``: A_j / 2 for a reward above 0, 1.5 A_j for another. Rows of no paper get 0.

    Raises SettingError for levels that are not ``0 <= lower < upper <= 1``, or a bundle below 1.
    Source: Ren et al. 2025, with its code's knobs ``use_mixing_risk_measure``, ``natural_baseline_adv``.

    >>> import torch
    >>> scores = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    >>> questions, keys, one = torch.arange(8) // 4, torch.arange(8), torch.ones(8, 1, dtype=torch.bool)
    >>> bundled_risk(scores, questions, keys, one, bundle=2, share="uniform")[:4, 0].round(decimals=4)
    tensor([-2.2045,  0.3266,  0.6532,  0.3266])
    """
    if not 0 <= lower < upper <= 1 or bundle < 1:
        raise SettingError(
            f"bundled_risk: lower={lower}, upper={upper}, bundle={bundle}; 0 <= lower < upper <= 1 <= bundle"
        )
    if share not in ("excess", "deviation", "uniform", "outcome") or seeks not in ("lower", "upper"):
        raise SettingError(f"bundled_risk: share={share!r}, seeks={seeks!r}; see its docstring for the choices")
    found = bundles_of(reward, group, key, bundle)
    score = found.score
    own_lower, own_upper = (
        torch.nanquantile(score, q, dim=1, keepdim=True) if len(score) else score for q in (lower, upper)
    )
    alone = ((~score.isnan()).sum(dim=1, keepdim=True) == 1).to(score.dtype)
    q_d = _towards(own_lower, lower_at, tracked * (1 - alone))
    q_u = torch.maximum(_towards(own_upper, upper_at, tracked * (1 - alone)), q_d)
    middle = (score - q_d).clamp(min=0) - (score - q_u).clamp(min=0) + natural * (q_d - q_u)
    if seeks == "lower":
        tail = -(q_d - score).clamp(min=0) / (lower + 1e-6)
    else:
        tail = (score - q_u).clamp(min=0) / (1 - upper + 1e-6)
    risk = (mixing * tail + middle / (upper - lower + 1e-6)) / (mixing + 1)
    if normalise:
        centre = score.nanmean(dim=1, keepdim=True)
        free = ((~score.isnan()).sum(dim=1, keepdim=True) - 1).clamp(min=1)
        deviation = (((score - centre) ** 2).nansum(dim=1, keepdim=True) / free).sqrt()
        risk = risk / (torch.where(deviation <= floor, torch.ones_like(deviation), deviation) + 1e-6)
    return over_tokens(_shared_out(risk, found, reward, segments.dense(group), share, share_bound, floor), mask)


def _towards(own: Tensor, at: float | None, by: Tensor) -> Tensor:
    return own if at is None else own + by * (at - own)


def _shared_out(
    risk: Tensor, found: Bundles, reward: Tensor, group: Tensor, share: Share, bound: float | None, floor: float
) -> Tensor:
    """The risk of each row's paper times the row's factor [B]; 0 for a row of no paper."""
    mine = segments.spread(risk.reshape(-1), found.paper)
    if share == "uniform":
        return mine
    if share == "outcome":
        return mine * torch.where(reward > 0, 0.5, 1.5).to(mine.dtype)
    excess = centred_within(reward, group)
    if share == "deviation":
        size = segments.total(torch.ones_like(reward), group)
        deviation = (segments.total(excess**2, group) / (size - 1).clamp(min=1)).sqrt()
        scale = torch.where(deviation <= floor, torch.ones_like(deviation), deviation + 1e-6)
        return mine / segments.spread(scale, group)
    total = segments.spread(segments.total(excess, found.paper, risk.numel()), found.paper)
    level = total.abs() <= 1e-6
    factor = excess / torch.where(level, torch.ones_like(total), total)
    if bound is not None:
        factor = factor.clamp(-bound, bound)
    equal = 1 / segments.spread(found.members.reshape(-1), found.paper).clamp(min=1)
    return mine * torch.where(level, equal, factor)
