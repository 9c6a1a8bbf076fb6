from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.methods.reward._log_ratio import by_step, log_ratio


@component("probe", cite=("arXiv:2412.01981", "github.com/PRIME-RL/ImplicitPRM"), fills="step_reward")
def implicit_steps(
    rm_logp: Float[Tensor, "B T"],
    rm_ref_logp: Float[Tensor, "B T"],
    step: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float = 0.05,
) -> dict[str, Tensor]:
    """Process rewards of a language model that was trained on outcomes alone: what each step adds to its log-ratio.

        q_t = beta * sum_{i <= t} (rm_logp_i - rm_ref_logp_i)
        step_reward_k = q at the end of step k, less q at the end of the step before

    Fills ``step_reward[B,S]``, NaN past a row's last step. The rewards of a row sum to its outcome reward r(y): a token
    between two steps counts to the later one, what follows the last step to it. Tokens outside the mask add 0; a row
    without a step has NaN alone. Step ids rise along a row. A NaN at a token makes its step NaN.

    ``beta``, above 0: units of reward per nat, 0.05 in training; it changes no order. Raises SettingError for another.
    Source: Yuan et al. 2024, proposition 3.1; the published evaluation's "single" rewards.

    >>> import torch
    >>> logp = torch.tensor([[-1.0, -0.5, -0.2, -0.8, -0.1]])
    >>> ref = torch.tensor([[-1.2, -0.9, -0.1, -0.3, -0.4]])
    >>> step = torch.tensor([[0, 0, 1, 1, 1]])
    >>> implicit_steps(logp, ref, step, step >= 0)["step_reward"]
    tensor([[ 0.0300, -0.0150]])
    """
    return {"step_reward": by_step(log_ratio(rm_logp, rm_ref_logp, mask, beta, "implicit_steps"), step)}
