"""The online loop: sample, score, shape, credit, update. Read it top to bottom.

It is a generator that yields every line it logs; whoever drives it draws the progress.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from truegain.core import arithmetic, segments
from truegain.core.arithmetic import Logs, merge
from truegain.core.batch import Batch
from truegain.core.errors import DataError, RunError, SettingError, WiringError
from truegain.core.forms import Role, Train
from truegain.core.types import Abstain, Engine, Problem, Rollout, Sampling, Split, Task
from truegain.policy.policy import Policy
from truegain.rollout.batch import to_columns
from truegain.rollout.collect import collect, score_rollouts
from truegain.rollout.engines import engine_for
from truegain.tasks.functions import RewardFunction
from truegain.train import checkpoint
from truegain.train.folder import RunFolder
from truegain.train.learner import learning_rate, logp_pass, make_optimiser, parameter_names, update
from truegain.train.ledger import Ledger, ModelCost, attended, model_cost, spend
from truegain.train.truth import look

SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Setup:
    """What a run works with. ``functions`` are the user's reward functions; their weighted sum is column ``score``."""

    form: Train
    policy: Policy
    task: Task
    folder: RunFolder
    seed: int = 0
    functions: tuple[tuple[RewardFunction, float], ...] = ()


def train(setup: Setup, stop: Callable[[], str | None]) -> Iterator[dict[str, Any]]:
    """Train the policy in place and yield each logged line, ``{"kind": "step" | "eval" | "note", "step": n, ...}``.

    Resumes from the folder's last good checkpoint. Ends after ``loop.steps`` steps or when ``stop`` has a reason, with
    a checkpoint either way. Raises RunError for a reward or a loss that is not finite, before a weight is touched.
    """
    check(setup.form)
    policy, folder, loop = setup.policy, setup.folder, setup.form.loop
    base = policy.reference()
    optimiser = make_optimiser(policy, loop)
    first, ledger, notes = _resume(setup, optimiser)
    for note in notes:
        yield {"kind": "note", "step": first, "text": note}
    engine = engine_for(policy)
    cost = model_cost(policy.model)
    step, saved = first, first if notes else -1
    if saved < 0 and loop.eval_every:
        yield _logged(folder, look(setup, engine, base, step=0))
    while step < loop.steps and stop() is None:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(loop, step)
        line, spent = _one_step(setup, engine, base, optimiser, step, cost)
        ledger, step = ledger + spent, step + 1
        yield _logged(folder, {"kind": "step", "step": step, **line, "ledger": ledger.to_json()})
        if loop.eval_every and step % loop.eval_every == 0:
            yield _logged(folder, look(setup, engine, base, step=step))
        if loop.save_every and step % loop.save_every == 0:
            _save(setup, optimiser, step, ledger)
            saved = step
    if saved != step:
        _save(setup, optimiser, step, ledger)
    if step < loop.steps:
        yield {"kind": "note", "step": step, "text": f"stopped after step {step}: {stop()}"}


def check(form: Train) -> None:
    """Refuse the stages and roles that this loop does not run. Raises WiringError naming the first."""
    for stage in ("score", "resample", "segment", "probe", "fold"):
        if getattr(form, stage):
            raise WiringError(f"the online loop does not run the stage {stage!r} yet; leave it empty")
    for name, role in form.roles.items():
        if role != Role(source="init", fills="ref_logp"):
            raise WiringError(
                f"the online loop runs a frozen role from 'init' that fills 'ref_logp', not role {name!r}"
            )
    if form.loop.top_k or form.loop.top_p < 1:
        raise SettingError(
            "loop.top_k and loop.top_p must be off in training: the learner's log-probs are of the whole distribution, "
            "so what was sampled from a cut one would be credited wrongly"
        )
    for term in form.terms:
        if term.role != "policy":
            raise WiringError(f"the online loop trains the role 'policy' alone, not {term.role!r}, which a term names")


def problems(task: Task, split: Split, first: int, count: int, seed: int) -> list[Problem]:
    """Problems ``first .. first+count-1`` of the seed's own order: a pure function, so nothing is saved to resume.

    A finite split is walked in a new order each epoch; an unlimited one from an
    offset of the seed's own, beyond what the embedded model was fitted on.
    """
    size = task.size(split)
    if size is None:
        return [task.problem(split, (seed + 1) * SEED_STRIDE + first + i) for i in range(count)]
    if size == 0:
        raise DataError(f"task {task.name!r} has no problem in its {split} split; give more data or other split files")
    found: list[Problem] = []
    for place in range(first, first + count):
        epoch, at = divmod(place, size)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed * SEED_STRIDE + epoch))
        found.append(task.problem(split, int(order[at])))
    return found


def sample(setup: Setup, engine: Engine, step: int) -> list[Rollout]:
    """Draw and judge one step's rollouts, problem by problem; those without a verdict hold the fact ``abstained``."""
    loop = setup.form.loop
    asked = problems(setup.task, "train", step * loop.prompts, loop.prompts, setup.seed)
    how = Sampling(loop.max_tokens, loop.temperature, loop.top_k, loop.top_p)
    drawn = collect(
        setup.policy,
        engine,
        setup.task,
        asked,
        samples=loop.samples,
        sampling=how,
        seed=setup.seed,
        stage="train",
        step=step,
        version=step,
    )
    return judge(setup, drawn)


def judge(setup: Setup, drawn: Sequence[Rollout]) -> list[Rollout]:
    """Put facts into rollouts: the checker's, then the user's functions'. An abstention is the fact ``abstained``."""
    scored = score_rollouts(setup.task, drawn)
    if not setup.functions:
        return scored
    return [_with_score(r, s) for r, s in zip(scored, _function_scores(setup, scored), strict=True)]


def _function_scores(setup: Setup, rollouts: Sequence[Rollout]) -> list[float | Abstain]:
    """Weighted sum of what the functions gave a row; the first abstention where one of them abstained."""
    total: list[float | Abstain] = [0.0] * len(rollouts)
    for function, weight in setup.functions:
        given = function.score([r.problem for r in rollouts], rollouts)
        for i, value in enumerate(given):
            so_far = total[i]
            if not isinstance(so_far, Abstain):
                total[i] = value if isinstance(value, Abstain) else so_far + weight * value
    return total


def _with_score(rollout: Rollout, value: float | Abstain) -> Rollout:
    if "abstained" in rollout.facts:
        return rollout
    fact = {"abstained": value.reason} if isinstance(value, Abstain) else {"score": value}
    return replace(rollout, facts={**rollout.facts, **fact})


def columns(setup: Setup, rollouts: Sequence[Rollout], base: Policy, step: int) -> tuple[Batch, Tensor, Logs]:
    """From rollouts to the batch that credit sees: facts, log-probs asked for early, reward, selection.

    Returns the batch, the rollout number of each of its rows, and the logs.
    """
    form, loop = setup.form, setup.form.loop
    prompts = [r.trained_prompt for r in rollouts]
    batch = Batch(**to_columns(rollouts))
    if any(role.fills == "ref_logp" for role in form.roles.values()):
        batch = batch.add(ref_logp=logp_pass(base, prompts, batch, loop))
    if arithmetic.needs_old_pass(form):
        batch = batch.add(old_logp=logp_pass(setup.policy, prompts, batch, loop))
    batch, logs = arithmetic.reward_stage(form, batch, facts_of(form, step))
    bad = (~batch["reward"].isfinite()).nonzero().flatten().tolist()
    if bad:
        why = f"the reward of {len(bad)} rows is not finite; no weight was touched. Mend the reward"
        raise _refused(setup, step, [rollouts[i] for i in bad], why)
    logs = merge(logs, _reward_logs(batch))
    batch, kept, more = arithmetic.select_stage(form, batch, facts_of(form, step))
    return batch, kept, merge(logs, more)


def learn(
    setup: Setup,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    rollouts: Sequence[Rollout],
    step: int,
) -> tuple[Logs, Tensor, list[float]]:
    """Credit once, then every optimiser step of the plan. Returns logs, rows that went through the model, norms."""
    form = setup.form
    facts = facts_of(form, step)
    advantages, logs = arithmetic.credit_stage(form, batch, facts)
    steps, more = arithmetic.plan_stage(form, batch, advantages, facts)
    logs = merge(logs, more)
    passed: list[Tensor] = []
    norms: list[float] = []
    for part in steps:
        rows = part.rows.tolist()
        prompts = [rollouts[i].trained_prompt for i in rows]
        try:
            done = update(form, setup.policy, optimiser, part, prompts, facts)
        except RunError as error:
            chosen = [rollouts[rows[i]] for i in getattr(error, "rows", [])]
            raise _refused(setup, step, chosen, str(error)) from error
        passed.append(part.rows[done.passed])
        norms.append(done.grad_norm)
        logs = merge(logs, done.logs, {"loss": (done.loss, 1.0)})
    return logs, torch.cat(passed), norms


def facts_of(form: Train, step: int) -> dict[str, Any]:
    """The loop facts that components may name."""
    return {"progress": step / max(form.loop.steps, 1), "step_index": step, "max_tokens": form.loop.max_tokens}


def _one_step(
    setup: Setup, engine: Engine, base: Policy, optimiser: torch.optim.Optimizer, step: int, cost: ModelCost
) -> tuple[dict[str, Any], Ledger]:
    """Sample, judge and learn; the line to log and what it cost."""
    began = time.perf_counter()
    drawn = sample(setup, engine, step)
    rollouts = [r for r in drawn if "abstained" not in r.facts]
    if not rollouts:
        raise _refused(setup, step, drawn, _all_abstained(drawn))
    batch, kept, logs = columns(setup, rollouts, base, step)
    chosen = [rollouts[i] for i in kept.tolist()]
    more, passed, norms = (
        learn(setup, optimiser, batch, chosen, step) if chosen else ({"loss": (0.0, 1.0)}, kept, [0.0])
    )
    if setup.form.loop.eval_every and (step + 1) % setup.form.loop.eval_every == 0:
        setup.folder.records(f"rollouts/step-{step + 1:06d}.jsonl").append(*map(_row, drawn))
    line: dict[str, Any] = {name: value / count for name, (value, count) in merge(logs, more).items() if count}
    line |= {"grad_norm": sum(norms) / len(norms), "truegain/abstained": len(drawn) - len(rollouts)}
    line |= {"truegain/trained_rows": int(passed.numel()), **_completion_logs(rollouts)}
    line |= {"learning_rate": optimiser.param_groups[0]["lr"], "seconds": time.perf_counter() - began}
    passes = int(arithmetic.needs_old_pass(setup.form)) + len(setup.form.roles)
    spent = _sampling_cost(cost, drawn)
    spent += _pass_cost(cost, "trained", [chosen[i] for i in passed.tolist()])
    for _ in range(passes):
        spent += _pass_cost(cost, "scored", rollouts)
    return line, spent


def _all_abstained(drawn: Sequence[Rollout]) -> str:
    reason, count = Counter(str(r.facts["abstained"]) for r in drawn).most_common(1)[0]
    share = "each time" if count == len(drawn) else f"{count} of {len(drawn)} times"
    return f"every rollout's check abstained ({share}: {reason}), so there is nothing to train on; mend the check"


def _reward_logs(batch: Batch) -> Logs:
    """TRL's names: mean reward, mean deviation within groups, share of groups whose rewards are all equal."""
    # In double precision the mean of equal float32 numbers is exact, so that equal rewards deviate by exactly 0.
    reward, group = batch["reward"].double(), batch["group"]
    size = segments.total(torch.ones_like(reward), group)
    centred = reward - segments.spread(segments.mean(reward, group), group)
    spread = (segments.total(centred**2, group) / (size - 1).clamp(min=1)).sqrt()
    groups = float(size.numel())
    return {
        "reward": (float(reward.sum()), float(reward.numel())),
        "reward_std": (float(spread.sum()), groups),
        "frac_reward_zero_std": (float((spread == 0).sum()), groups),
    }


def _completion_logs(rollouts: Sequence[Rollout]) -> dict[str, float]:
    lengths = [len(r.ids) for r in rollouts]
    ended = [len(r.ids) for r in rollouts if r.stop != "length"]
    out = {
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/clipped_ratio": 1 - len(ended) / len(lengths),
    }
    out |= {"completions/min_length": float(min(lengths)), "completions/max_length": float(max(lengths))}
    if ended:
        out["completions/mean_terminated_length"] = sum(ended) / len(ended)
    return out


def _sampling_cost(cost: ModelCost, rollouts: Sequence[Rollout]) -> Ledger:
    """Drawn tokens, plus each prompt once for its group."""
    spent = Ledger()
    seen: set[str] = set()
    for r in rollouts:
        start = len(r.prompt_ids)
        spent += spend(cost, "sampled", len(r.ids), attended(start, start + len(r.ids)))
        if r.problem.id not in seen:
            seen.add(r.problem.id)
            spent += spend(cost, "sampled", start, attended(0, start))
    return spent


def _pass_cost(cost: ModelCost, stage: Literal["scored", "trained"], rollouts: Sequence[Rollout]) -> Ledger:
    spent = Ledger()
    for r in rollouts:
        size = len(r.trained_prompt) + len(r.ids)
        spent += spend(cost, stage, size, attended(0, size))
    return spent


def _resume(setup: Setup, optimiser: torch.optim.Optimizer) -> tuple[int, Ledger, tuple[str, ...]]:
    """Take up the last good checkpoint: weights, optimiser, ledger; later lines of the log are dropped."""
    found = checkpoint.latest(setup.folder.path)
    if found is None:
        setup.folder.rewind(-1)
        return 0, Ledger(), ()
    setup.policy.load_weights(Policy.load(found.path, dtype=_dtype_name(setup.policy)).model.state_dict())
    names = parameter_names(setup.policy, optimiser)
    checkpoint.load_optimizer(optimiser, names, found.tensors(), found.state["optimizer"])
    checkpoint.set_aside_after(setup.folder.path, found.step)
    setup.folder.rewind(found.step)
    return found.step, Ledger.from_json(found.state["ledger"]), (*found.notes, f"resumed after step {found.step}")


def _dtype_name(policy: Policy) -> str:
    return str(policy.dtype).removeprefix("torch.")


def _save(setup: Setup, optimiser: torch.optim.Optimizer, step: int, ledger: Ledger) -> None:
    tensors, state = checkpoint.optimizer_tensors(optimiser, parameter_names(setup.policy, optimiser))
    setup.folder.sync()
    checkpoint.save(
        setup.folder.path,
        step,
        write_model=setup.policy.save,
        tensors=tensors,
        state={"optimizer": state, "ledger": ledger.to_json(), "step": step},
    )


def _logged(folder: RunFolder, line: dict[str, Any]) -> dict[str, Any]:
    folder.log(line)
    return line


def _row(r: Rollout) -> dict[str, Any]:
    """A rollout as it is kept in ``rollouts/`` and ``failed/``."""
    place = {"problem": r.problem.id, "sample": r.sample, "prompt": r.problem.prompt, "text": r.text, "stop": r.stop}
    return {**place, "tokens": len(r.ids), "logp": sum(r.engine_logp), "facts": dict(r.facts)}


def _refused(setup: Setup, step: int, rows: Sequence[Rollout], why: str) -> RunError:
    """Save the guilty rows beside the log and return the error that names step and file, numbered as in the log."""
    name = f"failed/step-{step + 1:06d}.jsonl"
    setup.folder.records(name).append(*map(_row, rows))
    return RunError(f"step {step + 1}: {why}; the rows are in {setup.folder.path / name}")
