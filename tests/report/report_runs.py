"""Run folders made by code: what a training loop would have written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from truegain.methods.evaluation import best_temperature

Rates = Callable[[str, float, np.ndarray], np.ndarray]
"""(arm, temperature, difficulty [P]) -> the probability of a right answer, per problem."""


def settings(seed: int = 0, **changes: Any) -> dict[str, Any]:
    command = (
        f"truegain train grpo --model tiny --task sort,level=6 --seed {seed} --steps 120 --controls --out runs/sort"
    )
    nested = {
        "loop": {"steps": 120, "prompts_per_step": 16, "samples_per_prompt": 8, "max_tokens": 48},
        "policy": {"credit": "group_normalise", "surrogate": {"name": "ppo_clip", "low": 0.2, "high": 0.28}},
        "optimiser": {"lr": 1e-4, "weight_decay": 0.0, "max_grad_norm": 1.0},
    }
    return {
        "command": command,
        "argv": command.split(),
        "settings": nested,
        "versions": {"truegain": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11"},
        "model": "tiny",
        "task": "sort,level=6",
        "recipe": "grpo",
        "proxy_is_gold": True,
        "seed": seed,
    } | changes


def write_lines(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def log_lines(seed: int = 0, steps: int = 120, honest: bool = True) -> list[dict[str, Any]]:
    """A training log whose reward saturates; with ``honest=False`` gold falls behind the proxy."""
    rng, lines = np.random.default_rng([7, seed]), []
    for step in range(1, steps + 1):
        done = 1 - np.exp(-3.0 * step / steps)
        reward = 0.40 + 0.24 * done + rng.normal(0, 0.035)
        lines.append(
            {
                "kind": "step", "step": step, "reward": reward, "reward_std": 0.48 - 0.1 * done,
                "frac_reward_zero_std": 0.2 + 0.3 * done, "kl": 0.9 * done + rng.normal(0, 0.03),
                "entropy": 0.85 - 0.5 * done + rng.normal(0, 0.015), "loss": rng.normal(0, 0.02),
                "grad_norm": 0.6 + rng.normal(0, 0.08), "completions/mean_length": 17 + 3 * done + rng.normal(0, 0.3),
                "completions/clipped_ratio": 0.01, "clip_ratio/region_mean": 0.02, "truegain/abstained": 0,
                "seconds": 0.72 + rng.normal(0, 0.02),
                "ledger": {"sampled": 2300 * step, "trained": 2300 * step, "scored": 2300 * step, "probed": 0,
                           "resampled": 0, "flops": 12_000_000_000 * step},
            }
        )  # fmt: skip
    for step in range(0, steps + 1, max(steps // 6, 1)):
        done = 1 - np.exp(-3.0 * step / steps)
        proxy = 0.40 + 0.24 * done + rng.normal(0, 0.012)
        gold = proxy if honest else 0.40 + 0.16 * done - 0.22 * done**3 + rng.normal(0, 0.012)
        kl = 1.9 * done
        lines.append(
            {
                "kind": "eval", "step": step, "proxy": proxy, "proxy_low": proxy - 0.045, "proxy_high": proxy + 0.045,
                "gold": gold, "gold_low": gold - 0.045, "gold_high": gold + 0.045, "kl": kl, "kl_low": kl * 0.88,
                "kl_high": kl * 1.12, "mean_length": 17 + 3 * done, "entropy": 0.85 - 0.5 * done,
            }
        )  # fmt: skip
    return lines


def sort_text(rng: np.random.Generator, digits: list[int], right: bool) -> tuple[str, str]:
    answer = sorted(digits)
    while not right and answer == sorted(digits):
        i, j = rng.choice(len(digits), size=2, replace=False)
        answer[i], answer[j] = answer[j], answer[i]
        if rng.random() < 0.4:
            answer[0] = int(rng.integers(0, 10))
    final = " ".join(map(str, answer))
    return f"<answer>{final}</answer><eos>", final


def records(
    rates: Rates,
    *,
    arms: Iterable[str] = ("base", "trained"),
    problems: int = 80,
    dev_problems: int = 40,
    temperatures: Iterable[float] = (0.0, 0.6, 1.0),
    samples: int = 8,
    test_temperature: Mapping[str, float] | None = None,
    seed: int = 0,
    problem_seed: int = 0,
    text: Callable[[str, bool], str] | None = None,
    reward: Callable[[str, bool], float] | None = None,
) -> list[dict[str, Any]]:
    """Independent Bernoulli draws at ``rates``; the test temperature is the best on these dev draws, as a loop does."""
    rng = np.random.default_rng([11, seed])
    lines: list[dict[str, Any]] = []
    for arm in arms:
        chosen: float | None = (test_temperature or {}).get(arm)
        for split, count in (("dev", dev_problems), ("test", problems)):
            world = np.random.default_rng([13, problem_seed, split == "test"])
            difficulty = world.beta(1.2, 1.6, size=count)
            digits = world.integers(0, 10, size=(count, 6)).tolist()
            if split == "test" and chosen is None:
                chosen = dev_choice([line for line in lines if line["arm"] == arm])
            for t in temperatures if split == "dev" else sorted({chosen, 1.0}):
                k = 1 if t == 0 else samples
                right = rng.random((count, k)) < rates(arm, t, difficulty)[:, None]
                for p in range(count):
                    for i in range(k):
                        hit = bool(right[p, i])
                        body, final = (text(arm, hit), str(hit)) if text else sort_text(rng, digits[p], hit)
                        tokens = int(rng.integers(13, 19) + (4 if arm == "trained" else 0) * (rng.random() < 0.6))
                        lines.append(
                            {
                                "arm": arm, "split": split, "temperature": t, "problem": f"{split}-{p:04d}",
                                "prompt": "sort: " + " ".join(map(str, digits[p])) + " =",
                                "answer": " ".join(map(str, sorted(digits[p]))), "sample": i, "gold": float(hit),
                                "proxy": reward(arm, hit) if reward else float(hit), "tokens": tokens,
                                "logp": -3.2, "stop": "eos",
                                "text": body, "final": final,
                            }
                        )  # fmt: skip
    return lines


def dev_choice(lines: list[dict[str, Any]]) -> float:
    """The temperature a loop would choose from an arm's dev lines."""
    names: dict[str, int] = {}
    problem = np.array([names.setdefault(line["problem"], len(names)) for line in lines])
    gold = np.array([np.nan if line["gold"] is None else line["gold"] for line in lines])
    return best_temperature(np.array([line["temperature"] for line in lines]), gold, problem)


def better(arm: str, temperature: float, difficulty: np.ndarray) -> np.ndarray:
    """Training helps at every temperature; random reward does nothing; more SFT helps a little."""
    skill = {"base": 0.0, "trained": 1.5, "control:more-sft": 0.7, "control:random-reward": 0.05}[arm]
    logit = np.log(difficulty / (1 - difficulty)) + skill + 0.5 * (1 - temperature) * (1 if arm != "trained" else 0.3)
    return 1 / (1 + np.exp(-logit))


def write_run(folder: Path, *, rates: Rates = better, seed: int = 0, honest: bool = True, **options: Any) -> Path:
    """A whole run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    changes = options.pop("settings", {})
    (folder / "settings.json").write_text(json.dumps(settings(seed, proxy_is_gold=honest, **changes)), encoding="utf-8")
    write_lines(folder / "log.jsonl", log_lines(seed, honest=honest))
    if not honest:  # a reward in units of its own, which training learned to please
        options.setdefault("reward", lambda arm, hit: 30.0 + 4.0 * hit + 6.0 * (arm == "trained"))
    write_lines(folder / "evals" / "records.jsonl", records(rates, seed=seed, **options))
    return folder
