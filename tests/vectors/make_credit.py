"""Make ``credit_verl.json`` and ``credit_trl.json`` again: advantages of verl 0.9.1 and TRL 1.16.0.

Both libraries' own functions are called on the same seeded inputs, in float64. verl goes into a folder beside the
environment, as its own requirements would replace half of it::

    pip install --no-deps --target DIR verl==0.9.1 tensordict torchdata hydra-core omegaconf antlr4-python3-runtime \
        codetiming cachetools pyvers pylatexenc orjson cloudpickle
    PYTHONPATH=DIR python tests/vectors/make_credit.py verl
    python tests/vectors/make_credit.py trl

verl: `compute_*_advantage`, `masked_whiten`, `compute_value_loss` of core_algos, on ragged groups with singletons,
ties and rows with a hole of tool tokens. TRL has no advantage function apart from its trainers: their
``_generate_and_score_completions`` is called on a trainer made without ``__init__``, which holds the settings that it
reads, whose completions are the stored lengths and whose rewards and log-probs are the stored ones. TRL's groups are of
one size, and its rows without a hole, so it gets inputs of its own.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
TOKENS, SIZE = 6, 4
GROUPS = (0, 1, 1, 2, 1, 3, 3, 0, 3, 1, 4)  # 2 is alone, 4 too; 3 has equal rewards
KNOBS = ((1.0, 1.0), (1.0, 0.95), (0.9, 0.8))
BETA = 0.1


def verl_inputs(seed: int) -> dict[str, Tensor]:
    """Ragged groups whose rows lie apart, rewards with ties, two holes."""
    rng = torch.Generator().manual_seed(seed)
    rows = len(GROUPS)
    mask = torch.arange(TOKENS)[None, :] < torch.randint(1, TOKENS + 1, (rows, 1), generator=rng)
    mask[1], mask[4] = True, True
    mask[1, 2:4], mask[4, 0:3] = False, False
    group = torch.tensor(GROUPS)
    reward = torch.randint(-1, 3, (rows,), generator=rng).double()
    reward[group == 3] = 0.7

    def normal() -> Tensor:
        return torch.randn(rows, TOKENS, generator=rng, dtype=torch.float64)

    columns = {"old_value": normal(), "value": normal(), "target": normal(), "old_logp": -normal().abs()}
    columns["ref_logp"] = columns["old_logp"] + 0.5 * normal()
    greedy = torch.randint(-1, 3, (rows,), generator=rng).double()
    return {"mask": mask, "group": group, "reward": reward, "greedy_reward": greedy, **columns}


def verl_cases(c: dict[str, Tensor]) -> dict[str, Any]:
    """verl's advantages by the name of its estimator and knobs; the reward stands on the last policy token."""
    import numpy as np
    from verl.trainer.config.algorithm import AlgoConfig
    from verl.trainer.ppo import core_algos
    from verl.utils import torch_functional

    mask = c["mask"].double()
    last = TOKENS - 1 - c["mask"].flip(1).int().argmax(dim=1)
    tokens = torch.zeros_like(mask)
    tokens[torch.arange(len(GROUPS)), last] = c["reward"]
    penalised = tokens - BETA * core_algos.kl_penalty(c["old_logp"], c["ref_logp"], "kl") * mask
    index = np.array([f"prompt {g}" for g in c["group"].tolist()])

    def given(rewards: Tensor = tokens) -> dict[str, Tensor]:
        return {"token_level_rewards": rewards.clone(), "response_mask": mask}

    grpo = core_algos.compute_grpo_outcome_advantage
    baseline = core_algos.compute_reinforce_plus_plus_baseline_outcome_advantage
    remax = core_algos.compute_remax_outcome_advantage
    found: dict[str, Any] = {
        "grpo/std": grpo(**given(), index=index)[0],
        "grpo/no-std": grpo(**given(), index=index, norm_adv_by_std_in_grpo=False)[0],
        "rloo": core_algos.compute_rloo_outcome_advantage(**given(), index=index)[0],
        "reinforce++baseline": baseline(**given(), index=index)[0],
        "remax": remax(**given(), reward_baselines=c["greedy_reward"])[0],
        "whiten": torch_functional.masked_whiten(c["target"], mask),
        "whiten/keep": torch_functional.masked_whiten(c["target"], mask, shift_mean=False),
    }
    for gamma, lam in KNOBS:
        for name, rewards in (("", tokens), ("+kl", penalised)):
            config = AlgoConfig(gamma=gamma)
            plus = core_algos.compute_reinforce_plus_plus_outcome_advantage(**given(rewards), config=config)
            found[f"reinforce++{name}/{gamma}"], found[f"return{name}/{gamma}"] = plus
            out = core_algos.compute_gae_advantage_return(rewards, c["old_value"], mask, gamma, lam)
            found[f"gae{name}/{gamma}/{lam}"], found[f"gae-returns{name}/{gamma}/{lam}"] = out
    found = {name: (value * mask).tolist() for name, value in found.items()}
    for width in (0.5, 0.1):
        loss, share = core_algos.compute_value_loss(c["value"], c["target"], c["old_value"], mask, width)
        found[f"value/{width}"] = {"loss": loss.item(), "clipped": share.item()}
    return found


def trl_inputs(seed: int) -> dict[str, Tensor]:
    """Groups of `SIZE` neighbours; the last one has equal rewards."""
    rng = torch.Generator().manual_seed(seed)
    rows = 4 * SIZE
    mask = torch.arange(TOKENS)[None, :] < torch.randint(1, TOKENS + 1, (rows, 1), generator=rng)
    reward = torch.randint(-1, 3, (rows,), generator=rng).double()
    reward[-SIZE:] = 0.7
    old = -torch.randn(rows, TOKENS, generator=rng, dtype=torch.float64).abs()
    ref = old + 0.5 * torch.randn(rows, TOKENS, generator=rng, dtype=torch.float64)
    group = torch.arange(rows) // SIZE
    return {"mask": mask, "group": group, "reward": reward, "old_logp": old, "ref_logp": ref}


def trl_advantage(kind: type, c: dict[str, Tensor], settings: dict[str, Any]) -> Tensor:
    """One advantage per row, as a trainer without ``__init__`` computes it."""
    rows = c["mask"].shape[0]
    ids = [[1] * n for n in c["mask"].sum(1).tolist()]
    shell = kind.__new__(kind)
    logps = {"policy": c["old_logp"], "reference": c["ref_logp"]}
    same = {"gather": lambda x: x, "reduce": lambda x, reduction: x}
    settings = {
        "accelerator": SimpleNamespace(device=torch.device("cpu"), process_index=0, num_processes=1, **same),
        "model": SimpleNamespace(training=True, name="policy"),
        "ref_model": SimpleNamespace(name="reference"),
        "args": SimpleNamespace(
            per_device_train_batch_size=rows, gradient_checkpointing_kwargs=None, gradient_accumulation_steps=1,
            steps_per_generation=1,
        ),
        "_tokenizer": SimpleNamespace(pad_token_id=0),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_logs": {"rewards": defaultdict(list), "prompt": [], "completion": [], "advantages": []},
        "_pending_extra_logs": {}, "_pending_metrics": {}, "pad_to_multiple_of": None, "chat_template_kwargs": {},
        "mask_truncated_completions": False, "num_generations": SIZE, "reward_funcs": [None], "beta": 0.0,
        "reward_func_names": ["stored"], "reward_weights": torch.ones(1, dtype=torch.float64), "use_vllm": False,
        "reward_clip_range": None, "normalize_advantages": False, "scale_rewards": "group", "num_iterations": 1,
        "multi_objective_aggregation": "sum_then_normalize", "tools": None, "environments": None,
        "environment_factories": None, "off_policy_mask_threshold": None,
    } | settings  # fmt: skip
    for name, value in settings.items():
        setattr(shell, name, value)
    forward = lambda model, *_, **__: (logps[model.name], None, None)  # noqa: E731
    shell._get_per_token_logps_and_entropies = forward
    shell._calculate_rewards = lambda *_: c["reward"][:, None]
    if kind.__name__ == "GRPOTrainer":
        shell._generate = lambda prompts: ([[1]] * rows, ids, None, [""] * rows, None, {}, None, None)
    else:
        shell._generate = lambda prompts: ([[1]] * rows, ids, [""] * rows)
    module = sys.modules[kind.__module__]
    before, module.gather = module.gather, lambda x: x
    quiet, module.disable_gradient_checkpointing = module.disable_gradient_checkpointing, lambda *_: torch.no_grad()
    try:
        return shell._generate_and_score_completions([{"prompt": "x"}] * rows)["advantages"]
    finally:
        module.gather, module.disable_gradient_checkpointing = before, quiet


def trl_cases(c: dict[str, Tensor]) -> dict[str, Any]:
    """TRL's advantages: ``grpo/SCALE_REWARDS``, ``rloo``, with ``normalize_advantages``, with ``beta``; singletons."""
    from trl import GRPOTrainer, RLOOTrainer

    found = {f"grpo/{s}": trl_advantage(GRPOTrainer, c, {"scale_rewards": s}) for s in ("group", "batch", "none")}
    found["grpo/singletons"] = trl_advantage(GRPOTrainer, c, {"num_generations": 1})
    found["rloo"] = trl_advantage(RLOOTrainer, c, {})
    found["rloo/normalised"] = trl_advantage(RLOOTrainer, c, {"normalize_advantages": True})
    found["rloo/kl"] = trl_advantage(RLOOTrainer, c, {"beta": BETA})
    found["rloo/singletons"] = trl_advantage(RLOOTrainer, c, {"num_generations": 1})
    return {name: value.tolist() for name, value in found.items()}


def main(host: str) -> None:
    """Write the file of one library beside this script."""
    inputs, cases = {"verl": (verl_inputs, verl_cases), "trl": (trl_inputs, trl_cases)}[host]
    sets: dict[str, Any] = {}
    for seed in (0, 1):
        columns = inputs(seed)
        sets[f"seed {seed}"] = {"inputs": {k: v.tolist() for k, v in columns.items()}, "cases": cases(columns)}
    out = {"made_with": {name: version(name) for name in (host, "torch")}, "sets": sets}
    path = HERE / f"credit_{host}.json"
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1])
