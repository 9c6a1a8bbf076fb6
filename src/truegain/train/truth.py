"""The truth channel: looks at dev while training, the choice of decoding temperature, and the one opening of test."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.component import spec_of
from truegain.core.forms import members
from truegain.core.types import Engine, Problem, Rollout, Sampling, Split
from truegain.methods.evaluation import Estimate, best_temperature, clustered_mean, kl_estimate, proportion_mean
from truegain.policy.policy import Policy
from truegain.rollout.batch import to_columns
from truegain.rollout.collect import collect
from truegain.rollout.engines import engine_for
from truegain.tasks.fixed import fixed_problems
from truegain.train.learner import logp_pass

if TYPE_CHECKING:
    from truegain.train.online import Setup

LOOKS = "evals/looks.jsonl"
"""A row per look and problem, with its gold and its proxy: what `truegain.methods.guard.gold_gap` reads."""

TEMPERATURES = (0.0, 0.3, 0.6, 1.0)
"""Decoding temperatures that dev chooses from; 0 is greedy, one sample."""


def look(setup: Setup, engine: Engine, base: Policy, *, step: int) -> dict[str, Any]:
    """Proxy, gold and KL on dev problems at temperature 1, one sample each: the log line ``{"kind": "eval", ...}``.

    ``proxy`` is what the run optimises (its reward stage), ``gold`` the task's own checker, ``kl`` the mean of the k3
    estimate of KL(policy || base) per completion, in nats. Intervals are 95 %, over problems. Each problem's own gold
    and proxy go to `LOOKS`.
    """
    began = time.perf_counter()
    loop = setup.form.loop
    asked = fixed_problems(setup.task, "dev", loop.eval_problems)
    rollouts = draw(setup, setup.policy, engine, asked, temperature=1.0, samples=1, stage="look", step=step)
    judged = [r for r in rollouts if "abstained" not in r.facts]
    line: dict[str, Any] = {"kind": "eval", "step": step, "truegain/abstained": len(rollouts) - len(judged)}
    # Gold does not hang on the run's own reward: where a reward function abstained, the checker still counts.
    line |= _triple("gold", gold_of(rollouts), lambda column: proportion_mean(column.T))
    proxies = proxy_of(setup, judged) if judged else np.empty(0)
    _keep_look(setup, rollouts, dict(zip(map(id, judged), proxies.tolist(), strict=True)), step)
    if not judged:
        return line | {"seconds": time.perf_counter() - began}
    batch = Batch(**to_columns(judged))
    line |= _triple("proxy", proxies)
    prompts = [r.prompt_ids for r in judged]
    before = logp_pass(base, prompts, batch, loop, temperature=1.0)
    as_float = [x.double().cpu().numpy() for x in (batch["engine_logp"], before)]
    line |= _triple("kl", kl_estimate(as_float[0], as_float[1], batch["mask"].cpu().numpy()).k3)
    lengths = [len(r.ids) for r in judged]
    line |= {"mean_length": sum(lengths) / len(lengths), "entropy": _surprise(batch)}
    return line | {"seconds": time.perf_counter() - began}


def _keep_look(setup: Setup, rollouts: Sequence[Rollout], proxies: Mapping[int, float], step: int) -> None:
    rows = [
        {"step": step, "problem": r.problem.id, "gold": r.facts.get("correct"), "proxy": proxies.get(id(r), math.nan)}
        for r in rollouts
    ]
    setup.folder.records(LOOKS).append(*rows)


def draw(
    setup: Setup,
    policy: Policy,
    engine: Engine,
    asked: Sequence[Problem],
    *,
    temperature: float,
    samples: int,
    stage: str,
    step: int,
) -> list[Rollout]:
    """Sample and judge, abstentions included."""
    from truegain.train.online import judge

    how = Sampling(setup.form.loop.max_tokens, temperature)
    drawn = collect(
        policy, engine, setup.task, asked, samples=samples, sampling=how, seed=setup.seed, stage=stage, step=step
    )
    return judge(setup, drawn)


def proxy_of(setup: Setup, rollouts: Sequence[Rollout]) -> np.ndarray:
    """What the run's reward stage gives each rollout [N].

    Rewards that read what a model or a probe says are left out, as no arm but the trained one has those beside it; NaN
    where the first reward is such a one.
    """
    facts = {"progress": 1.0, "step_index": 0, "max_tokens": setup.form.loop.max_tokens}
    batch = Batch(**to_columns(rollouts))
    plain = [m for m in members(setup.form.reward) if {*spec_of(m).inputs} <= {*batch, "reward"}]
    if members(setup.form.reward)[0] not in plain:
        return np.full(len(rollouts), math.nan)
    batch, _ = arithmetic.reward_stage(replace(setup.form, reward=tuple(plain)), batch, facts)
    return batch["reward"].double().cpu().numpy()


def gold_of(rollouts: Sequence[Rollout]) -> np.ndarray:
    """The task checker's verdicts [N]; NaN where it gave none."""
    return np.array([float(r.facts.get("correct", math.nan)) for r in rollouts])


def records(
    setup: Setup, arm: str, policy: Policy, split: Split, asked: Sequence[Problem], temperature: float, samples: int
) -> list[dict[str, Any]]:
    """One record per sample, as the report reads them. Arms draw independently: the arm's name is in their keys."""
    engine = engine_for(policy)
    count = 1 if temperature == 0 else samples
    stage = f"{arm}/{split}/{temperature:g}"
    rollouts = draw(setup, policy, engine, asked, temperature=temperature, samples=count, stage=stage, step=0)
    judged = [r for r in rollouts if "abstained" not in r.facts]
    found = proxy_of(setup, judged).tolist() if judged else []
    proxies = {id(r): None if math.isnan(value) else value for r, value in zip(judged, found, strict=True)}
    return [
        {
            "arm": arm,
            "split": split,
            "temperature": temperature,
            "problem": r.problem.id,
            "prompt": _prompt_text(r.problem),
            "answer": r.problem.answer,
            "sample": r.sample,
            "gold": r.facts.get("correct"),
            "proxy": proxies.get(id(r)),
            "abstained": r.facts.get("abstained"),
            "tokens": len(r.ids),
            "logp": sum(r.engine_logp),
            "stop": r.stop,
            "text": r.text,
            "final": setup.task.final(r.problem, r.text),
        }
        for r in rollouts
    ]


def chosen_temperature(dev: Sequence[Mapping[str, Any]]) -> float:
    """The temperature at which an arm's dev records are best."""
    numbers: dict[str, int] = {}
    return best_temperature(
        np.array([r["temperature"] for r in dev]),
        np.array([math.nan if r["gold"] is None else r["gold"] for r in dev], dtype=float),
        np.array([numbers.setdefault(r["problem"], len(numbers)) for r in dev]),
    )


def judge_arm(setup: Setup, arm: str, policy: Policy, *, step: int, sizes: Mapping[str, int]) -> Iterator[str]:
    """Dev at every temperature, then test once at the chosen one and at 1; appends to ``evals/records.jsonl``.

    ``sizes`` holds ``dev``, ``test`` (problems) and ``samples`` (per problem). Yields a line of progress per part.
    All of an arm's records are written in one append, so that a killed run leaves an arm judged or not judged.
    """
    dev_problems = fixed_problems(setup.task, "dev", sizes["dev"])
    found: list[dict[str, Any]] = []
    for temperature in TEMPERATURES:
        found += records(setup, arm, policy, "dev", dev_problems, temperature, max(2, sizes["samples"] // 2))
        yield f"{arm}: dev at temperature {temperature:g}"
    best = chosen_temperature(found)
    test_problems = fixed_problems(setup.task, "test", sizes["test"])
    for temperature in sorted({best, 1.0}):
        found += records(setup, arm, policy, "test", test_problems, temperature, sizes["samples"])
        yield f"{arm}: test at temperature {temperature:g}"
    setup.folder.records("evals/records.jsonl").append(*({"step": step, **record} for record in found))


def _prompt_text(problem: Problem) -> str:
    if isinstance(problem.prompt, str):
        return problem.prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in problem.prompt)


def _triple(name: str, values: np.ndarray, mean: Callable[..., Estimate] = clustered_mean) -> dict[str, float | None]:
    if bool(np.isnan(values).all()):
        return {name: None}
    found = mean(values[:, None])
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _surprise(batch: Batch) -> float:
    """Mean of -log p over the drawn tokens: an unbiased estimate of the entropy per token at temperature 1."""
    chosen = batch["engine_logp"][batch["mask"]]
    return float(-chosen.mean()) if chosen.numel() else 0.0
