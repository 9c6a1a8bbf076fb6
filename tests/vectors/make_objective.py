"""Make ``objective_verl.json`` and ``objective_trl.json`` again: losses and gradients of verl 0.9.1 and TRL 1.16.0.

Both libraries' own functions are called on the same seeded ragged inputs, in float64. verl goes into a folder beside
the environment, as its own requirements would replace half of it::

    pip install --no-deps --target DIR verl==0.9.1 tensordict omegaconf antlr4-python3-runtime==4.9.3 codetiming \
        orjson pyvers cloudpickle
    PYTHONPATH=DIR python tests/vectors/make_objective.py verl
    python tests/vectors/make_objective.py trl

verl: `compute_policy_loss_*`, `agg_loss`, `kl_penalty`, `compute_rollout_correction_weights`. TRL has no loss function
apart from its trainers: their ``_compute_loss`` is called on a trainer made without ``__init__``, which holds the
settings that it reads and gives the stored log-probs instead of a forward pass. Not covered: TRL's sampler correction,
whose ratio is made inline in the method that generates (verl's is covered, and TRL's use of a given ratio).
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
ROWS, TOKENS, LIMIT = 6, 7, 9
LENGTHS = (7, 1, 4, 6, 2, 5)
AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def inputs_of(seed: int, spread: float) -> dict[str, Tensor]:
    """Columns of one batch; ``spread`` is the deviation of the log-ratios. Row 0 has a hole of tool tokens."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    mask = torch.arange(TOKENS)[None, :] < torch.tensor(LENGTHS)[:, None]
    mask[0, 2:4] = False
    old = -0.2 - normal(ROWS, TOKENS).abs()
    logp = old + spread * normal(ROWS, TOKENS)
    ref, engine = old + spread * normal(ROWS, TOKENS), old + spread * normal(ROWS, TOKENS)
    row = normal(ROWS, 1).expand(ROWS, TOKENS)
    columns = {"logp": logp, "old_logp": old, "ref_logp": ref, "engine_logp": engine, "row": row}
    columns["token"] = normal(ROWS, TOKENS)
    return {"mask": mask, **{name: value * mask for name, value in columns.items()}}


def measured(loss_of: Callable[[Tensor], Tensor], logp: Tensor) -> dict[str, Any]:
    """The scalar that ``loss_of`` gives, and its gradient."""
    leaf = logp.clone().requires_grad_()
    loss = loss_of(leaf)
    loss.backward()
    assert leaf.grad is not None
    return {"loss": loss.item(), "gradient": leaf.grad.tolist()}


def verl_cases(c: dict[str, Tensor]) -> dict[str, Any]:
    """verl's losses by name: ``POLICY/AGGREGATION/ADVANTAGE``, ``kl/ESTIMATOR``, ``agg/MODE``, ``is/...``."""
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
    from verl.workers.config import ActorConfig

    mask = c["mask"].double()

    def policy(name: str, mode: str, advantage: str, **settings: Any) -> dict[str, Any]:
        config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **settings)
        loss = core_algos.get_policy_loss_fn(name)
        return measured(lambda logp: loss(c["old_logp"], logp, c[advantage], mask, mode, config)[0], c["logp"])

    found: dict[str, Any] = {}
    for advantage in ("row", "token"):
        for mode in AGGREGATIONS if advantage == "row" else ("token-mean",):
            found[f"vanilla/{mode}/{advantage}"] = policy("vanilla", mode, advantage)
        found[f"vanilla-wide/token-mean/{advantage}"] = policy(
            "vanilla", "token-mean", advantage, clip_ratio_low=0.1, clip_ratio_high=0.28, clip_ratio_c=1.5
        )
        found[f"gspo/seq-mean-token-mean/{advantage}"] = policy(
            "gspo", "seq-mean-token-mean", advantage, clip_ratio_low=0.05, clip_ratio_high=0.1
        )
        found[f"cispo/token-mean/{advantage}"] = policy("cispo", "token-mean", advantage)
        found[f"sapo/seq-mean-token-mean/{advantage}"] = policy("sapo", "seq-mean-token-mean", advantage)
        config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1)
        found[f"reinforce/seq-mean-token-sum/{advantage}"] = measured(
            lambda logp, a=advantage, k=config: core_algos.compute_policy_loss_reinforce(
                c["old_logp"], logp, c[a], mask, "seq-mean-token-sum", k
            )[0],
            c["logp"],
        )
    for kind in ("k1", "k2", "k3", "abs", "k1+", "k3+", "abs+"):
        found[f"kl/{kind}"] = measured(
            lambda logp, k=kind: core_algos.agg_loss(core_algos.kl_penalty(logp, c["ref_logp"], k), mask, "token-mean"),
            c["logp"],
        )
    empty = mask.clone()
    empty[1] = 0
    for mode in AGGREGATIONS:
        found[f"agg/{mode}"] = measured(lambda logp, m=mode: core_algos.agg_loss(logp, empty, m), c["logp"])
    log_ratio = c["old_logp"] - c["engine_logp"]
    for level in ("token", "sequence"):
        for threshold in (2.0, "0.5_2.0"):
            weight, _ = compute_rollout_correction_weights(log_ratio, mask, level, threshold)
            found[f"is/{level}/{threshold}"] = {"weight": weight.tolist()}
    return found


def trl_trainer(trainer: type, logp: Tensor, settings: dict[str, Any]) -> Any:
    """A trainer without ``__init__`` that holds what ``_compute_loss`` reads."""
    shell = trainer.__new__(trainer)
    args = {"delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1}
    args |= {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}
    own = {"epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.0, "loss_type": "grpo", "use_vllm": False}
    own |= {"importance_sampling_level": "token", "off_policy_mask_threshold": None, "top_entropy_quantile": 1.0}
    own |= {"vllm_importance_sampling_correction": True, "max_completion_length": LIMIT, "aux_loss_enabled": False}
    own |= {"current_gradient_accumulation_steps": 1, "_entropy_bonus_enabled": False}
    for name, value in settings.items():
        (args if name in args else own)[name] = value
    shell.args = SimpleNamespace(**args)
    shell.model = SimpleNamespace(training=True)
    shell.accelerator = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1)
    shell._metrics = defaultdict(lambda: defaultdict(list))
    shell._get_per_token_logps_and_entropies = lambda *_, **__: (logp, torch.zeros_like(logp), None)
    for name, value in own.items():
        setattr(shell, name, value)
    return shell


TRL: dict[str, dict[str, Any]] = {
    "grpo": {},
    "bnpo": {"loss_type": "bnpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "delta": {"delta": 1.6},
    "gspo": {"importance_sampling_level": "sequence", "epsilon_low": 0.05, "epsilon_high": 0.1},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.4},
    "sapo": {"loss_type": "sapo"},
    "kl": {"beta": 0.1},
    "kl-corrected": {"beta": 0.1, "use_bias_correction_kl": True},
    "off-policy": {"off_policy_mask_threshold": 0.01},
    "given-ratio": {"use_vllm": True},
}


def trl_cases(c: dict[str, Tensor]) -> dict[str, Any]:
    """TRL's losses by name of `TRL`, ``rloo``, and ``grpo/empty`` with row 1 emptied. One advantage per row."""
    from trl import GRPOTrainer, RLOOTrainer

    def loss_of(logp: Tensor, name: str, mask: Tensor) -> Tensor:
        given = {
            "prompt_ids": torch.zeros(ROWS, 1, dtype=torch.long),
            "prompt_mask": torch.ones(ROWS, 1, dtype=torch.long),
            "completion_ids": torch.zeros(ROWS, TOKENS, dtype=torch.long),
            "completion_mask": mask.long(),
            "advantages": c["row"][:, 0],
            "num_items_in_batch": mask.sum(),
            "old_per_token_logps": c["old_logp"],
            "ref_per_token_logps": c["ref_logp"],
            "old_logps": (c["old_logp"] * mask).sum(1),
        }
        if name == "given-ratio":
            given["importance_sampling_ratio"] = (c["old_logp"] - c["engine_logp"]).exp()
        if name == "off-policy":
            # TRL compares with the current policy; the components do so with the old one, hence the same column twice.
            given["sampling_per_token_logps"] = c["engine_logp"] - c["old_logp"] + logp.detach()
        kind = RLOOTrainer if name == "rloo" else GRPOTrainer
        return trl_trainer(kind, logp, TRL.get(name, {}))._compute_loss(None, given)

    found = {n: measured(lambda logp, n=n: loss_of(logp, n, c["mask"]), c["logp"]) for n in (*TRL, "rloo")}
    empty = c["mask"].clone()
    empty[1] = False
    found["grpo/empty"] = measured(lambda logp: loss_of(logp, "grpo", empty), c["logp"])
    return found


def main(host: str) -> None:
    """Write the file of one library beside this script."""
    sets = {"near": inputs_of(0, 0.3), "far": inputs_of(1, 2.0)}
    sets["far"]["logp"][0, 0] = sets["far"]["old_logp"][0, 0] + 21.0
    sets["far"]["ref_logp"][3, 1] = sets["far"]["logp"][3, 1] + 21.0
    cases = {"verl": verl_cases, "trl": trl_cases}[host]
    found = {name: {"inputs": {k: v.tolist() for k, v in c.items()}, "cases": cases(c)} for name, c in sets.items()}
    out = {"made_with": {name: version(name) for name in (host, "torch")}, "sets": found}
    path = HERE / f"objective_{host}.json"
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1])
