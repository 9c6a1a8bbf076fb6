"""The over-optimisation experiment: what keeps gold from falling while a proxy is optimised, and by how much."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from truegain.core.errors import DataError, SettingError
from truegain.core.forms import Stage, Train
from truegain.lab.optimise import Curve, best_of_n, reinforce
from truegain.lab.proxies import Proxies, fit_proxies, load_proxies
from truegain.methods import reward
from truegain.methods.evaluation import clustered_mean, ensemble_disagreement, overoptimization_bon, overoptimization_rl
from truegain.recipes.orpo_chi2 import orpo_chi2
from truegain.recipes.rm_ensemble_conservative import on_members
from truegain.tasks.rubric import Rubric
from truegain.train.folder import write_atomic

PENALTY = 0.5
AGGREGATES: Mapping[str, tuple[int | None, Stage]] = {
    "single": (1, reward.mean_member),
    "mean": (None, reward.mean_member),
    "worst case": (None, reward.worst_member),
    "uncertainty": (None, partial(reward.uncertainty_weighted, penalty=PENALTY)),
    "median": (None, reward.median_member),
}
KL, KLS, CHI2S = 0.1, (0.03, 0.1, 0.3), (0.003, 0.01, 0.03)


@dataclass(frozen=True)
class Setting:
    """What is run; the numbers of a result depend on these alone."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    letters: int = 20
    tokens: int = 20
    flip: float = 0.25
    pairs: int = 500
    epochs: int = 4
    members: int = 5
    vary: str = "pretraining"
    pool: int = 8192
    ns: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    steps: int = 100
    samples: int = 64
    lr: float = 0.1
    look_every: int = 5

    def __post_init__(self) -> None:
        """Raise SettingError for what cannot be run."""
        if self.vary not in ("pretraining", "order"):
            raise SettingError(f"vary {self.vary!r}: members differ by pretraining or by order")
        if not self.seeds or self.members < 2 or not 0 <= self.flip <= 0.5 or not 2 <= self.letters <= 26:
            raise SettingError("the laboratory needs a seed, 2 members or more, 2 to 26 letters, and flips of 0 to 0.5")


QUICK = Setting(seeds=(0, 1), members=3, pool=2048, ns=(1, 4, 16, 64, 256), steps=30, samples=32, look_every=10)


@dataclass(frozen=True)
class Arm:
    """One way to optimise: its name, the form that trains, and how many members it may ask."""

    name: str
    form: Train
    members: int | None


def arms() -> list[Arm]:
    """Every aggregate without and with a KL penalty; a single reward model at three strengths of KL and chi-squared."""
    found: list[Arm] = []
    for name, (members, aggregate) in AGGREGATES.items():
        found.append(Arm(name, on_members(aggregate, 0.0, "lab"), members))
        found.append(Arm(f"{name}, KL {KL:g}", on_members(aggregate, KL, "lab"), members))
    more = [b for b in KLS if b != KL]
    found += [Arm(f"single, KL {b:g}", on_members(reward.mean_member, b, "lab"), 1) for b in more]
    return found + [Arm(f"single, chi2 {c:g}", orpo_chi2(scale=c, models="lab"), 1) for c in CHI2S]


def run(setting: Setting, out: Path, stop: Callable[[], str | None] = lambda: None) -> Iterator[dict[str, Any]]:
    """Fit and optimise for every seed; yield a line per finished piece, and the summary last (none if stopped).

    Every piece is written to ``out/seed-N`` when it is done and not done again. Raises SettingError if the folder
    holds pieces of another setting.
    """
    out.mkdir(parents=True, exist_ok=True)
    _check_setting(setting, out / "setting.json")
    for seed in setting.seeds:
        yield from one_seed(setting, seed, out / f"seed-{seed}", stop)
        if stop() is not None:
            return
    rows = [json.loads((out / f"seed-{seed}" / "result.json").read_text()) for seed in setting.seeds]
    yield {"kind": "summary", **summary(setting, rows)}


def one_seed(
    setting: Setting, seed: int, folder: Path, stop: Callable[[], str | None] = lambda: None
) -> Iterator[dict[str, Any]]:
    """All arms of one seed; the last line, of kind ``seed``, holds them, and ``folder/result.json`` does."""
    began, done = time.perf_counter(), folder / "result.json"
    if done.is_file():
        yield {"kind": "seed", "seed": seed, **json.loads(done.read_text())}
        return
    world = Rubric(seed, setting.letters, setting.tokens, setting.flip)
    fitting = fit_proxies(
        world, folder, members=setting.members, pairs=setting.pairs, epochs=setting.epochs, vary=setting.vary, stop=stop
    )
    accuracy: list[float] = []
    for line in fitting:
        if line["kind"] == "member":
            accuracy.append(line["accuracy"]["value"])
            yield {"kind": "piece", "seed": seed, "what": f"reward model {line['member']}"}
    if stop() is not None:
        return
    proxies = load_proxies(world, folder)
    bon, facts = _pool(setting, proxies)
    rl: dict[str, Curve] = {}
    for arm in arms():
        place = folder / f"rl {arm.name}.json"
        if place.is_file():
            rl[arm.name] = json.loads(place.read_text())
            continue
        if stop() is not None:
            return
        rl[arm.name] = reinforce(
            proxies, arm.form, members=arm.members, steps=setting.steps, samples=setting.samples, lr=setting.lr,
            look_every=setting.look_every,
        )  # fmt: skip
        write_atomic(place, json.dumps(rl[arm.name]))
        yield {"kind": "piece", "seed": seed, "what": arm.name}
    facts |= {"noisy_accuracy": sum(accuracy) / len(accuracy), "seconds": time.perf_counter() - began}
    result = {"bon": bon, "rl": rl, "facts": facts}
    write_atomic(done, json.dumps(result))
    yield {"kind": "seed", "seed": seed, **result}


def _pool(setting: Setting, proxies: Proxies) -> tuple[dict[str, Curve], dict[str, float]]:
    """Best-of-n by every aggregate and by gold itself, and what the members are worth on the base policy's texts."""
    world = proxies.world
    texts = world.sample(world.base, setting.pool, torch.Generator().manual_seed(world.seed * 1009 + 14))
    scores, gold = proxies.score(texts), world.gold(texts)
    bon: dict[str, Curve] = {}
    for name, (members, aggregate) in AGGREGATES.items():
        (member,) = aggregate if isinstance(aggregate, tuple) else (aggregate,)
        value = member(scores[:, :members])
        bon[name] = best_of_n(value[0] if isinstance(value, tuple) else value, gold, setting.ns)
    bon["gold itself"] = best_of_n(gold, gold, setting.ns)
    half = len(gold) // 2
    ahead = gold[:half] - gold[half : 2 * half]
    right = ((scores[:half] - scores[half : 2 * half]).sign() == ahead.sign()[:, None]).double().mean(dim=0)
    top = scores[:, 0].topk(max(setting.pool // 256, 8)).indices
    whole = scores.double().numpy()
    apart = {name: ensemble_disagreement(rows, whole) for name, rows in (("base", whole), ("top", whole[top.numpy()]))}
    facts = {"accuracy": float(right.mean()), "mean_accuracy": _accuracy(scores.mean(dim=1), gold)}
    for name, found in apart.items():
        facts |= {f"rank_correlation_{name}": found.rank_correlation, f"difference_{name}": found.difference}
    return bon, facts


def _accuracy(score: torch.Tensor, gold: torch.Tensor) -> float:
    half = len(gold) // 2
    return float(((score[:half] > score[half : 2 * half]) == (gold[:half] > gold[half : 2 * half])).double().mean())


# Over the seeds


def summary(setting: Setting, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Curves, fitted laws and the table of remedies, each number with its 95 % interval over the seeds."""
    kinds = {"bon": overoptimization_bon, "rl": overoptimization_rl}
    found: dict[str, Any] = {"setting": asdict(setting), "facts": _over_facts(rows)}
    for kind, law in kinds.items():
        found[kind] = {name: _arm(kind, [row[kind][name] for row in rows], law) for name in rows[0][kind]}
        found[f"{kind}_table"] = [
            {"arm": name, **_against([row[kind][name] for row in rows], [row[kind]["single"] for row in rows])}
            for name in rows[0][kind]
        ]
    packages = ("truegain", "torch", "transformers")
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    return {**found, "seconds": sum(row["facts"]["seconds"] for row in rows), "versions": versions}


def _arm(kind: str, curves: Sequence[Curve], law: Callable[..., Any]) -> dict[str, Any]:
    """The mean curve with its band, and the law fitted to the mean curve."""
    d = np.sqrt(np.array([curve["kl"] for curve in curves]))
    out: dict[str, Any] = {"distance": d.mean(axis=0).tolist(), "seeds": [dict(curve) for curve in curves]}
    for name in ("proxy", "gold"):
        out[name] = [interval(column) for column in np.array([curve[name] for curve in curves]).T]
    gold = np.array([curve["gold"] for curve in curves])
    # Relative to where each seed began: the law is of the gain.
    gain = (gold - gold[:, :1]).mean(axis=0)
    try:
        out["law"] = {k: _number(v) for k, v in asdict(law(d.mean(axis=0), gain)).items()}
    except DataError:
        out["law"] = None
    return out


def _against(curves: Sequence[Curve], plain: Sequence[Curve]) -> dict[str, Any]:
    """Gold at its peak and at the end, how far it fell, and both against the single reward model without a penalty."""
    peak, end = (np.array([f(c["gold"]) for c in curves]) for f in (max, _last))
    plain_peak, plain_end = (np.array([f(c["gold"]) for c in plain]) for f in (max, _last))
    return {
        "peak": interval(peak),
        "end": interval(end),
        "fall": interval(peak - end),
        "proxy_end": interval(np.array([c["proxy"][-1] for c in curves])),
        "kl_end": interval(np.array([c["kl"][-1] for c in curves])),
        "peak_gain": interval(peak - plain_peak),
        "end_gain": interval(end - plain_end),
    }


def _last(values: Sequence[float]) -> float:
    return values[-1]


def interval(values: np.ndarray) -> dict[str, float | None]:
    """Mean over the seeds with its 95 % t interval; no interval for one seed."""
    if len(values) < 2:
        return {"value": float(values.mean()), "low": None, "high": None}
    found = clustered_mean(np.asarray(values, dtype=np.float64)[:, None])
    return {"value": found.value, "low": found.low, "high": found.high}


def _over_facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = [name for name in rows[0]["facts"] if name != "seconds"]
    return {name: interval(np.array([row["facts"][name] for row in rows])) for name in names}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check_setting(setting: Setting, place: Path) -> None:
    """The setting of the pieces in the folder; seeds may be added."""
    now = json.loads(json.dumps({k: v for k, v in asdict(setting).items() if k != "seeds"}))
    if place.is_file():
        there = json.loads(place.read_text())
        changed = [name for name, value in now.items() if there.get(name) != value]
        if changed:
            raise SettingError(f"{place.parent} holds pieces with another {changed[0]}; give another --out")
    write_atomic(place, json.dumps(now, indent=1) + "\n")
