"""What flows between the rooms: problems, rollouts, and the engine and environment protocols.

Token ids are plain tuples of ints, so that a rollout is immutable, comparable and JSON-able. Tensors appear only in
`truegain.core.batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Message = Mapping[str, str]
Stop = Literal["eos", "stop", "length", "deadline"]


def _no_facts() -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Problem:
    """One prompt with what is needed to check an answer to it.

    ``id`` is unique and stable over runs. ``prompt`` is text, or chat messages ``{"role", "content"}``.
    ``meta`` holds further dataset columns and task facts (``task``, ``level``, a reference ``trace``); it never holds
    anything that the policy sees.
    """

    id: str
    prompt: str | tuple[Message, ...]
    answer: str | None = None
    meta: Mapping[str, Any] = field(default_factory=_no_facts)


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, the better one first. ``meta`` holds further dataset columns and task facts."""

    id: str
    prompt: str | tuple[Message, ...]
    chosen: str
    rejected: str
    meta: Mapping[str, Any] = field(default_factory=_no_facts)


@dataclass(frozen=True)
class Turn:
    """A contiguous span ``[start, end)`` of completion tokens written by one party."""

    author: Literal["policy", "tool"]
    start: int
    end: int


@dataclass(frozen=True)
class Rollout:
    """One completion of one problem, as it was sampled. Token t of the completion is ``ids[t]``.

    ``engine_logp[t]`` is what the sampler reported for token t, at the sampling temperature, under the prompt it saw;
    0.0 for tokens the policy did not choose. ``turns`` cover the completion in order. ``stop`` says why it ended.
    ``sample`` numbers the completions of a problem, ``key`` decides the row's draws.
    ``text`` is the completion decoded, special tokens included. ``facts`` holds what scoring and environments found,
    named by column. ``role`` wrote it, with weights ``version``. ``parent`` (a rollout key) and ``cut`` (completion
    tokens shared with the parent) say where it was forked. ``context`` replaces the prompt when it is to be trained
    under another prompt than the one it saw.
    """

    problem: Problem
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    engine_logp: tuple[float, ...]
    text: str
    stop: Stop
    turns: tuple[Turn, ...]
    sample: int = 0
    facts: Mapping[str, Any] = field(default_factory=_no_facts)
    role: str = "policy"
    version: int = 0
    parent: str | None = None
    cut: int | None = None
    context: tuple[int, ...] | None = None
    key: int = 0

    @property
    def mask(self) -> tuple[bool, ...]:
        """True exactly where the policy chose the token."""
        chosen = [False] * len(self.ids)
        for turn in self.turns:
            if turn.author == "policy":
                chosen[turn.start : turn.end] = [True] * (turn.end - turn.start)
        return tuple(chosen)

    @property
    def trained_prompt(self) -> tuple[int, ...]:
        """The prompt tokens the learner conditions on."""
        return self.prompt_ids if self.context is None else self.context


@dataclass(frozen=True)
class Abstain:
    """A scorer's refusal to judge, with its reason. Counted, never turned into a 0."""

    reason: str


@dataclass(frozen=True)
class Resampled:
    """What a resampler answers: rollouts to add, numbers of the rows to drop from those it saw, its new state."""

    add: Sequence[Rollout] = ()
    drop: Sequence[int] = ()
    state: Any = None


@dataclass(frozen=True)
class Tree:
    """Completions of one problem that branch, as a search left them.

    Node n is the completion up to where it ends, ``nodes[n]``; it goes on from node ``parent[n]``, -1 for one that
    begins at the prompt. ``value[n]`` is what the search believes it to be worth, from ``visits[n]`` tries through it.
    """

    nodes: Sequence[Rollout]
    parent: Sequence[int]
    value: Sequence[float]
    visits: Sequence[int]

    def rollouts(self) -> list[Rollout]:
        """Its whole completions: the nodes that nothing goes on from."""
        inner = set(self.parent)
        return [node for n, node in enumerate(self.nodes) if n not in inner]


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1.0 switch the filters off. ``stop`` strings end a
    completion and are kept in it; the end-of-sequence token always ends it. ``max_tokens`` bounds the completion.
    ``samplers`` are components of that kind, knobs and facts bound, in the order in which they run.
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    samplers: tuple[Callable[..., Any], ...] = ()


@dataclass(frozen=True)
class Request:
    """One row for an engine: ``trunk[:cut]`` then ``suffix`` is given; ``key`` decides every draw of the row.

    ``cut=None`` means the whole trunk. Requests that share a trunk share its one prefill, whatever their cuts.
    """

    trunk: tuple[int, ...]
    key: int = 0
    cut: int | None = None
    suffix: tuple[int, ...] = ()

    @property
    def given(self) -> tuple[int, ...]:
        """All tokens before the first one to be drawn."""
        return (self.trunk if self.cut is None else self.trunk[: self.cut]) + self.suffix


@dataclass(frozen=True)
class Sample:
    """What an engine drew for one request: token ids, their log-probs under the sampling distribution, why it ended."""

    ids: tuple[int, ...]
    logp: tuple[float, ...]
    stop: Stop


@runtime_checkable
class Engine(Protocol):
    """Draws tokens from a causal language model. Draws are pure functions of each request's key."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        """Continue every request; order is kept. Serves fresh prompts and forks alike."""
        ...

    def score(self, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        """Log-prob at temperature 1 of every token of each request's suffix, given its trunk up to the cut."""
        ...

    def load(self, weights: Mapping[str, Any]) -> None:
        """Take new weights (a state dict of the policy's model)."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Says how right completions are: an exact checker, or a model that is asked. Order is kept.

    A row that it cannot judge is an abstention with its reason, never a 0.
    """

    def outcomes(self, rollouts: Sequence[Rollout]) -> Sequence[float | Abstain]:
        """A number from 0 (wrong) to 1 (right) for each completion."""
        ...

    def steps(self, rollouts: Sequence[Rollout]) -> Sequence[Sequence[float] | Abstain]:
        """The same for each step of each completion, counted as the segment `by_step` counts them."""
        ...


@runtime_checkable
class Environment(Protocol):
    """TRL's ``environment_factory`` object, with snapshot and restore so that a fork restores the world.

    Public typed methods other than these four are the tools.
    """

    def reset(self, **row: Any) -> str | None:
        """Begin the problem with these dataset columns; return text to add to the prompt, or None."""
        ...

    def snapshot(self) -> Any:
        """A JSON-able copy of the state."""
        ...

    def restore(self, state: Any) -> None:
        """Return to a state that `snapshot` gave."""
        ...


@runtime_checkable
class Task(Protocol):
    """Problems with a checker. ``problem(split, i)`` is a pure function; splits are disjoint by construction."""

    @property
    def name(self) -> str:
        """The task's name, as in a spec."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a completion, or hand it to the environment."""
        ...

    def problem(self, split: Split, index: int) -> Problem:
        """The index-th problem of a split. Raises IndexError past the end of a finite split."""
        ...

    def size(self, split: Split) -> int | None:
        """How many problems the split has; None when unlimited."""
        ...

    def score(self, problem: Problem, rollout: Rollout) -> Mapping[str, Any] | Abstain:
        """Facts by column name (``correct`` at least) from the completion's text, or an abstention."""
        ...

    def final(self, problem: Problem, text: str) -> str | None:
        """The answer a completion gives, as the checker reads it; None when it gives none."""
        ...

    def environment(self) -> Callable[[], Environment] | None:
        """A factory for multi-turn tasks; None for single-turn ones."""
        ...

    def respond(self, env: Environment, text: str) -> str | None:
        """Run the tool call that ends a completion so far; the text to append, or None when there is no call."""
        ...
