"""What a plain length penalty does to accuracy, and what the length room's systems do instead, on equal compute.

    python benchmarks/bench_length.py [--seeds 5]

A toy reasoner on problems of six kinds (`truegain.claims.chains`): the harder ones need more steps and are right less
often even so, and two steps in three lead nowhere at first. Every arm is a recipe's own rewards, credit and loss, and
stops at the same number of tokens: drawn, of forced answers and exits, and four times those trained, as
each batch is used four times. ``plain penalty`` is GRPO on the outcome less a sixteenth per token, right or wrong, and
``doubled`` an eighth. ``own part`` trains of each exit only what it does not share with its path, ``no shares`` gives a
flat step none of a later change. The judge of DECS's steps is an answer forced four times; its sampling is left out.
Accuracy and tokens per arm are means over seeds with 95 % intervals. Results go to benchmarks/results/length.json and
length.svg (which needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from truegain.claims.chains import FILLER, GUESSES, KINDS, NEED, STOP, WORK, Drawn, chance_of, draw, start
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train, members
from truegain.core.settings import with_setting
from truegain.methods import length, reward
from truegain.methods.evaluation import clustered_mean
from truegain.recipes.arlcp import arlcp
from truegain.recipes.crf import crf
from truegain.recipes.curriculum_grpo import curriculum_grpo
from truegain.recipes.decs import decs
from truegain.recipes.grpo import grpo
from truegain.recipes.grpo_lambda import grpo_lambda
from truegain.recipes.s_grpo import s_grpo
from truegain.recipes.vsrm import vsrm

RESULTS = Path(__file__).parent / "results"
KNOWS = torch.tensor([0.95, 0.9, 0.8, 0.65, 0.5, 0.35])  # of each kind, its work being done
LIMIT, PROMPTS, SAMPLES, EPOCHS, LR, PRICE = 48, 32, 8, 4, 0.05, 1 / 16
BUDGET, TESTED = 1_000_000, 2000


@dataclass(frozen=True)
class Arm:
    """A form, how many samples a prompt has, how many exits a path has, how many answers are forced after each step."""

    form: Train
    samples: int = SAMPLES
    exits: int = 0
    probes: int = 0


def plain_penalty(times: float = 1.0) -> Train:
    """GRPO on the outcome less a price per token, whatever the outcome."""
    price = partial(length.overlong_penalty, buffer=1.0, factor=times * PRICE * LIMIT)
    return replace(grpo(), reward=(reward.outcome, price))


ARMS: Mapping[str, Callable[[], Arm]] = {
    "grpo": lambda: Arm(grpo()),
    "plain penalty": lambda: Arm(plain_penalty()),
    "plain penalty, doubled": lambda: Arm(plain_penalty(2.0)),
    "uniform, right only": lambda: Arm(grpo_lambda(share=1.0)),
    "grpo-lambda": lambda: Arm(grpo_lambda()),
    "arlcp": lambda: Arm(arlcp(bounds=(4.0, 8.0))),
    "crf": lambda: Arm(crf()),
    "decs": lambda: Arm(decs(), probes=4),
    "s-grpo": lambda: Arm(s_grpo(), samples=1, exits=7),
    "s-grpo, own part": lambda: Arm(s_grpo(prefix=False), samples=1, exits=7),
    "vsrm": lambda: Arm(vsrm(), samples=1, probes=5),
    "vsrm, no shares": lambda: Arm(vsrm(discount=0.0), samples=1, probes=5),
    "curriculum-grpo": lambda: Arm(curriculum_grpo(start=24.0, decay=0.8, every=20, least=8.0)),
}


def exits_of(drawn: Drawn, count: int, rng: torch.Generator) -> tuple[Drawn, Tensor]:
    """Rows that leave each path at different places of its thought and stop there, and the path of each."""
    size = drawn.mask.shape[1]
    thought = (drawn.mask & (drawn.action != STOP)).sum(1).clamp(max=size - 1)
    luck = torch.rand(len(thought), size, generator=rng).masked_fill(torch.arange(size) >= thought[:, None], 2.0)
    place = luck.argsort(dim=1)[:, :count] + 1
    path, which = (place <= thought[:, None]).nonzero(as_tuple=True)
    cut = place[path, which]
    at = torch.arange(size)
    action = torch.where(at == cut[:, None], STOP, drawn.action[path])
    done, kind = drawn.done[path], drawn.kind[path]
    chance = chance_of(done.gather(1, cut[:, None])[:, 0], kind, KNOWS)
    right = (torch.rand(len(cut), generator=rng) < chance).float()
    none = torch.zeros(len(cut), dtype=torch.bool)
    return Drawn(kind, action, done, at <= cut[:, None], right, none), path


def joined(one: Drawn, two: Drawn) -> Drawn:
    """The rows of both."""
    return Drawn(**{n: torch.cat([getattr(one, n), getattr(two, n)]) for n in one.__dataclass_fields__})


def columns_of(drawn: Drawn, group: Tensor, cut: Tensor, probes: int, rng: torch.Generator) -> tuple[Batch, int]:
    """What the recipes' components name, and how many tokens the forced answers took."""
    mask, filler = drawn.mask, (drawn.action == FILLER) & drawn.mask
    tokens = mask.sum(1).clamp(min=1)
    after = (drawn.done + (drawn.action == WORK).long()).clamp(max=int(NEED[-1]))
    place = torch.arange(mask.shape[1])
    # To stop belongs to the step before it, as the end of a thought does.
    step = torch.where(mask, (place - (drawn.action == STOP).long()).clamp(min=0), -1)
    share = torch.zeros(mask.shape)
    if probes:
        asked = torch.rand(*mask.shape, probes, generator=rng) < chance_of(after, drawn.kind, KNOWS)[..., None]
        share = asked.float().mean(-1)
    found = Batch(
        mask=mask, group=group, correct=drawn.correct, answered=(~drawn.truncated).float(), cut=cut, step=step,
        reflections=filler.sum(1).float(), conciseness=(1 - filler.sum(1) / tokens).clamp(min=0.1),
        probe_correct=share, has_answer=(share >= 0.5).float(),
    )  # fmt: skip
    return found, probes * int(mask.sum())


def trained(arm: Arm, seed: int) -> tuple[Tensor, int]:
    """Logits after the budget is spent, and the number of batches."""
    rng = torch.Generator().manual_seed(seed)
    form: Any = arm.form
    logits, spent, step = start().requires_grad_(), 0, 0
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    prompts = PROMPTS * SAMPLES // (arm.samples * (1 + arm.exits))
    while spent < BUDGET:
        group = torch.arange(prompts).repeat_interleave(arm.samples)
        drawn = draw(logits, torch.randint(KINDS, (prompts,), generator=rng)[group], LIMIT, rng, KNOWS)
        spent += int(drawn.mask.sum())
        cut = torch.full((len(group),), -1)
        if arm.exits:
            more, path = exits_of(drawn, arm.exits, rng)
            spent += len(path)
            cut = torch.cat([cut, more.mask.sum(1) - 1])
            drawn, group = joined(drawn, more), torch.cat([group, group[path]])
        batch, asked = columns_of(drawn, group, cut, arm.probes, rng)
        facts = {"progress": spent / BUDGET, "step_index": step, "max_tokens": LIMIT}
        batch, _ = arithmetic.reward_stage(form, batch.add(old_logp=drawn.logp(logits.detach())), facts)
        update = step_on(form, batch, LIMIT)
        for _ in range(EPOCHS):
            optimiser.zero_grad()
            loss_on(form, update, drawn.logp(logits)).backward()
            optimiser.step()
        spent += asked + EPOCHS * int(drawn.mask.sum())
        for fold in members(form.fold):
            control = fold()
            if isinstance(control, length.shrink_budget):
                for path_name, value in control.update({}, step_index=step)[1].items():
                    form = with_setting(form, path_name, value)
        step += 1
    return logits.detach(), step


def tested(logits: Tensor, seed: int) -> dict[str, float]:
    """Accuracy and tokens over all kinds, and on the two hardest."""
    kind = torch.arange(KINDS).repeat_interleave(TESTED)
    drawn = draw(logits, kind, LIMIT, torch.Generator().manual_seed(seed + 1000), KNOWS)
    hard = kind >= KINDS - 2
    return {
        "accuracy": float(drawn.correct.mean()),
        "accuracy, two hardest kinds": float(drawn.correct[hard].mean()),
        "tokens": float(drawn.mask.sum(1).double().mean()),
    }


def interval(values: list[float]) -> dict[str, float]:
    """Mean over seeds with its 95 % interval."""
    found = clustered_mean(np.array(values)[:, None])
    return {"mean": found.value, "low": found.low, "high": found.high}


def summary(rows: Mapping[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Each arm's figures, and its paired difference in accuracy to GRPO."""
    out: dict[str, Any] = {}
    for name, seeds in rows.items():
        out[name] = {key: interval([s[key] for s in seeds]) for key in seeds[0]}
        if name != "grpo":
            pairs = zip(seeds, rows["grpo"], strict=True)
            out[name]["accuracy over grpo"] = interval([a["accuracy"] - b["accuracy"] for a, b in pairs])
    return out


def picture(arms: Mapping[str, Any], path: Path) -> None:
    """A row per arm and a panel per figure, with intervals; the same file every time."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "truegain"
    panels = (("accuracy", 100, "right, %"), ("accuracy, two hardest kinds", 100, "right on the two hardest kinds, %"))
    panels = (*panels, ("tokens", 1, "tokens per answer"))
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 4), sharey=True, layout="constrained")
    tones = {"before training": "#777777", "grpo": "#1f6f8b", "plain penalty": "#b8322a"}
    names = list(arms)[::-1]
    for axis, (key, times, label) in zip(axes, panels, strict=True):
        for place, name in enumerate(names):
            row = {end: times * value for end, value in arms[name][key].items()}
            away = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
            tone = tones.get(name.partition(",")[0], "#2c7a4b")
            axis.errorbar(row["mean"], place, xerr=away, fmt="o", color=tone, capsize=2)
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(axis="x", color="#e4e4e4")
    axes[0].set_yticks(range(len(names)), names)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run all arms seed by seed and write results and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--redraw", action="store_true", help="only draw the figure of the results that are there")
    options = parser.parse_args()
    if options.redraw:
        picture(json.loads((options.out / "length.json").read_text())["arms"], options.out / "length.svg")
        return
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ("before training", *ARMS)}
    for seed in range(options.first, options.first + options.seeds):
        rows["before training"].append({**tested(start(), seed), "batches": 0.0})
        for name, arm in ARMS.items():
            logits, batches = trained(arm(), seed)
            rows[name].append({**tested(logits, seed), "batches": float(batches)})
            print(seed, name, rows[name][-1], flush=True)
    set_up = {"budget": BUDGET, "limit": LIMIT, "price": PRICE, "guesses": GUESSES, "knows": KNOWS.tolist(), "lr": LR}
    result = {"set_up": set_up, "seeds": options.seeds, "arms": summary(rows), "rows": rows}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    (options.out / "length.json").write_text(json.dumps(result | {"versions": versions}, indent=1) + "\n")
    picture(result["arms"], options.out / "length.svg")


if __name__ == "__main__":
    main()
