"""DPORM against EXRM: a language model's implicit reward and a head's, trained on the same pairs, on shifted sets."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Fit, Loop, Role, Study
from truegain.core.system import system
from truegain.methods import evaluation, preference


@system(
    "reward",
    paper="arXiv:2409.03650",
    cite="Lin et al. 2024, On the Limited Generalization Capability of the Implicit Reward Model Induced by DPO",
    differs="the paper's training settings are not known to us: beta 0.1, one learning rate and number of steps for "
    "both, the head 1e-3; rewards are not normalised by length; which sets are shifted is up to the files given; its "
    "part on iterative DPO is not here; lr suits the tiny policy",
)
def dporm_vs_exrm(beta: float = 0.1, lr: float = 1e-4, steps: int = 100) -> tuple[Fit, Fit, Study]:
    """Train the base by DPO and, anew, with a scalar head; compare how both order the pairs of ``--records`` files.

    Both see the same pairs in the same order for ``steps`` steps at ``lr``. ``beta`` is DPO's; it scales the implicit
    reward and changes no accuracy by itself. The record tells accuracies and gaps by set, the pairs of training first.
    """
    loop = Loop(prompts=32, steps=steps, lr=lr, warmup=10, decay="linear", beta2=0.999)
    implicit = Fit(
        terms=(),
        pair=partial(preference.dpo, beta=beta),
        roles={"reference": Role("init", "ref_logp"), "dporm": Role("policy", "rm_logp")},
        loop=loop,
    )
    explicit = Fit(
        terms=(),
        pair=preference.bradley_terry,
        roles={"exrm": Role("policy", "model_reward", head=True, lr=1e-3)},
        loop=loop,
    )
    return implicit, explicit, Study(evaluation.reward_model_gap)
