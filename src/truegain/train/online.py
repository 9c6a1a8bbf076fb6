"""The online loop: sample, score, resample, shape, credit, update. Read it top to bottom.

It is a generator that yields every line it logs; whoever drives it draws the progress.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from truegain.core import arithmetic
from truegain.core.arithmetic import Logs, merge
from truegain.core.batch import Batch
from truegain.core.errors import RunError, SettingError
from truegain.core.forms import Train, members
from truegain.core.types import Rollout, Task
from truegain.policy.candidates import check_head
from truegain.policy.policy import Policy
from truegain.train import checkpoint
from truegain.train.drawing import Draw, judge, problems, resample
from truegain.train.folder import RunFolder
from truegain.train.folds import begin_folds, run_folds
from truegain.train.learner import costly_pass, logp_pass, set_rates, update
from truegain.train.ledger import Ledger, ModelCost, attended, model_cost, spend
from truegain.train.memory import memory
from truegain.train.models import Model, check_roles, load_models, optimisers_saved, restore_models, write_models
from truegain.train.setup import Setup, State, facts_of, form_now
from truegain.train.shaping import check_columns, not_finite, renewed, shape
from truegain.train.truth import look

__all__ = ["Setup", "check", "facts_of", "judge", "problems", "train"]


def train(setup: Setup, stop: Callable[[], str | None]) -> Iterator[dict[str, Any]]:
    """Train the policy in place and yield each logged line, ``{"kind": "step" | "eval" | "note", "step": n, ...}``.

    Resumes from the folder's last good checkpoint. Ends after ``loop.steps`` steps or when ``stop`` has a reason, with
    a checkpoint either way. Raises RunError for a reward or a loss that is not finite, before a weight is touched.
    """
    check(setup.form, setup.task, bool(setup.functions))
    base, folder = setup.policy.reference(), setup.folder
    if arithmetic.named_costly(setup.form):
        check_head(setup.policy)
    models = load_models(setup.form, setup.policy, base)
    state, notes = _resume(setup, models)
    for note in notes:
        yield {"kind": "note", "step": state.step, "text": note}
    saved = state.step if notes else -1
    now = replace(setup, form=form_now(setup, state))
    if saved < 0 and now.form.loop.eval_every:
        yield _look(now, models, base, 0)
    while state.step < now.form.loop.steps and stop() is None:
        line = one_step(now, models, state)
        yield _logged(folder, {"kind": "step", "step": state.step, **line, "ledger": state.ledger.to_json()})
        now = replace(setup, form=form_now(setup, state))
        loop = now.form.loop
        if loop.eval_every and state.step % loop.eval_every == 0:
            yield _look(now, models, base, state.step)
        if loop.save_every and state.step % loop.save_every == 0:
            _save(setup, models, state)
            saved = state.step
    if saved != state.step:
        _save(setup, models, state)
    if state.step < now.form.loop.steps:
        yield {"kind": "note", "step": state.step, "text": f"stopped after step {state.step}: {stop()}"}


def one_step(setup: Setup, models: Mapping[str, Model], state: State) -> dict[str, Any]:
    """Sample, judge, shape, learn and let the folds see it; ``state`` moves on. Returns the line to log."""
    began, form = time.perf_counter(), setup.form
    set_rates(models, form.loop, state.step)
    draw = Draw(setup, models, state, "sampled", "train")
    with memory("sampling", form.loop, state.step + 1):
        drawn = draw.fresh(form.loop.prompts)
        rollouts, more, spent = resample(setup, models, state, [r for r in drawn if "abstained" not in r.facts])
    drawn += more
    if all("abstained" in r.facts for r in drawn):
        raise _refused(setup, state.step, drawn, _all_abstained(drawn))
    logs, norms, passed, batch = Logs(), dict[str, float](), Ledger(), None
    if rollouts:
        with memory("log-prob pass", form.loop, state.step + 1):
            shaped = shape(setup, models, state, rollouts)
        batch, logs, rollouts, probed = shaped.batch, shaped.logs, shaped.rollouts, shaped.spent
        drawn = _with_refused(drawn, shaped.refused)
        if not rollouts:
            raise _refused(setup, state.step, drawn, _all_abstained(drawn))
        if bad := not_finite(batch):
            why = f"the reward of {len(bad)} rows is not finite; no weight was touched. Mend the reward"
            raise _refused(setup, state.step, [rollouts[i] for i in bad], why)
        kept_batch, kept, more_logs = arithmetic.select_stage(form, batch, facts_of(form, state.step))
        chosen = [rollouts[i] for i in kept.tolist()]
        passed = probed + _scoring_cost(form, models, rollouts)
        logs = merge(logs, more_logs)
        if chosen:
            with memory("update", form.loop, state.step + 1):
                more_logs, norms, trained = learn(setup, models, kept_batch, chosen, state.step)
            logs, passed = merge(logs, more_logs), passed + trained
    line = _line(setup, logs, norms, drawn, rollouts, models)
    line["seconds"] = time.perf_counter() - began
    state.ledger = state.ledger + draw.ledger + spent + passed
    if form.loop.eval_every and (state.step + 1) % form.loop.eval_every == 0:
        setup.folder.records(f"rollouts/step-{state.step + 1:06d}.jsonl").append(*map(_row, drawn))
    run_folds(setup, state, batch, line)
    state.step += 1
    return line


def learn(
    setup: Setup, models: Mapping[str, Model], batch: Batch, rollouts: Sequence[Rollout], step: int
) -> tuple[Logs, dict[str, float], Ledger]:
    """Credit once, then every optimiser step of the plan. Returns logs, mean gradient norm by role, and the cost."""
    form = setup.form
    facts = facts_of(form, step)
    advantages, logs = arithmetic.credit_stage(form, batch, facts)
    parts, more = arithmetic.plan_parts(form, batch, facts)
    logs, renews = merge(logs, more), arithmetic.renews(form)
    spent, trained = Ledger(), 0
    norms: dict[str, list[float]] = {}
    prompts = [r.trained_prompt for r in rollouts]
    if renews:
        batch = batch.add(shift=batch["reward"].new_full((batch.rows, len(parts)), float("nan")))
    costly = bool(arithmetic.named_costly(form))

    def supply(part: Batch, index: Tensor) -> dict[str, Tensor]:
        return costly_pass(setup.policy, [prompts[i] for i in index.tolist()], part, form.loop)

    for n, tokens in enumerate(parts):
        if arithmetic.names_fact(form, "head_moments"):
            facts["head_moments"] = models["policy"].head_moments()
        part = arithmetic.weigh(form, batch, advantages, tokens, facts, logs, supply)
        rows = [rollouts[i] for i in part.rows.tolist()]
        spent += _pass_cost(model_cost(setup.policy.model), "scored", rows) if costly else Ledger()
        try:
            done = update(form, models, part, [r.trained_prompt for r in rows], facts)
        except RunError as error:
            raise _refused(setup, step, [rows[i] for i in getattr(error, "rows", [])], str(error)) from error
        for role, passed in done.passed.items():
            through = [rows[i] for i in passed.tolist()]
            spent += _pass_cost(model_cost(models[role].policy.model), "trained", through)
            trained += len(through) if role == "policy" else 0
        for role, norm in done.grad_norm.items():
            norms.setdefault(role, []).append(norm)
        named = {_of(role, "loss"): (loss, 1.0) for role, loss in done.loss.items()}
        logs = merge(logs, done.logs, named)
        if renews and n + 1 < len(parts):
            batch = renewed(batch, logp_pass(setup.policy, prompts, batch, form.loop), tokens, n)
            spent += _pass_cost(model_cost(setup.policy.model), "scored", rollouts)
    logs["truegain/trained_rows"] = (float(trained), 1.0)
    return logs, {role: sum(found) / len(found) for role, found in norms.items()}, spent


def check(form: Train, task: Task | None = None, functions: bool = False) -> None:
    """Refuse what cannot run before anything is drawn: roles, samplers, columns that nothing supplies.

    ``functions`` says whether the user gives reward functions. Raises WiringError or SettingError.
    """
    check_roles(form)
    if form.loop.top_k or form.loop.top_p < 1:
        raise SettingError(
            "loop.top_k and loop.top_p must be off in training: the learner's log-probs are of the whole distribution, "
            "so what was sampled from a cut one would be credited wrongly"
        )
    supplied = None if task is None else getattr(task, "supplies", None)
    if task is not None and supplied is not None:
        check_columns(form, frozenset(supplied) | ({"score"} if functions else set()), f"task {task.name!r}")


def _of(role: str, metric: str) -> str:
    return metric if role == "policy" else f"truegain/{role}/{metric}"


def _line(
    setup: Setup,
    logs: Logs,
    norms: Mapping[str, float],
    drawn: Sequence[Rollout],
    rollouts: Sequence[Rollout],
    models: Mapping[str, Model],
) -> dict[str, Any]:
    """What the log says of a step, in TRL's names."""
    line: dict[str, Any] = {"loss": 0.0, "grad_norm": 0.0, "truegain/trained_rows": 0.0}
    line |= {name: value / count for name, (value, count) in logs.items() if count}
    line |= {_of(role, "grad_norm"): norm for role, norm in norms.items()}
    line["truegain/abstained"] = sum("abstained" in r.facts for r in drawn)
    if members(setup.form.resample):
        line |= {"truegain/drawn_rows": len(drawn), "truegain/rows": len(rollouts)}
    optimiser = models["policy"].optimiser
    assert optimiser is not None
    return line | _completion_logs(drawn) | {"learning_rate": optimiser.param_groups[0]["lr"]}


def _with_refused(drawn: Sequence[Rollout], refused: Sequence[Rollout]) -> list[Rollout]:
    """The drawn rollouts, with the abstention of those that a probe could not judge."""
    why = {(r.problem.id, r.key): r for r in refused}
    return [why.get((r.problem.id, r.key), r) for r in drawn]


def _all_abstained(drawn: Sequence[Rollout]) -> str:
    reason, count = Counter(str(r.facts["abstained"]) for r in drawn if "abstained" in r.facts).most_common(1)[0]
    share = "each time" if count == len(drawn) else f"{count} of {len(drawn)} times"
    return f"every rollout's check abstained ({share}: {reason}), so there is nothing to train on; mend the check"


def _completion_logs(drawn: Sequence[Rollout]) -> dict[str, float]:
    rollouts = [r for r in drawn if "abstained" not in r.facts]
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


def _scoring_cost(form: Train, models: Mapping[str, Model], rollouts: Sequence[Rollout]) -> Ledger:
    """One forward pass of every role, and one of the policy where ``old_logp`` was asked for early."""
    spent = Ledger()
    passes = [model for model in models.values() if model.role is not None]
    passes += [models["policy"]] if arithmetic.needs_old_pass(form) else []
    for model in passes:
        spent += _pass_cost(model_cost(model.policy.model), "scored", rollouts)
    return spent


def _pass_cost(cost: ModelCost, stage: Literal["scored", "trained"], rollouts: Sequence[Rollout]) -> Ledger:
    spent = Ledger()
    for r in rollouts:
        size = len(r.trained_prompt) + len(r.ids)
        spent += spend(cost, stage, size, attended(0, size))
    return spent


def _resume(setup: Setup, models: Mapping[str, Model]) -> tuple[State, tuple[str, ...]]:
    """Take up the last good checkpoint: weights, optimisers, state; later lines of the log are dropped."""
    found = checkpoint.latest(setup.folder.path)
    if found is None:
        setup.folder.rewind(-1)
        fresh = State(resample=[None] * len(members(setup.form.resample)), fold=begin_folds(setup.form))
        return fresh, ()
    tensors = found.tensors()
    restore_models(models, found.path, tensors, found.state["optimizers"])
    state = State.from_saved(found.state, tensors)
    checkpoint.set_aside_after(setup.folder.path, found.step)
    setup.folder.rewind(found.step)
    return state, (*found.notes, f"resumed after step {found.step}")


def _save(setup: Setup, models: Mapping[str, Model], state: State) -> None:
    tensors, optimisers = optimisers_saved(models)
    kept, more = state.to_saved()
    setup.folder.sync()
    checkpoint.save(
        setup.folder.path,
        state.step,
        write_model=write_models(models),
        tensors={**tensors, **more},
        state={"optimizers": optimisers, **kept},
        protect=setup.kept(),
    )


def _look(setup: Setup, models: Mapping[str, Model], base: Policy, step: int) -> dict[str, Any]:
    with memory("look at dev", setup.form.loop):
        return _logged(setup.folder, look(setup, models["policy"].engine, base, step=step))


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
