from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("reward", cite="arXiv:2310.02743")
def uncertainty_weighted(
    model_reward: Float[Tensor, "B M"], *, penalty: float = 0.1, correction: int = 0
) -> tuple[Float[Tensor, "B"], dict[str, Tensor]]:
    """Mean of the reward models' scores less a multiple of their variance (UWO).

    ``mean_k r_k - penalty * var_k r_k``. ``penalty`` is 0 or more, per unit of reward: 0.5 for best-of-n and 0.1 for
    RL in the source, whose members have unit variance on a reference set (`truegain fit reward-model
    --standardise`). ``correction`` 0 divides the variance by M, 1 by M - 1; the source's code has 0 for best-of-n and
    1 for RL. One member has no variance. A NaN from any member gives NaN, and the loop refuses the row by name. Logs
    the members' standard deviation. Raises SettingError for a negative penalty.
    Source: Coste et al. 2023, equation 5; their code, src/bon/ensemble_rm.py.

    >>> import torch
    >>> reward, _ = uncertainty_weighted(torch.tensor([[2.0, 0.5, 3.5]]), penalty=0.5)
    >>> reward  # mean 2, variance (0 + 2.25 + 2.25) / 3 = 1.5
    tensor([1.2500])
    """
    if penalty < 0:
        raise SettingError(f"uncertainty_weighted: penalty {penalty} is negative; it must be 0 or more")
    members = model_reward.shape[1]
    centred = model_reward - model_reward.mean(dim=1, keepdim=True)
    variance = (centred**2).sum(dim=1) / max(members - correction, 1)
    return model_reward.mean(dim=1) - penalty * variance, {"truegain/member_std": variance.sqrt()}
