"""What the probes, resamplers and extra models of each recipe cost per step, beside plain grpo on the same problems.

    python benchmarks/bench_probes.py [--prompts 4] [--samples 8] [--repeats 5] [--only spae pav]

One training step of every online recipe on the embedded model, all in turn with grpo on the same task, the same
problems and group size, in one process with one thread; every repeat is a fresh model at its next step's problems.
From the ledger: floating-point operations by stage over grpo's whole step. From the clock: seconds over grpo's of the
same round. Results go to benchmarks/results/probes.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_arithmetic import online
from side_by_side import ENVIRONMENT, in_turn, machine, ratios, table, write

TASKS = ("chain,level=3,style=trace", "calculator", "program")
MEANING = {
    "seconds": "seconds of a step over those of grpo's step of the same round on the same task",
    "operations": "all: floating-point operations of a step over grpo's on the same task. NAME_tokens: tokens "
    "sampled beyond the step's own samples (resampled), continued or forced by probes (probed), or went through frozen "
    "models or the policy before the update (scored), over the tokens that grpo samples and trains on",
}


def main() -> None:
    """Time every online recipe that asks for more than samples and their verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=None, metavar="RECIPE")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)  # no look-up of a model that is not there
    import torch

    from truegain.core.errors import TruegainError

    torch.set_num_threads(1)
    found: dict[str, Any] = {"meaning": MEANING, "machine": machine(), "recipes": {}, "refused": {}}
    found["sizes"] = {"prompts": options.prompts, "samples": options.samples, "model": "tiny"}
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        sides: dict[str, Stepper] = {}
        for name, form in online().items():
            if options.only is not None and name not in options.only:
                continue
            task, why = task_of(form)
            if task is None:
                found["refused"][name] = why
                continue
            for label, one in ((f"grpo on {task}", online()["grpo"]), (name, form)):
                if label in sides:
                    continue
                try:
                    side = stack.enter_context(
                        Stepper(one, task, Path(place) / str(len(sides) + len(found["refused"])), options)
                    )
                    side.step()  # what cannot run says so before anything is timed
                except TruegainError as error:
                    found["refused"][label] = str(error).partition(":")[0]
                    continue
                sides[label] = side
        seconds = in_turn({label: side.step for label, side in sides.items()}, options.repeats, warm=0)
        for name, side in sides.items():
            if name.startswith("grpo on"):
                continue
            plain = sides[f"grpo on {side.task}"]
            found["recipes"][name] = {
                "task": side.task,
                "seconds": ratios(seconds[name], seconds[f"grpo on {side.task}"]),
                "operations": over(side, plain),
            }
    show(found["recipes"])
    if options.only is None:
        write("probes", found)


def task_of(form: Any) -> tuple[str | None, str]:
    """The first task that feeds the form, or why none does."""
    from truegain.core.component import spec_of
    from truegain.core.errors import TruegainError
    from truegain.core.forms import members
    from truegain.tasks import make
    from truegain.train.online import check

    tools = any("tool_calls" in spec_of(m).inputs for term in form.terms for m in members(term.credit))
    tools |= any(spec_of(m).name == "match_calls" for m in members(form.score))
    why = ""
    for task in TASKS[1:2] if tools else TASKS:
        try:
            check(form, make(task))
        except TruegainError as error:
            why = str(error)
        else:
            return task, ""
    return None, why


class Stepper:
    """One recipe at the beginning of a run, which takes a step each time it is told to."""

    def __init__(self, form: Any, task: str, folder: Path, options: argparse.Namespace) -> None:
        from truegain.core.forms import members
        from truegain.policy.policy import Policy
        from truegain.tasks import make
        from truegain.train.folder import RunFolder
        from truegain.train.folds import begin_folds
        from truegain.train.models import load_models
        from truegain.train.run import fitted
        from truegain.train.setup import Setup, State

        loop = form.loop.model_copy(update={"prompts": options.prompts, "samples": options.samples, "eval_every": 0})
        self.task, made = task, make(task)
        form = fitted(replace(form, loop=loop), made)
        self.held = RunFolder(folder)
        self.setup = Setup(form, Policy.load("tiny"), made, self.held)
        self.models = load_models(form, self.setup.policy, self.setup.policy.reference())
        self.state = State(resample=[None] * len(members(form.resample)), fold=begin_folds(form))
        self.steps = 0

    def __enter__(self) -> Stepper:
        self.held.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.held.__exit__(*error)

    def step(self) -> None:
        from truegain.train.online import one_step
        from truegain.train.setup import form_now

        one_step(replace(self.setup, form=form_now(self.setup, self.state)), self.models, self.state)
        self.steps += 1

    def ledger(self) -> dict[str, float]:
        """The ledger of a step, on average."""
        return {name: value / self.steps for name, value in self.state.ledger.to_json().items()}


def over(side: Stepper, plain: Stepper) -> dict[str, float]:
    """What a step costs in terms of a plain one, by stage."""
    own, base = side.ledger(), plain.ledger()
    out = {"all": float(f"{own['flops'] / base['flops']:.4g}")}
    tokens = sum(base[name] for name in ("sampled", "trained"))
    return out | {f"{name}_tokens": float(f"{own[name] / tokens:.4g}") for name in ("resampled", "probed", "scored")}


def show(recipes: Mapping[str, Any]) -> None:
    """A table, the dearest first."""
    rows = sorted(recipes.items(), key=lambda item: -item[1]["seconds"]["median"])
    table(
        ("recipe", "seconds", "low", "high", "operations", "task"),
        [
            (n, f["seconds"]["median"], f["seconds"]["low"], f["seconds"]["high"], f["operations"]["all"], f["task"])
            for n, f in rows
        ],
    )


if __name__ == "__main__":
    main()
