"""Which of verl's own settings a recipe asks for, and the check that they are set. Nothing here imports verl.

verl aggregates losses, adds its KL and entropy terms and filters groups itself. Where a recipe has one of these, the
exact counterpart has to be switched on; a run in which it is not would train something else under the recipe's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from truegain.core.component import knobs_of, spec_of
from truegain.core.errors import SettingError
from truegain.core.forms import Train, members

ACTOR, ALGORITHM = "actor_rollout_ref.actor", "algorithm"

_KL_NAMES = {"k1": ("k1", "kl"), "k2": ("k2", "mse"), "k3": ("k3", "low_var_kl"), "abs": ("abs",)}
_BOUNDS = {"log_ratio_bound": 20.0, "bound": 10.0}


@dataclass(frozen=True)
class Ask:
    """One setting that has to be so: ``path`` below ``where``, one of ``values``; no values: it has to be there."""

    where: str
    path: str
    values: tuple[Any, ...]
    reason: str


@dataclass(frozen=True)
class Entry:
    """One name in one of verl's two registries. ``form`` is what it runs; without it ``refused`` says why it cannot.

    With both, it runs in a verl that hands its whole batch to an estimator, and else cannot for that reason. ``fault``
    marks a reason that lies in our file of knobs.
    ``recipe`` is a recipe's own name, and ``asks`` what it wants verl's settings to be.
    """

    name: str
    kind: str
    form: Train | None = None
    refused: str = ""
    recipe: str = ""
    asks: tuple[Ask, ...] = ()
    fault: bool = False


def asks_of(form: Train, max_tokens: int | None) -> tuple[Ask, ...]:
    """What a recipe asks of verl. Raises SettingError for a part that verl has no exact counterpart for."""
    return (*_aggregation(form, max_tokens), *_penalties(form), *_sampling(form))


def _aggregation(form: Train, max_tokens: int | None) -> Iterator[Ask]:
    term = form.terms[0]
    if len(members(term.weight)) > 1 or term.scale != 1.0:
        raise SettingError("verl averages a loss in one of its five ways, unscaled; this recipe's weight is none")
    member = members(term.weight)[0]
    name, knobs = spec_of(member).name, knobs_of(member)
    why = f"its weight is objective.{name}"
    if name == "limit_mean" or (name == "sequence_sum" and knobs["length"] != 1.0):
        length = max_tokens if name == "limit_mean" else knobs["length"]
        yield Ask(ACTOR, "loss_agg_mode", ("seq-mean-token-sum-norm",), why)
        # Left out, verl divides by the width of each micro-batch, which is that of its longest row.
        yield Ask(ACTOR, "loss_scale_factor", () if length is None else (length,), why)
        return
    modes = {"token_mean": "token-mean", "sequence_mean": "seq-mean-token-mean", "sequence_sum": "seq-mean-token-sum"}
    if name == "token_sum" and knobs["divisor"] == 1.0:
        modes["token_sum"] = "token-sum"
    if name not in modes:
        raise SettingError(f"objective.{name} with {knobs} has no counterpart among verl's ways to average a loss")
    yield Ask(ACTOR, "loss_agg_mode", (modes[name],), why)


def _penalties(form: Train) -> Iterator[Ask]:
    for member in members(form.terms[0].surrogate):
        knobs = knobs_of(member)
        if spec_of(member).name == "entropy_bonus":
            yield Ask(ACTOR, "entropy_coeff", (knobs["coefficient"],), "it has objective.entropy_bonus")
        if spec_of(member).name != "kl_to_reference" or knobs["beta"] == 0:
            continue
        why = "it has objective.kl_to_reference"
        if any(knobs[name] != value for name, value in _BOUNDS.items()):
            raise SettingError(f"verl's KL loss is bounded by {_BOUNDS}; objective.kl_to_reference cannot have others")
        base = knobs["estimator"].removesuffix("+")
        suffix = knobs["estimator"][len(base) :]
        yield Ask(ACTOR, "use_kl_loss", (True,), why)
        yield Ask(ACTOR, "kl_loss_coef", (knobs["beta"],), why)
        yield Ask(ACTOR, "kl_loss_type", tuple(name + suffix for name in _KL_NAMES[base]), why)


def _sampling(form: Train) -> Iterator[Ask]:
    if any(spec_of(member).name == "dynamic_sampling" for member in members(form.resample)):
        yield Ask(ALGORITHM, "filter_groups.enable", (True,), "it has exploration.dynamic_sampling")


def check(recipe: str, asks: Sequence[Ask], where: str, config: Any) -> None:
    """Hold verl's configuration below ``where`` against what a recipe asks. Raises SettingError with what to write."""
    for ask in asks:
        if ask.where != where:
            continue
        value = _at(config, ask.path)
        if value is not None if not ask.values else any(_same(value, wanted) for wanted in ask.values):
            continue
        write = ask.values[0] if ask.values else "<data.max_response_length>"
        raise SettingError(
            f"recipe {recipe!r} asks for {ask.where}.{ask.path}={write}, as {ask.reason}; here it is {value!r}"
        )


def _at(config: Any, path: str) -> Any:
    """The value at a dotted path of verl's dataclasses or of a mapping; None where a part is not there."""
    for name in path.split("."):
        if config is None:
            return None
        config = config.get(name) if hasattr(config, "get") else getattr(config, name, None)
    return config


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(value, bool) or isinstance(wanted, str):
        return value == wanted
    return isinstance(value, int | float) and math.isclose(value, wanted, rel_tol=1e-9)
