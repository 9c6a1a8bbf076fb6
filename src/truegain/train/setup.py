"""What a run works with, and where it is: the two things that every part of the online loop is handed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from truegain.core.errors import DataError
from truegain.core.forms import Train
from truegain.core.settings import with_setting
from truegain.core.types import Task
from truegain.policy.policy import Policy
from truegain.tasks.functions import RewardFunction
from truegain.train.folder import RunFolder
from truegain.train.learner import learning_rate
from truegain.train.ledger import Ledger


@dataclass(frozen=True)
class Setup:
    """What a run works with. ``functions`` are the user's reward functions; their weighted sum is column ``score``.

    ``kept`` names the steps whose checkpoints are to stay beside the newest ones.
    """

    form: Train
    policy: Policy
    task: Task
    folder: RunFolder
    seed: int = 0
    functions: tuple[tuple[RewardFunction, float], ...] = ()
    kept: Callable[[], Collection[int]] = tuple


@dataclass
class State:
    """Where a run is: what a checkpoint holds beside weights and optimisers.

    ``taken`` counts the train problems used up. ``resample`` and ``fold`` hold the states of those components, in the
    form's order: numbers, strings, tensors, and lists and dicts of them. ``changed`` are the settings that folds set.
    """

    step: int = 0
    taken: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    resample: list[Any] = field(default_factory=list)
    fold: list[Any] = field(default_factory=list)
    changed: dict[str, Any] = field(default_factory=dict)

    def to_saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Its JSON-able part, and the tensors that it refers to by name."""
        tensors: dict[str, Tensor] = {}
        kept = _pack({"resample": self.resample, "fold": self.fold, "changed": self.changed}, tensors)
        return {"step": self.step, "taken": self.taken, "ledger": self.ledger.to_json(), **kept}, tensors

    @staticmethod
    def from_saved(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> State:
        """The inverse of `to_saved`. Raises DataError for a state that this version did not write."""
        try:
            kept = {name: _unpack(state[name], tensors) for name in ("resample", "fold", "changed")}
            return State(state["step"], state["taken"], Ledger.from_json(state["ledger"]), **kept)
        except KeyError as error:
            raise DataError(f"the checkpoint's state lacks {error}: it is of another version; start anew") from error


def form_now(setup: Setup, state: State) -> Train:
    """The form with what folds set so far."""
    form: Any = setup.form
    for path, value in state.changed.items():
        form = with_setting(form, path, value)
    return form


def facts_of(form: Train, step: int) -> dict[str, Any]:
    """The loop facts that components may name."""
    return {
        "progress": step / max(form.loop.steps, 1),
        "step_index": step,
        "max_tokens": form.loop.max_tokens,
        "step_size": learning_rate(form.loop, step),
    }


_TENSOR = "tensor:"


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Replace every tensor in nested dicts and lists by the name under which it is saved."""
    if isinstance(value, Tensor):
        name = f"state/{len(tensors)}"
        tensors[name] = value
        return _TENSOR + name
    if isinstance(value, Mapping):
        return {str(key): _pack(item, tensors) for key, item in value.items()}
    return [_pack(item, tensors) for item in value] if isinstance(value, list | tuple) else value


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, str) and value.startswith(_TENSOR):
        return tensors[value.removeprefix(_TENSOR)].clone()
    if isinstance(value, Mapping):
        return {key: _unpack(item, tensors) for key, item in value.items()}
    return [_unpack(item, tensors) for item in value] if isinstance(value, list) else value
