"""A whole run: for each seed the trained arm, its controls, and the judgement of all arms on unseen problems."""

from __future__ import annotations

import importlib.metadata
import platform
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from truegain.core.component import knobs_of, spec_of
from truegain.core.errors import DataError, SettingError
from truegain.core.forms import Fit, Train, members
from truegain.core.settings import settings, with_setting
from truegain.core.types import Split, Task
from truegain.policy.policy import Policy
from truegain.rollout.engines import engine_for
from truegain.tasks.functions import RewardFunction, reward_spec
from truegain.tasks.mixture import parse
from truegain.tasks.overlap import overlap_notes
from truegain.train import checkpoint
from truegain.train.folder import RunFolder, read_lines
from truegain.train.guard import Guard, guarded, roll_back, set_aside
from truegain.train.launch import StopSignal
from truegain.train.ledger import Ledger, attended, model_cost, spend
from truegain.train.memory import memory
from truegain.train.offline import Example, begin, sft
from truegain.train.online import Setup, problems, train
from truegain.train.tiny import demonstration_example
from truegain.train.truth import fixed_problems, judge_arm, look

SIZES: Mapping[str, int] = {"dev": 200, "test": 400, "samples": 4}
FREE = frozenset(
    {"command", "argv", "versions", "settings.loop.steps", "settings.loop.micro_tokens", "max_seconds", "report_to"}
    | {"threads", "device", "guard"}
)
LENGTH = frozenset({"settings.loop.steps", "max_seconds"})
_PACKAGES = ("truegain", "torch", "transformers", "tokenizers", "safetensors", "numpy")
_ENDED = "time is up"
PAUSED = -1
"""What training returns when the guard has paused it."""


@dataclass(frozen=True)
class Plan:
    """What `execute` runs.

    ``blind`` is the form under a random reward (`truegain.recipes.controls.blind`), ``sft`` the recipe of that name:
    with them these control arms run.
    ``max_seconds`` bounds the trained arm's training time per seed; controls are matched to what it spent, and the
    judgement comes on top. ``rewards`` are dotted paths ``path:fn`` or ``path:fn=WEIGHT``. ``sizes`` are the problems
    of ``dev`` and ``test`` and the ``samples`` per problem. ``judge`` False leaves the test split closed, as another
    form goes on from this model. ``guard`` watches gold while the arm trains, and is what it does on an alarm:
    `truegain.train.guard.ACTIONS`.
    """

    form: Train
    recipe: str
    model: str
    task: str
    out: Path
    seeds: tuple[int, ...] = (0,)
    blind: Train | None = None
    sft: Fit | None = None
    rewards: tuple[str, ...] = ()
    max_seconds: float | None = None
    sizes: Mapping[str, int] = field(default_factory=lambda: dict(SIZES))
    dtype: str = "float32"
    device: str = "cpu"
    command: str = ""
    argv: tuple[str, ...] = ()
    judge: bool = True
    guard: str | None = None


def execute(plan: Plan, stop: StopSignal) -> Iterator[dict[str, Any]]:
    """Run all seeds and yield events: an arm's start, each logged line, the judgement's progress, each folder's end.

    Every event has ``kind``, ``seed`` and ``arm``. A folder that was finished is not run again; an interrupted one
    goes on where it was. Raises what the loop, the task, the model and the folder raise.
    """
    if plan.dtype == "float16":
        raise SettingError("float16 gradients underflow without loss scaling: train in bfloat16 or float32")
    for seed in plan.seeds:
        place = plan.out if len(plan.seeds) == 1 else plan.out / f"seed-{seed}"
        # What can be refused is refused before there is a folder.
        task, policy = parse(plan.task, needs_answer=not plan.rewards), load_policy(plan, seed)
        fit = replace(plan, form=_guarded(fitted(plan.form, task), plan, task))
        with reward_functions(plan.rewards) as functions:
            _make_parent(place)
            with RunFolder(place) as folder:
                yield from _one_seed(Setup(fit.form, policy, task, folder, seed, functions), fit, stop)
        if stop.reason():
            return


def load_policy(plan: Plan, seed: int) -> Policy:
    """The model that a seed of the plan trains, with a fresh adapter where its settings ask for one."""
    policy, loop = Policy.load(plan.model, dtype=plan.dtype, device=plan.device), plan.form.loop
    if not loop.lora_rank:
        return policy
    return policy.with_lora(rank=loop.lora_rank, alpha=loop.lora_alpha, targets=loop.lora_targets, seed=seed)


def _make_parent(place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the run folder {place} cannot be made ({error.strerror}): give another --out") from error


def proxy_is_gold(form: Train) -> bool:
    """Whether the reward is the task's exact checker and nothing else: then no gap between them can exist."""
    chosen = members(form.reward)
    if len(chosen) != 1 or spec_of(chosen[0]).inputs != ("correct",):
        return False
    knobs = knobs_of(chosen[0])
    return knobs.get("right", 1.0) > knobs.get("wrong", 0.0)


def fitted(form: Train, task: Task) -> Train:
    """The form with its token limit raised to what the task's reference completions need, where it says so."""
    need = getattr(task, "max_tokens", None)
    if need is None or "max_tokens" in form.loop.model_fields_set:
        return form
    return replace(form, loop=form.loop.model_copy(update={"max_tokens": need}))


def _one_seed(setup: Setup, plan: Plan, stop: StopSignal) -> Iterator[dict[str, Any]]:
    folder, policy, seed = setup.folder, setup.policy, setup.seed
    # Once the test split was opened for it, a run has its length: what was judged is what the report speaks of.
    judged = _is_judged(folder, "trained")
    notes = folder.settings(_settings(plan, seed), FREE - LENGTH if judged else FREE)
    base = policy.reference()
    tag = {"seed": seed, "arm": "trained"}
    said = [f"changed since the run began: {note}" for note in notes]
    said += [*getattr(setup.task, "notes", ()), *overlap_notes(setup.task), *_short_of(setup.task, "dev", plan)]
    for text in said:
        yield {"kind": "note", "step": 0, "text": text, **tag}
    at = None
    if not judged:
        spent, steps = _seconds_spent(folder), plan.form.loop.steps
        yield {"kind": "arm", "steps": steps, "max_seconds": plan.max_seconds, "spent": spent, **tag}
        at = yield from _trained(setup, plan, base, stop, tag)
    if stop.reason() or at == PAUSED:
        return
    if not plan.judge:
        yield {"kind": "done", "folder": str(folder.path), **tag}
        return
    done = _steps_done(folder)
    if not getattr(setup.task, "has_answers", True):
        yield {"kind": "note", "step": done, "text": "no answers to check against, so no gain can be judged", **tag}
        return
    for text in _short_of(setup.task, "test", plan):
        yield {"kind": "note", "step": done, "text": text, **tag}
    for arm, model in (("base", base), ("trained", policy)):
        step = done if arm == "base" or at is None else at
        yield from _judged(setup, plan, arm, model, step, tag, stop)
    if (at := _judged_step(folder)) is not None and at < done:
        set_aside(folder, at)
    if plan.blind is not None and not stop.reason():
        yield from _controls(plan, setup, base, done, stop)
    if not stop.reason():
        yield {"kind": "done", "folder": str(folder.path), **tag}


def _trained(
    setup: Setup, plan: Plan, base: Policy, stop: StopSignal, tag: Mapping[str, Any]
) -> Generator[dict[str, Any], None, int | None]:
    """Train the arm, look at it at its end, and have the guard say what it thinks of each look.

    Returns the step that it was rolled back to, `PAUSED`, or None for a policy that is the one of its last step.
    """
    folder, loop = setup.folder, plan.form.loop
    watch = None if plan.guard is None else Guard(folder, plan.guard)
    limit = _limit(folder, plan.max_seconds, stop)
    setup = setup if watch is None else replace(setup, kept=watch.kept)

    def lines() -> Iterator[dict[str, Any]]:
        yield from train(setup, limit if watch is None else watch.until(limit))
        done = _steps_done(folder)
        if not stop.reason() and plan.judge and loop.eval_every and not _looked(folder, done):
            line = look(setup, engine_for(setup.policy), base, step=done)
            folder.log(line)
            yield line

    for line in lines():
        yield {**line, **tag}
        if watch is not None and line["kind"] == "eval":
            folder.log(watch.line())
            yield {**watch.line(), **tag}
    if watch is None or stop.reason() or watch.reason() is None:
        return None
    alarm = watch.alarm()
    assert alarm is not None
    if plan.guard == "pause":
        yield {"kind": "paused", "step": alarm.step, "best": alarm.best, **tag}
        return PAUSED
    at = roll_back(watch, setup.policy, base)
    text = f"rolled back to step {at}, the look with the most gold; what is judged is that model"
    yield {"kind": "note", "step": alarm.step, "text": text, **tag}
    return at


def _guarded(form: Train, plan: Plan, task: Task) -> Train:
    if plan.guard is None:
        return form
    if not getattr(task, "has_answers", True):
        raise SettingError(f"--guard needs gold, and task {task.name!r} has no answers to check against")
    return guarded(form, plan.guard)


def _short_of(task: Task, split: Split, plan: Plan) -> Iterator[str]:
    """What to say when a split has fewer different problems than the judgement asks for."""
    found, asked = len(fixed_problems(task, split, plan.sizes[split])), plan.sizes[split]
    if found < asked:
        yield f"the {split} split has {found} different problems, not the {asked} asked for: intervals will be wide"


def _looked(folder: RunFolder, step: int) -> bool:
    return any(line.get("kind") == "eval" and line["step"] == step for line in folder.read_log())


def _controls(plan: Plan, setup: Setup, base: Policy, done: int, stop: StopSignal) -> Iterator[dict[str, Any]]:
    """Arms that spend what the trained arm spent: a reward that knows nothing, and more SFT on gold traces."""
    assert plan.blind is not None
    # The trained arm's own number of planned steps, so that schedules run alike; the arm stops at what that arm did.
    loop = plan.form.loop.model_copy(update={"eval_every": 0})
    form = cast(Train, with_setting(replace(plan.blind, loop=loop), "reward.random_reward.seed", setup.seed))
    tag = {"seed": setup.seed, "arm": "control:random-reward"}
    if not _is_judged(setup.folder, tag["arm"]):
        place = setup.folder.path / "controls" / "random-reward"
        place.parent.mkdir(exist_ok=True)
        with RunFolder(place) as folder:
            folder.settings({**_settings(plan, setup.seed), "settings": _plain(form)}, FREE)
            control = Setup(form, base.trainable_copy(), setup.task, folder, setup.seed)
            yield {"kind": "arm", "steps": done, "max_seconds": None, **tag}
            found = checkpoint.latest(place)
            at = {"step": found.step if found else 0}
            for line in train(control, lambda: stop.reason() or ("matched" if at["step"] >= done else None)):
                at["step"] = max(at["step"], line["step"])
                if line["kind"] != "note":
                    yield {**line, **tag}
            if stop.reason():
                return
        yield from _judged(setup, plan, tag["arm"], control.policy, done, tag, stop)
    tag = {"seed": setup.seed, "arm": "control:more-sft"}
    if plan.sft is None:
        return
    if not hasattr(setup.task, "demonstration"):
        yield {"kind": "note", "step": done, "text": "no more-SFT control: this task has no demonstrations", **tag}
    elif not _is_judged(setup.folder, tag["arm"]):
        policy = base.trainable_copy()
        budget = _spent(setup.folder).flops
        yield {"kind": "arm", "steps": None, "flops": budget, "max_seconds": None, **tag}
        for line in more_sft(plan.sft, policy, setup.task, budget, plan.form.loop.lr, setup.seed):
            yield {**line, **tag}
            if stop.reason():
                return
        yield from _judged(setup, plan, tag["arm"], policy, done, tag, stop)


def more_sft(form: Fit, policy: Policy, task: Task, flops: int, lr: float, seed: int) -> Iterator[dict[str, Any]]:
    """Fine-tune on the task's own demonstrations until ``flops`` operations are spent; yields a line per step."""
    cost, ledger = model_cost(policy.model), Ledger()
    spent = 0

    def example(index: int) -> Example:
        problem = problems(task, "train", index, 1, seed)[0]
        text = cast(Any, task).demonstration(problem, random.Random(f"{seed}-{index}"))
        return demonstration_example(policy, problem, text)

    state = begin(policy, weight_decay=form.loop.weight_decay)
    endless = sft(form, policy, example, state, steps=10**9, lr=lr, warmup=form.loop.warmup, schedule="constant")
    for state in endless:
        for size in (example(i).size for i in range(spent, state.index)):
            ledger += spend(cost, "trained", size, attended(0, size))
        spent = state.index
        share = ledger.flops / max(flops, 1)
        line = {"kind": "step", "step": state.step, "loss": state.loss, "progress": min(share, 1.0)}
        yield {**line, "ledger": ledger.to_json()}
        if share >= 1:
            break
    policy.model.eval()


def _judged(
    setup: Setup, plan: Plan, arm: str, policy: Policy, step: int, tag: Mapping[str, Any], stop: StopSignal
) -> Iterator[dict[str, Any]]:
    """Judge an arm, unless that was done or the user asks to stop; half a judgement leaves no record."""
    if stop.reason() or _is_judged(setup.folder, arm):
        return
    with memory("judgement", plan.form.loop):
        for text in judge_arm(setup, arm, policy, step=step, sizes=plan.sizes):
            yield {"kind": "judge", "step": step, "text": text, **tag, "arm": arm}
            if stop.reason():
                return


def _is_judged(folder: RunFolder, arm: str) -> bool:
    """Whether the records hold this arm: the test split is opened for it once."""
    return any(line["arm"] == arm for line in read_lines(folder.path / "evals" / "records.jsonl"))


def _judged_step(folder: RunFolder) -> int | None:
    """The step of the model that was judged as the trained arm; None before that."""
    lines = read_lines(folder.path / "evals" / "records.jsonl")
    return next((line["step"] for line in lines if line["arm"] == "trained"), None)


def _steps_done(folder: RunFolder) -> int:
    return max((line["step"] for line in folder.read_log()), default=0)


def _spent(folder: RunFolder) -> Ledger:
    found = [line["ledger"] for line in folder.read_log() if line.get("kind") == "step"]
    return Ledger.from_json(found[-1]) if found else Ledger()


def _limit(folder: RunFolder, max_seconds: float | None, stop: StopSignal) -> Callable[[], str | None]:
    """A reason to stop: the user's, or that this folder's training time, earlier sittings included, is used up.

    The clock is set at the first question, when the loop has taken up its checkpoint: steps that were lost with a
    killed sitting, and are taken again, are not charged twice.
    """
    if max_seconds is None:
        return stop.reason
    ends: list[float] = []

    def reason() -> str | None:
        if not ends:
            ends.append(time.monotonic() + max_seconds - _seconds_spent(folder))
        return stop.reason() or (_ENDED if time.monotonic() >= ends[0] else None)

    return reason


def _seconds_spent(folder: RunFolder) -> float:
    return sum(float(line.get("seconds", 0.0)) for line in folder.read_log())


@contextmanager
def reward_functions(texts: Sequence[str]) -> Iterator[tuple[tuple[RewardFunction, float], ...]]:
    """Load each function, ``path:fn=WEIGHT,deadline=SECONDS``, in worker processes that end with the block.

    Raises SettingError for a function or a setting that cannot be read.
    """
    with ExitStack() as workers:
        named = [reward_spec(text) for text in texts]
        yield tuple((workers.enter_context(RewardFunction(s.path, s.deadline)), s.weight) for s in named)


def _settings(plan: Plan, seed: int) -> dict[str, Any]:
    versions: dict[str, str] = {"python": platform.python_version()}
    for name in _PACKAGES:
        versions[name] = importlib.metadata.version(name)
    return {
        "command": plan.command,
        "argv": list(plan.argv),
        "settings": _plain(plan.form),
        "versions": versions,
        "threads": torch.get_num_threads(),
        "model": plan.model,
        "task": plan.task,
        "recipe": plan.recipe,
        "rewards": list(plan.rewards),
        "dtype": plan.dtype,
        "device": plan.device,
        "sizes": dict(plan.sizes),
        "controls": plan.blind is not None,
        "max_seconds": plan.max_seconds,
        "proxy_is_gold": proxy_is_gold(plan.form),
        "seed": seed,
    } | ({} if plan.guard is None else {"guard": plan.guard})


def _plain(form: Train) -> dict[str, Any]:
    """The form's settings, nested, and the components it is made of."""
    nested: dict[str, Any] = {}
    for path, value in settings(form).items():
        *place, last = path.split(".")
        at = nested
        for part in place:
            at = at.setdefault(part, {})
        at[last] = value
    stages = {"reward": form.reward, "select": form.select, "plan": form.plan}
    for n, term in enumerate(form.terms):
        stages |= {f"term {n} {kind}": getattr(term, kind) for kind in ("credit", "weight", "surrogate")}
    nested["components"] = {k: [spec_of(m).full_name for m in members(s)] for k, s in stages.items() if members(s)}
    return nested
