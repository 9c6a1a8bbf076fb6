"""``truegain eval`` and ``truegain sample``: what a model can do, without training it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from truegain.cli import device as devices
from truegain.cli.catalog import Json
from truegain.cli.out import console, json_lines, print_json, printable, quiet_libraries, untrusted
from truegain.cli.progress import Progress, in_blocks, progress
from truegain.cli.variant import check_task
from truegain.core.errors import SettingError, nearest

ROOM = 256
"""Completion tokens where neither the task nor the user says."""
BLOCK = 128
"""Completions drawn at once: enough to keep a device busy, few enough for progress to move."""
LESS = "lower --max-tokens or the number of samples, or take --dtype bfloat16"

Model = Annotated[str, typer.Argument(metavar="MODEL", help="tiny, table, a model folder, a checkpoint or a hub id.")]
Seed = Annotated[int, typer.Option(help="Decides every draw.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help=devices.HELP, show_default=False)]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Completion tokens; what the task needs, else 256.")]


def evaluate(
    model: Model,
    task: Annotated[str, typer.Option(help="A task such as sort,level=6, a data file, or a mixture.")],
    split: Annotated[str, typer.Option(help="dev or test.")] = "dev",
    temperature: Annotated[
        list[float] | None, typer.Option(min=0, help="Repeatable; 0 is greedy. [default: 0 and 1]")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Completions per problem; one at temperature 0.")] = 4,
    problems: Annotated[int, typer.Option(min=2, help="Problems of the split.")] = 200,
    max_tokens: MaxTokens = None,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure a model's accuracy on a task."""
    if split not in ("dev", "test"):
        raise SettingError(f"--split is dev or test, not {split!r}{nearest(split, ('dev', 'test'))}")
    temperatures = list(dict.fromkeys(temperature or [0.0, 1.0]))
    with json_lines(json), progress("starting", quiet=True) as shown:
        from truegain.tasks.mixture import parse

        check_task(task)
        from truegain.train.truth import fixed_problems  # loads torch, which is no part of loading the model

        quiet_libraries()
        place = devices.device_of(device)
        made = parse(task)
        asked = fixed_problems(made, "dev" if split == "dev" else "test", problems)
        shown.begin(f"loading {model}")
        policy = _loaded(model, dtype, place)
        rows = []
        for t in temperatures:
            many = 1 if t == 0 else samples
            shown.begin(f"temperature {t:g}", len(asked), "problems")
            rollouts = _drawn(policy, made, asked, many, t, max_tokens, seed, f"eval/{split}/{t:g}", shown)
            rows.append({"temperature": t, "samples": many, **_measured(rollouts, many)})
    found = {"model": model, "task": task, "split": split, "problems": len(asked), "seed": seed, "results": rows}
    if json:
        print_json(found)
    else:
        _print_eval(found)


def _loaded(model: str, dtype: str, device: str) -> Any:
    from truegain.train.memory import memory_for

    with memory_for("loading the model", "take a smaller model, or --dtype bfloat16"):
        from truegain.policy.policy import Policy

        return Policy.load(model, dtype=dtype, device=device)


def _drawn(
    policy: Any,
    task: Any,
    asked: Sequence[Any],
    samples: int,
    temperature: float,
    max_tokens: int | None,
    seed: int,
    stage: str,
    shown: Progress,
) -> list[Any]:
    """Scored rollouts, drawn block by block so that progress shows."""
    from truegain.core.types import Sampling
    from truegain.rollout.collect import collect, score_rollouts
    from truegain.rollout.engines import engine_for
    from truegain.train.memory import memory_for

    how = Sampling(max_tokens or getattr(task, "max_tokens", None) or ROOM, temperature)
    engine, found = engine_for(policy), list[Any]()
    for block in in_blocks(asked, max(1, BLOCK // samples)):
        with memory_for("sampling", LESS):
            drawn = collect(policy, engine, task, block, samples=samples, sampling=how, seed=seed, stage=stage, step=0)
        found += score_rollouts(task, drawn)
        shown.at(len(found) // samples)
    return found


def _measured(rollouts: Sequence[Any], samples: int) -> dict[str, Any]:
    """Accuracy with its clustered interval, pass@k for powers of two, mean length, abstentions."""
    import numpy as np

    from truegain.methods.evaluation import pass_at_k, problem_means, proportion_mean

    gold = np.array([math.nan if "abstained" in r.facts else r.facts.get("correct", math.nan) for r in rollouts], float)
    table = gold.reshape(-1, samples)
    mean = proportion_mean(problem_means(table)[None])
    counts = (~np.isnan(table)).sum(axis=1)
    ks = [k for k in (2**i for i in range(12)) if k <= samples]
    full = {k: counts >= k for k in ks}
    return {
        "accuracy": {"mean": mean.value, "low": mean.low, "high": mean.high},
        "pass_at_k": {
            str(k): float(pass_at_k(counts[full[k]], np.nansum(table, axis=1)[full[k]], k=k).mean())
            for k in ks
            if full[k].any()
        },
        "mean_length": sum(len(r.ids) for r in rollouts) / len(rollouts),
        "truncated": sum(r.stop == "length" for r in rollouts) / len(rollouts),
        "abstained": sum("abstained" in r.facts for r in rollouts),
    }


def _print_eval(found: dict[str, Any]) -> None:
    from rich.table import Table

    to = console()
    to.print(untrusted(f"{found['model']} on {found['task']}, {found['problems']} {found['split']} problems", "bold"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("temperature", "accuracy", "95 % interval", "pass@k", "mean length", "cut off", "abstained"):
        table.add_column(name, justify="right")
    for row in found["results"]:
        a = row["accuracy"]
        more = [f"{k}: {percent(v)}" for k, v in row["pass_at_k"].items() if k != "1"]
        span = f"{percent(a['low'])} to {percent(a['high'])}"
        cells = (f"{row['temperature']:g}", percent(a["mean"]), span, "  ".join(more) or "-")
        table.add_row(*cells, f"{row['mean_length']:.1f}", percent(row["truncated"]), str(row["abstained"]))
    to.print(table)


def percent(share: float | None) -> str:
    """``41.2 %``, or a dash for what is unknown."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f} %"


def sample(
    model: Model,
    task: Annotated[str | None, typer.Option(help="A task such as sort,level=6, a data file, or a mixture.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many problems, or completions of --prompt.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Complete this text instead of a problem's.")
    ] = None,
    max_tokens: MaxTokens = None,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = None,
    json: Json = False,
) -> None:
    """Show what a model writes, and the checker's verdict."""
    if (task is None) == (prompt is None):
        raise SettingError("sample needs either --task or --prompt TEXT")
    with json_lines(json), progress("starting", quiet=True) as shown:
        if task is not None:
            check_task(task)
        import truegain.train.truth  # noqa: F401  (loads torch, which is no part of loading the model)
        from truegain.tasks.mixture import parse

        quiet_libraries()
        place = devices.device_of(device)
        made = None if task is None else parse(task)
        shown.begin(f"loading {model}")
        policy = _loaded(model, dtype, place)
        shown.begin("sampling", n, "problems" if prompt is None else "completions")
        rows = (
            _judged(policy, made, n, temperature, max_tokens, seed, shown)
            if prompt is None
            else _free(policy, prompt, n, temperature, max_tokens, seed, shown)
        )
    if json:
        print_json(rows)
    else:
        for row in rows:
            _print_sample(row)


def _judged(
    policy: Any, task: Any, n: int, temperature: float, max_tokens: int | None, seed: int, shown: Progress
) -> list[dict[str, Any]]:
    from truegain.train.truth import fixed_problems

    asked = fixed_problems(task, "dev", max(n, 2))[:n]
    return [
        {**_row(r), "answer": r.problem.answer, "final": task.final(r.problem, r.text)}
        for r in _drawn(policy, task, asked, 1, temperature, max_tokens, seed, "sample", shown)
    ]


def _free(
    policy: Any, prompt: str, n: int, temperature: float, max_tokens: int | None, seed: int, shown: Progress
) -> list[dict[str, Any]]:
    from truegain.core.draws import draw_key
    from truegain.core.types import Request, Sampling
    from truegain.rollout.engines import engine_for
    from truegain.train.memory import memory_for

    ids = policy.encode_prompt(prompt)
    asked = [Request(ids, draw_key(seed, "sample", 0, prompt, 0, i)) for i in range(n)]
    engine, drawn = engine_for(policy), list[Any]()
    for block in in_blocks(asked, BLOCK):
        with memory_for("sampling", LESS):
            drawn += engine.generate(block, Sampling(max_tokens or ROOM, temperature))
        shown.at(len(drawn))
    return [
        {
            "problem": None,
            "prompt": prompt,
            "text": policy.decode(d.ids),
            "tokens": len(d.ids),
            "stop": d.stop,
            "correct": None,
            "abstained": None,
            "answer": None,
            "final": None,
        }
        for d in drawn
    ]


def _row(rollout: Any) -> dict[str, Any]:
    return {
        "problem": rollout.problem.id,
        "prompt": rollout.problem.prompt,
        "text": rollout.text,
        "tokens": len(rollout.ids),
        "stop": rollout.stop,
        "correct": rollout.facts.get("correct"),
        "abstained": rollout.facts.get("abstained"),
    }


def _print_sample(row: dict[str, Any]) -> None:
    from rich.text import Text

    to = console()
    verdict, style = _verdict(row)
    where = f"{row['problem'] or 'prompt'} · {row['tokens']} tokens, stop: {row['stop']}"
    head = Text.assemble((verdict, style), f"  {printable(where)}")
    to.print(head)
    prompt = (
        row["prompt"]
        if isinstance(row["prompt"], str)
        else "\n".join(f"{m['role']}: {m['content']}" for m in row["prompt"])
    )
    shown = untrusted(row["text"])
    # The marks are Text spans over escaped text: what the model wrote cannot open or close a style.
    shown.highlight_regex(r"</?(?:think|answer|tool|result)>|<(?:eos|pad|bos|\|[^<>|]{1,40}\|)>", "magenta")
    to.print(untrusted(prompt.rstrip("\n"), "dim"))
    to.print(shown)
    to.print()


def _verdict(row: dict[str, Any]) -> tuple[str, str]:
    if row["abstained"] is not None:
        return f"abstained ({printable(str(row['abstained']))[:200]})", "yellow"
    if row["correct"] is None:
        return "not judged", "yellow"
    if row["correct"] == 1.0:
        return "correct", "green"
    return f"wrong (the answer is {printable(str(row['answer']))[:200]})", "red"
