"""ConMax with the embedded model as the frozen reader: which lines of a padded trace does a line-keeper drop?"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.core.types import Problem, Request, Rollout
from truegain.policy.policy import Policy
from truegain.recipes.conmax import conmax
from truegain.rollout.engines import engine_for
from truegain.tasks import make_one
from truegain.tasks.generated import prompt_text

TASK = "chain,level=5,style=trace"
PROMPTS, SAMPLES, UPDATES, LR = 4, 8, 12, 10.0
START = 1.4  # logit of keeping a line: 80 %


@dataclass(frozen=True)
class Padded:
    """A problem and its trace with a filler after every line; which lines are fillers and which the answer needs."""

    problem: Problem
    lines: tuple[str, ...]
    filler: tuple[bool, ...]
    needed: tuple[bool, ...]


def _padded(number: int, split: str, rng: random.Random) -> Padded:
    task = make_one(TASK)
    drawn = task.problem("train" if split == "train" else "dev", number)
    content = str(drawn.meta["content"])
    problem = replace(drawn, prompt=prompt_text(task.rules, content, "trace"))
    # A trace without checks and wrong turns. The fillers are checks, which the embedded model knows; here are too many.
    while "check" in (trace := task.demonstration(problem, rng)) or "back" in trace:
        pass
    work = trace.partition("<think>")[2].partition("</think>")[0].split("\n")
    parts = dict(part.split("=") for part in content.split(" "))
    path, open_ = set[str](), [work[-1][0]]
    while open_:
        path.add(name := open_.pop())
        open_ += [letter for letter in parts[name] if letter in parts]
    lines = [line for one in work for line in (one, f"check {one} ok")]
    filler = [bad for _ in work for bad in (False, True)]
    needed = [flag for one in work for flag in (one[0] in path, False)]
    return Padded(problem, tuple(lines), tuple(filler), tuple(needed))


def _rows(policy: Policy, traces: Sequence[Padded], keep: Sequence[Sequence[bool]]) -> list[Rollout]:
    rows: list[Rollout] = []
    for one, kept in zip(traces, keep, strict=True):
        text = "\n".join(line for line, stays in zip(one.lines, kept, strict=False) if stays)
        ids = policy.encode(text)
        rows.append(Rollout(one.problem, (), ids, (0.0,) * len(ids), text, "eos", ()))
    return rows


def _joint(roles: Mapping[str, Any], rows: Sequence[Rollout]) -> Tensor:
    """The mean log-prob of trace and answer together: the ablation in which the trace drowns the answer."""
    policy, engine = roles["reasoner"].policy, roles["reasoner"].engine
    asked: list[Request] = []
    for row in rows:
        start = (*policy.encode_prompt(row.problem.prompt), *policy.encode("<think>"))
        asked.append(
            Request(start, suffix=(*row.ids, *policy.encode(f"</think><answer>{row.problem.answer}</answer>")))
        )
    return torch.tensor([sum(found) / len(found) for found in engine.score(asked)])


def _trained(form: Train, roles: Mapping[str, Any], joint: bool, seed: int) -> Tensor:
    """Logits of keeping a line of work and a filler."""
    rng, luck = random.Random(seed), torch.Generator().manual_seed(seed)
    logits = torch.full((2,), START, requires_grad=True)
    (probe,) = form.probe if isinstance(form.probe, tuple) else (form.probe,)
    for update in range(UPDATES):
        shown = [_padded((seed * UPDATES + update) * PROMPTS + n, "train", rng) for n in range(PROMPTS)]
        traces = [one for one in shown for _ in range(SAMPLES)]
        width = max(len(one.lines) for one in traces)
        kind = torch.tensor([[*map(int, one.filler), *[-1] * (width - len(one.filler))] for one in traces])
        mask = kind >= 0
        own = logits[kind.clamp(min=0)]
        keep = (torch.rand(kind.shape, generator=luck) < own.sigmoid()) & mask
        rows = _rows(roles["reasoner"].policy, traces, keep.tolist())
        read = {"reward": _joint(roles, rows)} if joint else partial(probe)(roles, rows)
        logp = torch.nn.functional.logsigmoid(torch.where(keep, own, -own)).masked_fill(~mask, 0.0)
        batch = Batch(
            mask=mask,
            group=torch.arange(len(rows)) // SAMPLES,
            old_logp=logp.detach(),
            ref_logp=logp.detach(),
            **read,
        )
        if not joint:
            batch, _ = arithmetic.reward_stage(form, batch, {"progress": 0.0, "step_index": 0, "max_tokens": width})
        (grad,) = torch.autograd.grad(loss_on(form, step_on(form, batch), logp), logits)
        with torch.no_grad():
            logits -= LR * grad
    return logits.detach()


def _measured(logits: Tensor, name: str) -> dict[str, float]:
    work, filler = (1 - logits.sigmoid()).tolist()
    return {f"{name}: work dropped": work, f"{name}: filler dropped": filler}


def _one_seed(seed: int) -> Mapping[str, float]:
    policy = Policy.load("tiny")
    roles = {"reasoner": SimpleNamespace(policy=policy, engine=engine_for(policy))}
    form = conmax(kl=0.0)[0]
    arms = _measured(torch.full((2,), START), "start")
    arms |= _measured(_trained(form, roles, False, seed), "conmax")
    return arms | _measured(_trained(form, roles, True, seed), "joint mean")


def _effect(arms: Mapping[str, float]) -> float:
    filler, work = arms["conmax: filler dropped"] - 0.4, 0.05 - arms["conmax: work dropped"]
    return min(filler, work, arms["joint mean: work dropped"] - arms["conmax: work dropped"])


CLAIM = Claim(
    name="conmax",
    system="conmax",
    states="A policy that keeps or drops lines of traces of which half are fillers, rewarded by what the embedded "
    "model makes of the rest, drops more than 40 % of the fillers and less than 5 % of the lines of work, and fewer of "
    "those than under the mean log-prob of trace and answer together: the smallest of the three margins is above 0.",
    unit="smallest margin",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.0,
)
