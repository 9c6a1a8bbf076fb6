"""Drawing a step's rollouts: problems in the seed's own order, samples, verdicts, and what resamplers ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.component import Member, call, spec_of
from truegain.core.draws import draw_key
from truegain.core.errors import DataError, RunError, WiringError
from truegain.core.forms import Train, members
from truegain.core.types import Abstain, Judge, Problem, Rollout, Sampling, Split, Task
from truegain.rollout.batch import to_columns
from truegain.rollout.collect import Fork, collect, collect_forks, score_rollouts
from truegain.tasks.judges import make_judge
from truegain.train.ledger import Ledger, ModelCost, attended, model_cost, spend
from truegain.train.metering import metered
from truegain.train.models import Model
from truegain.train.order import SEED_STRIDE, in_order
from truegain.train.setup import Setup, State, facts_of

Stage = Literal["sampled", "resampled", "probed"]
ROUNDS = 64


def problems(task: Task, split: Split, first: int, count: int, seed: int) -> list[Problem]:
    """Problems ``first .. first+count-1`` of the seed's own order: a pure function, so a counter is all to save.

    A finite split is walked in a new order each epoch; an unlimited one from an
    offset of the seed's own, beyond what the embedded model was fitted on.
    """
    size = task.size(split)
    if size is None:
        return [task.problem(split, (seed + 1) * SEED_STRIDE + first + i) for i in range(count)]
    if size == 0:
        raise DataError(f"task {task.name!r} has no problem in its {split} split; give more data or other split files")
    place = in_order(size, seed)
    return [task.problem(split, place(index)) for index in range(first, first + count)]


@dataclass
class Draw:
    """What a resampler or a probe may ask of the loop: further rollouts, judged as the step's own are, and rewards.

    ``prompts`` and ``samples`` are the loop's; ``round`` counts how often this component was asked in this step, from
    0. What is drawn is charged to the ledger as ``stage``.
    """

    setup: Setup
    models: Mapping[str, Model]
    state: State
    stage: Stage
    name: str
    round: int = 0
    calls: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    refused: dict[int, str] = field(default_factory=dict[int, str])

    @property
    def prompts(self) -> int:
        """Problems per step that the loop asks for."""
        return self.setup.form.loop.prompts

    @property
    def samples(self) -> int:
        """Completions per problem that the loop asks for."""
        return self.setup.form.loop.samples

    @property
    def roles(self) -> Mapping[str, Model]:
        """The models as the component is handed them: what it scores with their engines is charged too."""
        return metered(self.models, self.charge)

    def charge(self, spent: Ledger) -> None:
        """Add to what this component cost."""
        self.ledger += spent

    def judge(self, spec: str) -> Judge:
        """Who says how right a rollout is: ``task``, the task's own exact judge, or ``openai:MODEL@URL``."""
        return make_judge(spec, self.setup.task)

    def refuse(self, row: int, reason: str) -> None:
        """Of a probe: row ``row`` of its rollouts could not be judged; it leaves the batch as an abstention."""
        self.refused[row] = reason

    def fresh(self, count: int) -> list[Rollout]:
        """All samples of the ``count`` next train problems; those without a verdict hold the fact ``abstained``."""
        asked = problems(self.setup.task, "train", self.state.taken, count, self.setup.seed)
        self.state.taken += count
        return self.again(asked, self.samples)

    def again(
        self, asked: Sequence[Problem], samples: int, *, temperature: float | None = None, role: str = "policy"
    ) -> list[Rollout]:
        """Completions of given problems, at the loop's temperature if None; 0 is greedy."""
        loop, model = self.setup.form.loop, self.models[role]
        heat = loop.temperature if temperature is None else temperature
        drawn = collect(
            model.policy,
            model.engine,
            self.setup.task,
            asked,
            samples=samples,
            sampling=Sampling(loop.max_tokens, heat, loop.top_k, loop.top_p, samplers=self._samplers()),
            seed=self.setup.seed,
            stage=self.name,
            step=self.state.step,
            version=self.state.step,
            role=role,
            copy=self.calls,
        )
        self.calls += 1
        self.ledger += sampling_cost(model_cost(model.policy.model), self.stage, drawn)
        return judge(self.setup, drawn)

    def fork(
        self,
        places: Sequence[tuple[Rollout, int]],
        samples: int,
        *,
        insert: str = "",
        max_tokens: int | None = None,
        temperature: float | None = None,
        role: str = "policy",
    ) -> list[Rollout]:
        """Go on from token ``cut`` of each given rollout, ``samples`` times; ``insert`` is written there first.

        The rows come place by place, judged, with ``parent`` and ``cut`` set; shared tokens keep their log-probs,
        and inserted ones are not the policy's: their mask is false. ``max_tokens`` bounds what is drawn; None is the
        room that is left of the loop's; on a task with tools their answers count in it. A world with tools stands as it
        did at the cut; one that does not answer as the parent was answered leaves the fact ``abstained``.
        """
        loop, model = self.setup.form.loop, self.models[role]
        heat = loop.temperature if temperature is None else temperature
        given = model.policy.encode(insert) if insert else ()
        forks = [
            Fork(
                parent,
                cut,
                given,
                loop.max_tokens if max_tokens is None else cut + len(given) + max_tokens,
                sample,
                draw_key(self.setup.seed, self.name, self.state.step, f"{parent.key}/{cut}", self.calls, sample),
            )
            for parent, cut in places
            for sample in range(samples)
        ]
        sampling = Sampling(loop.max_tokens, heat, samplers=self._samplers())
        made = collect_forks(model.policy, model.engine, self.setup.task, forks, sampling=sampling)
        self.calls += 1
        self.ledger += _fork_cost(model_cost(model.policy.model), self.stage, made, len(given))
        return judge(self.setup, made)

    def segments(self, rollouts: Sequence[Rollout], name: str) -> Tensor:
        """The form's segment ``name`` as an id per token [B,T], -1 outside. Raises WiringError if it has none."""
        from truegain.train.shaping import add_segments

        if name not in self.setup.form.segment:
            raise WiringError(f"{self.name} reads {name}s: give the form segment={{{name!r}: credit.by_step}}")
        batch = Batch(**to_columns(rollouts))
        return add_segments(self.setup, batch, rollouts)[name]

    def columns(self, rollouts: Sequence[Rollout]) -> Batch:
        """Columns of rollouts: the engine's, the facts, the form's segments, and what its roles say of them."""
        from truegain.train.shaping import before_probes

        for model in (model for model in self.models.values() if model.role is not None):
            cost = model_cost(model.policy.model)
            for size in (len(r.trained_prompt) + len(r.ids) for r in rollouts):
                self.ledger += spend(cost, "scored", size, attended(0, size))
        return before_probes(self.setup, self.models, rollouts)

    def rewards(self, rollouts: Sequence[Rollout], *, first: bool = False) -> list[float]:
        """The reward that the form's reward stage gives each rollout; NaN where the check abstained.

        ``first``: the form's first named reward alone, before what shapes it. A form without a reward stage, as a
        `Decode`, has the exact checker's verdict in its place.
        """
        if not hasattr(self.setup.form, "reward"):
            return [float(r.facts.get("correct", "nan")) for r in rollouts]
        column = self._rewarded(rollouts, self.setup.form)
        return [float("nan") if row is None else row[0] if first else row[-1] for row in column]

    def reward_parts(self, rollouts: Sequence[Rollout]) -> list[list[float] | None]:
        """The form's named rewards of each rollout, those that modify others left out; None where it abstained."""
        named = tuple(m for m in members(self.setup.form.reward) if spec_of(m).modifies is None)
        found = self._rewarded(rollouts, replace(self.setup.form, reward=named))
        return [None if row is None else row[:-1] for row in found]

    def _rewarded(self, rollouts: Sequence[Rollout], form: Train) -> list[list[float] | None]:
        """Each rollout's named rewards and, last, what the reward stage makes of them."""
        judged = [r for r in rollouts if "abstained" not in r.facts]
        if not judged:
            return [None] * len(rollouts)
        from truegain.train.shaping import before_probes

        facts = facts_of(form, self.state.step)
        batch, _ = arithmetic.reward_stage(form, before_probes(self.setup, self.models, judged), facts)
        rows = torch.cat([batch["reward_parts"], batch["reward"][:, None]], dim=1).tolist()
        found = iter(cast("list[list[float]]", rows))
        return [None if "abstained" in r.facts else next(found) for r in rollouts]

    def _samplers(self) -> tuple[Member, ...]:
        """The form's samplers; only a `Decode` has any."""
        return members(getattr(self.setup.form, "sampler", ()))


def _fork_cost(cost: ModelCost, stage: Stage, rows: Sequence[Rollout], inserted: int) -> Ledger:
    """Inserted and drawn tokens; each parent's prompt and completion once, as forks share them."""
    spent = Ledger()
    shared: dict[str | None, int] = {}
    for r in rows:
        assert r.cut is not None
        start, end = len(r.prompt_ids) + r.cut, len(r.prompt_ids) + len(r.ids)
        spent += spend(cost, stage, end - start, attended(start, end))
        shared[r.parent] = max(start, shared.get(r.parent, 0))
    for size in shared.values():
        spent += spend(cost, stage, size, attended(0, size))
    return spent


def resample(
    setup: Setup, models: Mapping[str, Model], state: State, rollouts: Sequence[Rollout]
) -> tuple[list[Rollout], list[Rollout], Ledger]:
    """Ask every resampler of the form until it adds no more. Returns the rows to train on, all added ones, the cost."""
    kept, added, spent = list(rollouts), list[Rollout](), Ledger()
    for n, member in enumerate(members(setup.form.resample)):
        name = spec_of(member).full_name
        draw = Draw(setup, models, state, "resampled", name)
        for draw.round in range(ROUNDS):
            offered = {"roles": draw.roles, "draw": draw, "rollouts": tuple(kept), "state": state.resample[n]}
            answer, _ = call(member, offered, facts_of(setup.form, state.step))  # pyright: ignore[reportArgumentType]
            more, drop, state.resample[n] = _answer(name, answer)
            kept = [r for i, r in enumerate(kept) if i not in drop]
            kept += [r for r in more if "abstained" not in r.facts]
            added += more
            if not more:
                break
        else:
            raise RunError(f"{name} asked for more rollouts {ROUNDS} times in step {state.step + 1}; lower its rounds")
        spent += draw.ledger
    return kept, added, spent


def _answer(name: str, answer: Any) -> tuple[list[Rollout], set[int], Any]:
    try:
        more, drop, state = answer.add, set(answer.drop), answer.state
    except AttributeError:
        raise WiringError(f"{name} must return Resampled(add, drop, state), not {type(answer).__name__}") from None
    return list(more), drop, state


def judge(setup: Setup, drawn: Sequence[Rollout]) -> list[Rollout]:
    """Put facts into rollouts: the checker's, the form's scores', the user's functions'.

    An abstention is the fact ``abstained``, with its reason.
    """
    scored = [_scored(setup, r) for r in score_rollouts(setup.task, drawn)]
    if not setup.functions:
        return scored
    return [_with_score(r, s) for r, s in zip(scored, _function_scores(setup, scored), strict=True)]


def _scored(setup: Setup, rollout: Rollout) -> Rollout:
    for member in members(setup.form.score):
        if "abstained" in rollout.facts:
            break
        spec = spec_of(member)
        value, _ = call(member, {"problem": rollout.problem, "rollout": rollout}, {})
        if isinstance(value, Abstain):
            facts: dict[str, Any] = {"abstained": f"{spec.full_name}: {value.reason}"}
        else:
            facts = dict(value) if isinstance(value, Mapping) else {spec.fills[0]: value}
        rollout = replace(rollout, facts={**rollout.facts, **facts})
    return rollout


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


def sampling_cost(cost: ModelCost, stage: Stage, rollouts: Sequence[Rollout]) -> Ledger:
    """Drawn tokens, plus each prompt once for its group."""
    spent = Ledger()
    seen: set[str] = set()
    for r in rollouts:
        start = len(r.prompt_ids)
        spent += spend(cost, stage, len(r.ids), attended(start, start + len(r.ids)))
        if r.problem.id not in seen:
            seen.add(r.problem.id)
            spent += spend(cost, stage, start, attended(0, start))
    return spent
