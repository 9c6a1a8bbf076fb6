"""``truegain audit``: whether a reward is fit to be optimised."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from truegain.cli.catalog import Json
from truegain.cli.errors import FAILED
from truegain.cli.out import console, json_lines, print_json, quiet_libraries
from truegain.cli.progress import Progress, in_blocks, progress
from truegain.core.errors import SettingError, nearest

PROBLEMS, QUICK_PROBLEMS = 100, 40
DRAWN, SAMPLES = 64, 32
"""Problems that a model is asked, and completions of each."""


def audit(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="REWARD",
            help="A task (sort, data.jsonl,checker=math, gym:NAME), path:function, or a reward model's folder.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Problems for a function or a reward model: a data file or a task."),
    ] = None,
    gold: Annotated[
        str | None, typer.Option(metavar="VERIFIER", help="A second verifier: exact, math, a task or path:function.")
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON lines with completion, answer and label.")
    ] = None,
    completions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Completions for best-of-n, in place of a model's.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Draws completions for best-of-n. [default: tiny, on embedded tasks]")
    ] = None,
    problems: Annotated[int | None, typer.Option(min=2, help="Problems to ask about. [default: 100]")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="40 problems; fit then means at most 10 %, not 5 %.")] = False,
    cut: Annotated[float | None, typer.Option(help="Scores from here on are right. [default: half-way]")] = None,
    form: Annotated[
        str | None, typer.Option(help="How completions state answers: boxed, answer tags, hashes, sentence or bare.")
    ] = None,
    fact: Annotated[str, typer.Option(help="What of a task's facts is the reward.")] = "correct",
    math: Annotated[bool | None, typer.Option("--math/--no-math", help="It claims mathematics: 1/2 is 0.5.")] = None,
    deadline: Annotated[float | None, typer.Option(min=0.1, help="Seconds for one completion. [default: 5]")] = None,
    slow: Annotated[float, typer.Option(min=0.0001, help="Seconds that a completion may usually take.")] = 1.0,
    max_seconds: Annotated[float | None, typer.Option(min=1, help="Bounds the probing. [default: 120]")] = None,
    seed: Annotated[int, typer.Option(help="Decides every draw.")] = 0,
    page: Annotated[Path | None, typer.Option(help="The page to write. [default: audit-REWARD.html]")] = None,
    json: Json = False,
) -> None:
    """Is this reward fit to be optimised?

    It is asked about reference answers and about many ways to be paid for nothing, in worker processes. Exits with 0
    when it is fit, with 1 when it is unfit or that cannot be told, with 2 when the question is wrong.
    """
    with json_lines(json), progress("starting", quiet=True) as shown:
        from truegain import audit as room
        from truegain.audit.probes import FORMS

        if form is not None and form not in FORMS:
            raise SettingError(f"unknown form {form!r}{nearest(form, set(FORMS))}; there are {', '.join(FORMS)}")
        is_task, is_model = _kind(subject, data)
        spec = _admitted(subject if is_task else str(data))
        late = deadline if deadline is not None else (2.0 if quick else 5.0)
        rules = room.Rules(bound=0.10 if quick else 0.05, deadline=late, slow=slow)
        plan = room.Plan(
            seed=seed, cut=cut, form=form, symbolic=math, agree=gold is not None or labelled is not None,
            seconds=max_seconds or (30.0 if quick else 120.0), again=QUICK_PROBLEMS if quick else 80,
        )  # fmt: skip
        shown.begin("making the problems")
        task = _task(spec, needs_answer=is_task)
        asked = room.problems_of(task, problems or (QUICK_PROBLEMS if quick else PROBLEMS), seed)
        evidence = [
            None if f is None else room.read_evidence(f, asked, labelled=f is labelled) for f in (labelled, completions)
        ]
        second = _second(gold, spec if not is_task else None, late)
        drawer = _drawer(model, task, second, quick, seed, shown)
        shown.begin(f"loading {subject}")
        made = room.Subject(
            spec if is_task else subject,
            is_task=is_task,
            is_model=is_model,
            fact=fact,
            deadline=late,
            count=_workers(spec if is_task else ""),
        )
        given = {"second": second, "labelled": evidence[0], "sampled": evidence[1], "draw": drawer}
        with made:
            found = _driven(room.audit(made, task, asked, rules, plan, **given), shown)
        if second is not None:
            second.close()
        from truegain import report

        where = report.write_audit(page or Path(f"audit-{_slug(subject)}.html"), found)
    if json:
        print_json(found)
    else:
        console().print(report.render_audit_terminal(found))
        console().print(f"page: {where}", style="dim")
    if found["verdict"] != "fit":
        raise typer.Exit(FAILED)


def _kind(subject: str, data: str | None) -> tuple[bool, bool]:
    """Whether the subject is a task, and whether a reward model. Raises SettingError where --data does not fit."""
    from truegain.tasks.functions import is_function

    is_model = _is_reward_model(subject)
    is_task = not is_model and not is_function(subject)
    if is_task and data is not None:
        raise SettingError("--data is for functions and reward models; a task brings its own problems")
    if not is_task and data is None:
        what = "a reward model" if is_model else "a function"
        raise SettingError(f"{subject!r} is {what} and needs --data: a file or a task with its problems")
    return is_task, is_model


def _is_reward_model(name: str) -> bool:
    """Whether a name is the folder of a reward model, or of an ensemble of them. Raises SettingError for another."""
    if not Path(name).expanduser().is_dir():
        return False
    from truegain.policy.heads import members_of
    from truegain.policy.reward_model import HEAD

    if members_of(name) or (Path(name).expanduser() / HEAD).is_file():
        return True
    raise SettingError(
        f"the folder {name} holds no {HEAD}: it is no reward model, `truegain fit reward-model` makes one"
    )


def _admitted(spec: str) -> str:
    """The spec with reasoning-gym's refused datasets admitted: to look at them is what an audit is for."""
    parts = [f"{p},unsafe=true" if p.strip().startswith("gym:") and "unsafe=" not in p else p for p in spec.split("+")]
    return "+".join(parts)


def _task(spec: str, *, needs_answer: bool) -> Any:
    from truegain.tasks.mixture import parse

    made = parse(spec, needs_answer=needs_answer)
    if made.name == "bandit":
        raise SettingError("the task bandit is for the table policy: its answers are no text to audit")
    if any(getattr(one, "checker", "") == "python" for one in getattr(made, "members", (made,))):
        raise SettingError(
            "an audit writes answers, and cannot write programs: `truegain check` runs each row's own program against "
            "its unit tests, and docs/sandbox.md says which cheats the sandbox is held to"
        )
    return made


def _workers(spec: str) -> int:
    """Worker processes; one for reasoning-gym, each of whose workers holds a pool of its own."""
    import os

    return 1 if "gym:" in spec else max(1, min(4, os.cpu_count() or 1))


def _second(gold: str | None, data: str | None, deadline: float) -> Any:
    """The second verifier that was asked for; for a function on a generated task, else that task's own checker."""
    from truegain.audit.evidence import VERIFIERS, Second, check_second
    from truegain.tasks._rows import SUFFIXES
    from truegain.tasks.functions import is_function

    if gold is None:
        parts = [] if data is None else [part.split(",")[0].strip() for part in data.split("+")]
        exact = bool(parts) and not any(part.lower().endswith(SUFFIXES) or "/" in part for part in parts)
        return Second(str(data), is_task=True, deadline=deadline) if exact else None
    check_second(gold)
    if gold in VERIFIERS:
        return Second(gold, is_task=False)
    return Second(_admitted(gold), is_task=not is_function(gold), deadline=deadline)


def _drawer(
    model: str | None, task: Any, second: Any, quick: bool, seed: int, shown: Progress
) -> Callable[[Sequence[Any]], Iterator[Any]] | None:
    """Draws completions by the model that was named, by ``tiny`` for an embedded task."""
    from truegain.tasks import Generated

    if second is None or (model is None and not isinstance(task, Generated)):
        return None
    name, few = model or "tiny", 2 if quick else 1

    def draw(problems: Sequence[Any]) -> Iterator[Any]:
        from truegain.core.types import Sampling
        from truegain.policy.policy import Policy
        from truegain.rollout.collect import collect
        from truegain.rollout.engines import engine_for

        quiet_libraries()
        shown.begin(f"loading {name}")
        policy = Policy.load(name)
        engine, how = engine_for(policy), Sampling(getattr(task, "max_tokens", None) or 256)
        for block in in_blocks(problems[: DRAWN // few], 4):
            drawn = collect(
                policy, engine, task, block, samples=SAMPLES // few, sampling=how, seed=seed, stage="audit", step=0
            )
            yield [(rollout.problem, rollout.text) for rollout in drawn]

    return draw


def _driven(work: Generator[Any, None, dict[str, Any]], shown: Progress) -> dict[str, Any]:
    """Run the audit to its end, showing how far it is."""
    while True:
        try:
            at = next(work)
        except StopIteration as end:
            return end.value
        if shown.what != at.what:
            shown.begin(at.what, at.total, at.unit)
        if at.total is not None or at.done:
            shown.at(at.done)


def _slug(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(name.split(",")[0]).name).strip("-").lower() or "reward"
