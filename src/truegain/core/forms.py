"""The six forms a recipe may return, with terms and roles. Frozen data: variants are `dataclasses.replace`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from truegain.core.columns import COLUMNS
from truegain.core.component import Member, check_member
from truegain.core.errors import WiringError, nearest

Stage = Member | tuple[Member, ...]


def members(stage: Stage) -> tuple[Member, ...]:
    """Return a field's members as a tuple."""
    return cast("tuple[Member, ...]", stage) if isinstance(stage, tuple) else (stage,)


class Loop(BaseModel):
    """Settings of the loops, the same names in Python, in a TOML file and behind ``--set loop.NAME=``.

    Tokens are counted per rollout, seconds are wall-clock, ``lr`` is per optimiser step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=100, ge=0, description="optimisation steps")
    prompts: int = Field(default=16, ge=1, description="problems per step")
    samples: int = Field(default=8, ge=1, description="completions per problem")
    max_tokens: int = Field(default=32, ge=1, description="completion token limit")
    temperature: float = Field(default=1.0, gt=0, le=10, description="sampling temperature in training")
    top_k: int = Field(default=0, ge=0, description="keep the k likeliest tokens; 0 keeps all")
    top_p: float = Field(default=1.0, gt=0, le=1, description="keep the likeliest tokens of this total probability")
    lr: float = Field(default=1e-4, gt=0, le=1, description="learning rate of AdamW")
    warmup: int = Field(default=0, ge=0, description="steps of linear warm-up")
    decay: Literal["none", "linear", "cosine"] = Field(
        default="none", description="what the learning rate does after warm-up"
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's first decay")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="AdamW's second decay")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="AdamW's decoupled weight decay")
    grad_clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    lora_rank: int = Field(default=0, ge=0, le=4096, description="rank of LoRA adapters; 0 trains every weight")
    lora_alpha: float = Field(default=32.0, gt=0, description="LoRA's scale is alpha / rank")
    lora_targets: str = Field(default="all-linear", description="linear maps to adapt, separated by commas")
    micro_tokens: int = Field(default=16384, ge=1, description="padded tokens per forward pass, prompts included")
    candidates: int = Field(
        default=64, ge=1, description="likeliest tokens held per token, where a component asks for them"
    )
    eval_every: int = Field(default=20, ge=0, description="steps between looks at the dev split; 0 for none")
    eval_problems: int = Field(default=128, ge=2, description="dev problems per look")
    save_every: int = Field(default=20, ge=0, description="steps between checkpoints; 0 for the last one only")


@dataclass(frozen=True)
class Role:
    """A model beside the policy.

    ``source`` is ``init`` (the policy as it was before training), ``policy`` (the policy itself), ``chain`` (what an
    earlier form of the recipe trained under this role's name), ``base`` (the model that the recipe's first form began
    with) or a model folder. ``fills`` is the column it provides.
    ``head`` gives it a scalar head. ``lr`` None freezes it.
    """

    source: str
    fills: str
    head: bool = False
    lr: float | None = None


@dataclass(frozen=True)
class Term:
    """One loss: what credit gives is bound as ``advantage`` (``target`` for a head); each has its own denominator."""

    surrogate: Stage
    weight: Stage
    credit: Stage = ()
    scale: float = 1.0
    role: str = "policy"

    def __post_init__(self) -> None:
        """Normalise single members to tuples and check every member's kind and knobs."""
        for kind in ("credit", "surrogate", "weight"):
            object.__setattr__(self, kind, _members(getattr(self, kind), kind, "term"))
        if not self.surrogate or not self.weight:
            raise WiringError("a term needs a surrogate and a weight")


def _members(stage: Stage, kind: str, where: str) -> tuple[Member, ...]:
    found = members(stage)
    for member in found:
        check_member(member, kind, f"{where}, field {kind!r}")
    return found


def _no_roles() -> Mapping[str, Role]:
    return {}


def _no_segments() -> Mapping[str, Member]:
    return {}


@dataclass(frozen=True)
class Train:
    """Online training: sample, score, shape, credit, update. Every field may hold one member or a tuple of them."""

    reward: Stage
    terms: tuple[Term, ...]
    score: Stage = ()
    resample: Stage = ()
    segment: Mapping[str, Member] = field(default_factory=_no_segments)
    probe: Stage = ()
    select: Stage = ()
    plan: Stage = ()
    fold: Stage = ()
    roles: Mapping[str, Role] = field(default_factory=_no_roles)
    loop: Loop = field(default_factory=Loop)

    def __post_init__(self) -> None:
        """Normalise and check every field; raises WiringError at the first fault."""
        for kind in ("reward", "score", "resample", "probe", "select", "plan", "fold"):
            object.__setattr__(self, kind, _members(getattr(self, kind), kind, "Train"))
        if len(members(self.plan)) > 1:
            raise WiringError("Train, field 'plan': one plan at most")
        if not self.reward or not self.terms:
            raise WiringError("Train needs at least one reward and one term")
        _check_segments(self.segment, "Train")
        _check_roles(self.roles, self.terms)


@dataclass(frozen=True)
class Fit:
    """Offline training on examples or pairs: SFT, preference losses, reward models.

    ``edit`` changes the text of each completion anew every time it is learned.
    """

    terms: tuple[Term, ...]
    pair: Stage = ()
    edit: Stage = ()
    fold: Stage = ()
    roles: Mapping[str, Role] = field(default_factory=_no_roles)
    loop: Loop = field(default_factory=Loop)

    def __post_init__(self) -> None:
        """Normalise and check every field; raises WiringError at the first fault."""
        for kind in ("pair", "edit", "fold"):
            object.__setattr__(self, kind, _members(getattr(self, kind), kind, "Fit"))
        if not self.terms and not self.pair:
            raise WiringError("Fit needs at least one term or a pair loss")
        _check_roles(self.roles, self.terms)


@dataclass(frozen=True)
class Decode:
    """Inference time: samplers and search over a policy, on train problems; writes what it found as a dataset.

    A step takes ``loop.prompts`` problems. Without a search it keeps ``loop.samples`` completions of each; a search
    that names ``rollouts`` is handed those, or what the search before it found.
    """

    sampler: Stage = ()
    search: Stage = ()
    score: Stage = ()
    segment: Mapping[str, Member] = field(default_factory=_no_segments)
    roles: Mapping[str, Role] = field(default_factory=_no_roles)
    loop: Loop = field(default_factory=Loop)

    def __post_init__(self) -> None:
        """Normalise and check every field; raises WiringError at the first fault."""
        for kind in ("sampler", "search", "score"):
            object.__setattr__(self, kind, _members(getattr(self, kind), kind, "Decode"))
        _check_segments(self.segment, "Decode")
        _check_roles(self.roles, ())
        for name, role in self.roles.items():
            if role.lr is not None:
                raise WiringError(f"Decode trains nothing: leave the lr of role {name!r} None")


@dataclass(frozen=True)
class Watch:
    """A fold over the log of a run, live or finished."""

    fold: Stage

    def __post_init__(self) -> None:
        """Normalise and check the field; raises WiringError at a fault."""
        object.__setattr__(self, "fold", _members(self.fold, "fold", "Watch"))


@dataclass(frozen=True)
class Measure:
    """Metrics over stored records."""

    metric: Stage

    def __post_init__(self) -> None:
        """Normalise and check the field; raises WiringError at a fault."""
        object.__setattr__(self, "metric", _members(self.metric, "metric", "Measure"))


@dataclass(frozen=True)
class Study:
    """A plain function that is handed what it needs and returns a record; for what fits no other form.

    It may name ``seed``, ``task``, ``policy``, ``base`` and ``trained`` (the weights of the model that the recipe began
    with, and of the one that stands now), ``dataset`` (the last one's rows), ``scores`` (of the last one's chosen and
    rejected completions, by the reward models that the recipe began with), ``records`` (rows of the given files, by
    their names), ``margins`` (what judges pairs by the reward models that were trained) and ``place`` (its folder).
    ``weights`` in its record become the model that the next form starts from, ``settings`` those of the forms after it.
    """

    function: Callable[..., Mapping[str, Any]]


Form = Train | Fit | Decode | Watch | Measure | Study
FORMS: tuple[type, ...] = (Train, Fit, Decode, Watch, Measure, Study)


def _check_segments(segment: Mapping[str, Member], where: str) -> None:
    for name, member in segment.items():
        check_member(member, "segment", f"{where}, segment {name!r}")
        if name not in ("step", "turn", "part"):
            raise WiringError(f"{where}: segment fills 'step', 'turn' or 'part', not {name!r}")


def _check_roles(roles: Mapping[str, Role], terms: tuple[Term, ...]) -> None:
    for name, role in roles.items():
        if name == "policy":
            raise WiringError("role 'policy' is always there; name the other roles only")
        if role.fills not in COLUMNS:
            raise WiringError(f"role {name!r} fills {role.fills!r}, no column{nearest(role.fills, set(COLUMNS))}")
    for term in terms:
        if term.role != "policy" and term.role not in roles:
            raise WiringError(f"a term names role {term.role!r}, which the form does not have; it has {list(roles)}")
