"""A score or reward component as a verifiers reward: one trace is a batch of one row."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from truegain.core.component import REGISTRY, Spec
from truegain.core.draws import draw_key
from truegain.core.errors import SettingError, WiringError, nearest
from truegain.core.types import Abstain, Rollout
from truegain.hosts._shells import Abstained, problem_from
from truegain.hosts.offers import OFFERS, conditions, refusal
from truegain.hosts.rewards import Reward
from truegain.hosts.traces import rollouts_of
from truegain.rollout.batch import to_columns

_OF_TOKENS = frozenset({"mask", "tokens", "turn", "engine_logp"})


@functools.cache
def registry() -> Mapping[str, Spec]:
    """Every component, by ``room.name``."""
    import truegain.recipes  # noqa: F401  it imports every room

    return REGISTRY


def component(name: str, *, of: Reward | None = None, metric: bool = False, **knobs: Any) -> ComponentReward:
    """The score or reward component ``room.name`` as a reward of single traces; ``of`` supplies what a checker finds.

    Raises WiringError, with the sentence of `truegain hosts verifiers`, for one that verifiers cannot feed;
    SettingError for an unknown name or knob.
    """
    if name not in registry():
        raise SettingError(f"no component {name!r}{nearest(name, set(registry()))}; see `truegain list`")
    spec, given = registry()[name], OFFERS["verifiers"]
    why = refusal(spec, given)
    if why is not None:
        raise WiringError(why.sentence)
    for knob in knobs:
        if knob not in spec.knobs:
            legal = ", ".join(spec.knobs) or "none"
            raise SettingError(f"{name} has no knob {knob!r}{nearest(knob, set(spec.knobs))}; there are {legal}")
    needs = [one for one in conditions(spec, given) if one.startswith("of=")]
    if needs and of is None:
        raise WiringError(f"{name} needs {needs[0]}; put it behind the name: {name};{needs[0].partition(',')[0]}")
    return ComponentReward(spec, tuple(sorted(knobs.items())), of, metric)


def read_knob(spec: Spec, name: str, text: str) -> Any:
    """A knob's value from text: JSON, or the text itself for a knob that holds text."""
    if isinstance(spec.knobs.get(name), str):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        raise SettingError(f"{spec.full_name}: {name} cannot be {text!r}") from None
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class ComponentReward:
    """``async f(trace, task)``; what it cannot tell is an error of the trace, or left out as a metric."""

    spec: Spec
    knobs: tuple[tuple[str, Any], ...]
    of: Reward | None
    metric: bool

    @property
    def __name__(self) -> str:
        """What verifiers records it under unless its config gives it another name."""
        return self.spec.name

    async def __call__(self, trace: Any, task: Any) -> float | dict[str, float]:
        """Judge a trace by its last branch."""
        said = await asyncio.to_thread(self.judge, trace, task)
        if not isinstance(said, Abstain):
            return said
        trace.info.setdefault("truegain_abstained", {})[self.spec.name] = said.reason
        if self.metric:
            return {f"{self.spec.name}_abstained": 1.0}
        raise Abstained(said.reason)

    def judge(self, trace: Any, task: Any) -> float | dict[str, float] | Abstain:
        """One number; several named ones where a score gives several; or an abstention."""
        found = rollouts_of(trace)
        if not found:
            return Abstain(f"{self.spec.name}: the trace holds no message")
        problem = problem_from(task, self.of)
        rollout = replace(found[-1], problem=problem, facts={}, key=draw_key(0, "trace", 0, str(trace.id), 0, 0))
        if _OF_TOKENS & set(self.spec.inputs) and not rollout.ids:
            return Abstain(f"{self.spec.name}: the trace holds no token ids; they need --client.type train")
        if self.of is not None:
            facts = self.of.facts(problem, trace.last_reply)
            if isinstance(facts, Abstain):
                return facts
            rollout = replace(rollout, facts=facts)
        return self._scored(rollout) if self.spec.kind == "score" else self._rewarded(rollout, trace)

    def _scored(self, rollout: Rollout) -> float | dict[str, float] | Abstain:
        facts: Any = self.spec.function(rollout.problem, rollout, **dict(self.knobs))
        if isinstance(facts, Abstain):
            return Abstain(f"{self.spec.name}: {facts.reason}")
        if not isinstance(facts, dict):
            return float(facts)
        named = {name: float(facts[name]) for name in self.spec.fills}
        return named if len(named) > 1 else named[self.spec.fills[0]]

    def _rewarded(self, rollout: Rollout, trace: Any) -> float | Abstain:
        base = self.of.fact if self.of is not None and self.of.kind == "task" else "score"
        columns: dict[str, Tensor] = to_columns([rollout])
        if base in columns:
            columns["reward"] = columns[base]
        lacks = [name for name in self.spec.inputs if name not in columns]
        if lacks:
            source = self.of.source if self.of is not None else "nothing"
            raise WiringError(f"{self.spec.full_name} needs the column {lacks[0]!r}, which {source} does not give")
        facts: dict[str, Any] = {}
        if "max_tokens" in self.spec.facts:
            limit = getattr(getattr(trace.agent.config, "sampling", None), "max_tokens", None)
            if limit is None:
                raise WiringError(f"{self.spec.full_name} needs max_tokens: set sampling.max_tokens")
            facts["max_tokens"] = int(limit)
        given = {name: columns[name] for name in self.spec.inputs}
        value: Any = self.spec.function(**given, **dict(self.knobs), **facts)
        return float((value[0] if isinstance(value, tuple) else value)[0])
