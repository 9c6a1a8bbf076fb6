"""``truegain fit``: make the embedded model, or fine-tune a model on a task's reference completions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truegain.cli import device as devices
from truegain.cli.errors import INTERRUPTED
from truegain.cli.fit_process import process_reward
from truegain.cli.fit_reward import reward_model
from truegain.cli.out import quiet_libraries, say
from truegain.cli.progress import progress
from truegain.core.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(help="Fit a model offline: the embedded one, or any.", no_args_is_help=False)
app.command("process-reward")(process_reward)
app.command("reward-model")(reward_model)
Seed = Annotated[int, typer.Option(min=0, help="Decides the examples and their order.")]


@app.callback(invoke_without_command=True)
def fit(context: typer.Context) -> None:
    """Fit a model offline: the embedded one, or any.

    `fit tiny` makes the embedded model, `fit sft` fine-tunes any on a task's reference completions, `fit reward-model`
    learns what people prefer from pairs.
    """
    if context.invoked_subcommand is None:
        raise SettingError(
            "fit needs to know what: `truegain fit tiny`, `truegain fit sft --task TASK` or "
            "`truegain fit reward-model --data FILE`"
        )


@app.command("tiny")
def tiny(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where to write; the model is in its subfolder model.")
    ] = Path("runs/fit-tiny"),
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of stepping.")] = 3600.0,
    seed: Seed = 0,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="SNAPSHOT", help="A snapshot to go on from, such as runs/fit-tiny/snapshot-030."),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. [default: the shipped model's]")] = None,
    decay: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Last share of the time, over which it falls to 0.")
    ] = None,
    look_every: Annotated[
        float, typer.Option(min=1, help="Seconds between looks at accuracy, each with a snapshot.")
    ] = 300.0,
) -> None:
    """Make the embedded model: one small transformer for all embedded tasks, in both styles."""
    from truegain.recipes.sft import sft as recipe
    from truegain.train.launch import best_threads
    from truegain.train.tiny import fit_tiny

    quiet_libraries()
    best_threads()
    # What is not given keeps the default that made the shipped model.
    given: dict[str, Any] = {name: value for name, value in {"lr": lr, "decay": decay}.items() if value is not None}
    try:
        with progress("fit tiny") as shown:
            done = fit_tiny(
                out, recipe(), seconds=seconds, seed=seed, resume=resume, look_every=look_every, say=shown.say, **given
            )
    except KeyboardInterrupt:
        again = f"truegain fit tiny --out {out} --resume {out}/snapshot-NNN"
        say(f"stopped; snapshots are in {out}. To go on from one: {again}")
        raise typer.Exit(INTERRUPTED) from None
    print(f"the model is in {done / 'model'}")


@app.command("sft")
def sft(
    task: Annotated[str, typer.Option(help="A task with completions to learn: sort,style=trace, or a file with them.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write; the same folder goes on.")],
    model: Annotated[str, typer.Option(metavar="MODEL", help="tiny, table, a model folder or a hub id.")] = "tiny",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 200,
    seed: Seed = 0,
    lr: Annotated[float, typer.Option(help="Peak learning rate of the cosine.")] = 3e-4,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens per step.")] = 8192,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str | None, typer.Option(help=devices.HELP, show_default=False)] = None,
) -> None:
    """Fine-tune a model on a task's reference completions; the model is in FOLDER/model.

    A data file has them in its column completion, or in the one that completion_column names:
    --task data.jsonl,completion_column=answer. Its train split is learned from.
    """
    from truegain.policy.policy import Policy
    from truegain.recipes.sft import sft as recipe
    from truegain.tasks.mixture import parse
    from truegain.train.launch import best_threads, stop_at
    from truegain.train.memory import memory_for
    from truegain.train.offline import begin, progress_line, save_fit, saved_fit
    from truegain.train.offline import sft as steps_of

    made = parse(task, needs_answer=False)
    if not hasattr(made, "demonstration"):
        raise SettingError(
            f"task {task!r} has no reference completions to learn; take an embedded task, or a data file whose rows "
            "all have a column 'completion' (completion_column= names another)"
        )
    quiet_libraries()
    best_threads()
    on, place = devices.device_of(device), out / "checkpoint"
    policy, state = _taken_up(place, on) if saved_fit(place) else (Policy.load(model, dtype=dtype, device=on), None)
    state = state or begin(policy, weight_decay=0.0)
    out.mkdir(parents=True, exist_ok=True)
    examples = _examples(policy, made, seed)
    paced = {"steps": steps, "lr": lr, "warmup": 10, "batch_tokens": batch_tokens}
    # The bar lies inside, so that what a signal makes `stop` say is drawn above it.
    room = memory_for("fitting", f"try --batch-tokens {max(batch_tokens // 2, 1)}")
    with room, progress("fit sft") as shown, stop_at(say=shown.say) as stop:
        shown.begin("fit sft", steps, "steps", done=state.step)
        for state in steps_of(recipe(), policy, examples, state, **paced):  # noqa: B020
            shown.at(state.step, f"loss {state.loss:.4f}, lr {state.lr:.1e}")
            if stop.reason():
                break
        shown.say(progress_line(state, steps=steps))
    policy.model.eval()
    save_fit(place, policy, state)
    if state.step < steps:
        say(f"stopped after step {state.step} of {steps}; the same command goes on from {place}")
        raise typer.Exit(INTERRUPTED)
    policy.save(out / "model")
    print(f"the model is in {out / 'model'}")


def _taken_up(place: Path, device: str) -> tuple[Any, Any]:
    """The policy and the state of an earlier sitting, on this sitting's device."""
    from truegain.train.offline import load_fit

    policy, state = load_fit(place)
    policy.model.to(device)
    # Loading a state puts the moments where their weights are.
    state.optimizer.load_state_dict(state.optimizer.state_dict())
    return policy, state


def _examples(policy: Any, task: Any, seed: int) -> Callable[[int], Any]:
    """Demonstration i of the task's train split, a pure function of (seed, i)."""
    import random

    from truegain.train.online import problems
    from truegain.train.tiny import demonstration_example

    demonstration, room = task.demonstration, getattr(policy.model.config, "max_position_embeddings", None)

    def example(index: int) -> Any:
        problem = problems(task, "train", index, 1, seed)[0]
        text = demonstration(problem, random.Random(f"{seed}-{index}"))
        return demonstration_example(policy, problem, text, room)

    return example
