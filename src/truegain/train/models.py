"""The models of a run: the policy, and the roles beside it, each with its head and its optimiser where it has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from truegain.core.component import knobs_of, spec_of
from truegain.core.errors import DataError, WiringError, nearest
from truegain.core.forms import Fit, Loop, Role, Train, members
from truegain.core.moments import Moments
from truegain.core.types import Engine
from truegain.policy.heads import ScalarHead, members_of
from truegain.policy.policy import Policy
from truegain.rollout.engines import engine_for
from truegain.train import checkpoint

LOGPS = ("ref_logp", "rm_logp", "rm_ref_logp")
"""Columns that a language model fills, without a head."""
FILLED = (*LOGPS, "value", "model_reward", "step_reward")
"""Columns that a role can fill; ``value`` comes with ``old_value``, or, of several, ``old_values``."""


@dataclass(eq=False)
class Model:
    """A model of the run. Without an optimiser it is frozen; with a head it gives one number per token.

    Weights of less than 32 bits train through float32 masters: small steps would round to nothing otherwise.
    """

    name: str
    policy: Policy
    role: Role | None = None
    head: ScalarHead | None = None
    optimiser: torch.optim.Optimizer | None = None
    masters: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict[str, tuple[Tensor, Tensor]])

    @cached_property
    def engine(self) -> Engine:
        """An engine that draws from this model, made when first asked for."""
        return engine_for(self.policy)

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimiser steps, masters in place of short weights."""
        groups = [] if self.optimiser is None else self.optimiser.param_groups
        return [p for group in groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        if self.optimiser is not None:
            self.optimiser.zero_grad(set_to_none=True)

    def step(self) -> None:
        """One step of the optimiser; masters are rounded into the weights they stand for."""
        assert self.optimiser is not None
        self.optimiser.step()
        with torch.no_grad():
            for weight, master in self.masters.values():
                weight.copy_(master)

    def head_moments(self) -> Moments | None:
        """Adam's moments of the unembedding; None before the first step, or where it is not trained."""
        head: Any = self.policy.model.get_output_embeddings()
        if self.optimiser is None or head is None:
            return None
        masters = {id(weight): master for weight, master in self.masters.values()}
        trained: Any = masters.get(id(head.weight), head.weight)
        state = self.optimiser.state.get(trained)
        if not state:
            return None
        group = self.optimiser.param_groups[0]
        beta1, beta2 = group["betas"]
        return Moments(state["exp_avg"], state["exp_avg_sq"], int(state["step"]), beta1, beta2, group["eps"])

    def names(self) -> list[str]:
        """Names of the weights in the optimiser's order, for its checkpoint."""
        known = {id(p): name for name, p in _trainable(self.policy, self.head, self.role)}
        known |= {id(master): name for name, (_, master) in self.masters.items()}
        return [known[id(p)] for p in self.parameters]


def policy_model(policy: Policy, loop: Loop) -> Model:
    """The policy with its optimiser."""
    optimiser, masters = _optimiser(_trainable(policy, None, None), loop, loop.lr)
    return Model("policy", policy, optimiser=optimiser, masters=masters)


def load_models(form: Train | Fit, policy: Policy, base: Policy) -> dict[str, Model]:
    """The policy and every role of the form by name; ``base`` is the frozen policy as it was before training.

    A role whose folder holds an ensemble (``member-0``, ``member-1``, ...) becomes a model per member, ``NAME/0``, ...

    Raises DataError for a role's model that cannot be loaded or that reads other tokens than the policy.
    """
    models = {"policy": policy_model(policy, form.loop)}
    for name, role in _by_member(form.roles):
        body, head = _body(name, role, policy, base)
        if role.lr is None:
            models[name] = Model(name, body, role, head)
            continue
        optimiser, masters = _optimiser(_trainable(body, head, role), form.loop, role.lr)
        models[name] = Model(name, body, role, head, optimiser, masters)
    return models


def frozen_models(roles: Mapping[str, Role], policy: Policy) -> dict[str, Model]:
    """The policy and the roles beside it where nothing is trained: no optimisers, and ``init`` is the policy itself.

    Raises DataError as `load_models` does.
    """
    models = {"policy": Model("policy", policy)}
    for name, role in _by_member(roles):
        body, head = _body(name, role, policy, policy)
        models[name] = Model(name, body, role, head)
    return models


def left_by(form: Train | Fit) -> list[str]:
    """Roles whose weights the form leaves: trained ones, and of a Fit the reward model as which it trains the policy.

    That is a role with ``source="policy"`` and ``fills="rm_logp"``, as DPO leaves one.
    """

    def itself(role: Role) -> bool:
        return isinstance(form, Fit) and (role.source, role.fills) == ("policy", "rm_logp")

    return [name for name, role in form.roles.items() if role.lr is not None or itself(role)]


def check_roles(form: Train) -> None:
    """Refuse roles that the loop cannot run. Raises WiringError naming the first."""
    for name, role in form.roles.items():
        if role.fills not in FILLED:
            raise WiringError(f"role {name!r} fills {role.fills!r}; a role can fill {', '.join(FILLED)}")
        if role.head == (role.fills in LOGPS):
            needs = "no head: log-probs come from the language model" if role.head else "head=True to give one number"
            raise WiringError(f"role {name!r}, which fills {role.fills!r}, needs {needs}")
        trained = any(term.role == name for term in form.terms)
        if trained != (role.lr is not None):
            mend = "give it lr" if trained else "leave its lr None, or give it a term"
            raise WiringError(f"role {name!r} {'is trained by a term' if trained else 'has no term'}: {mend}")
        if trained and role.fills != "value":
            raise WiringError(f"role {name!r}: only a role that fills 'value' can be trained in the online loop")
    for member in (*members(form.resample), *members(form.probe)):
        drawn = knobs_of(member).get("role", "policy")
        if drawn not in ("policy", *form.roles):
            near, has = nearest(drawn, set(form.roles)), ", ".join(("policy", *form.roles))
            raise WiringError(
                f"{spec_of(member).full_name} draws from role {drawn!r}{near}, which the form "
                f"does not have; it has {has}"
            )


def _by_member(roles: Mapping[str, Role]) -> Iterator[tuple[str, Role]]:
    for name, role in roles.items():
        parts = [] if role.source in ("init", "policy") else members_of(role.source)
        if not parts:
            yield name, role
        elif role.fills != "model_reward" or role.lr is not None:
            raise WiringError(f"role {name!r}: {role.source} is an ensemble, which only a frozen model_reward can be")
        for number, part in enumerate(parts):
            yield f"{name}/{number}", replace(role, source=str(part))


def _body(name: str, role: Role, policy: Policy, base: Policy) -> tuple[Policy, ScalarHead | None]:
    if role.source == "chain":
        raise WiringError(
            f"role {name!r} is what an earlier form of the recipe trains: use `truegain run`, or name a folder: "
            f"--set role.{name}.source=FOLDER"
        )
    if role.source == "policy":
        body = policy
    elif role.source == "init":
        body = base if role.lr is None else base.trainable_copy()
    else:
        body = Policy.load(role.source, dtype=str(policy.dtype).removeprefix("torch."), device=str(policy.device))
        if body.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
            raise DataError(
                f"role {name!r}: {role.source} has another vocabulary than the policy; use one of its family"
            )
        body.model.requires_grad_(role.lr is not None)
    if not role.head:
        return body, None
    saved = Path(role.source) / "head.safetensors"
    head = ScalarHead.load(saved) if saved.is_file() else ScalarHead(width_of(body))
    if role.lr is None and not saved.is_file():
        raise DataError(f"role {name!r} is frozen, but there is no {saved}: fit its head first, or give it lr")
    return body, head.to(policy.device).requires_grad_(role.lr is not None)


def width_of(policy: Policy) -> int:
    """Size of the hidden states that a head reads. Raises WiringError for a policy without, as the table policy."""
    width = getattr(policy.model.config, "hidden_size", None) or getattr(policy.model.config, "rows", None)
    if width is None:
        raise WiringError(f"a head reads hidden states, and the policy {policy.source!r} has none: use another --model")
    return int(width)


def _trainable(policy: Policy, head: ScalarHead | None, role: Role | None) -> list[tuple[str, Tensor]]:
    """Named weights a model of its own trains: a head on the policy's own body leaves the body to the policy."""
    own = role is None or role.source != "policy"
    found = [(name, p) for name, p in policy.model.named_parameters() if p.requires_grad] if own else []
    return found + ([] if head is None else [(f"head.{name}", p) for name, p in head.named_parameters()])


def _optimiser(
    named: Sequence[tuple[str, Tensor]], loop: Loop, lr: float
) -> tuple[torch.optim.AdamW, dict[str, tuple[Tensor, Tensor]]]:
    """AdamW; decay on matrices only; float32 masters for shorter weights, which take over their gradients."""
    masters: dict[str, tuple[Tensor, Tensor]] = {}
    stepped: list[Tensor] = []
    for name, weight in named:
        if weight.dtype.itemsize >= 4:
            stepped.append(weight)
            continue
        master = weight.detach().float().requires_grad_(True)
        weight.register_post_accumulate_grad_hook(_hand_over(master))
        masters[name] = (weight, master)
        stepped.append(master)
    groups = [
        {"params": [p for p in stepped if p.dim() > 1], "weight_decay": loop.weight_decay},
        {"params": [p for p in stepped if p.dim() <= 1], "weight_decay": 0.0},
    ]
    made = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(loop.beta1, loop.beta2), fused=True)
    return made, masters


def _hand_over(master: Tensor) -> Callable[[Tensor], None]:
    """Add a weight's gradient to its master's in float32, micro-batch by micro-batch, and free it."""

    def hook(weight: Tensor) -> None:
        assert weight.grad is not None
        if master.grad is None:
            master.grad = weight.grad.float()
        else:
            master.grad.add_(weight.grad)
        weight.grad = None

    return hook


# Checkpoints


def write_models(models: Mapping[str, Model]) -> Callable[[Path], None]:
    """What saves them in a checkpoint's folder: the policy at its top, trained roles under ``roles/NAME``."""

    def write(folder: Path) -> None:
        models["policy"].policy.save(folder)
        for model in _trained(models):
            if model.role is not None and model.role.source != "policy":
                model.policy.save(folder / "roles" / model.name)
            if model.head is not None:
                (folder / "roles" / model.name).mkdir(parents=True, exist_ok=True)
                model.head.save(folder / "roles" / model.name / "head.safetensors")

    return write


def optimisers_saved(models: Mapping[str, Model]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every optimiser's tensors, named ``ROLE/...``, masters included, and its JSON-able state by role."""
    tensors: dict[str, Tensor] = {}
    states: dict[str, Any] = {}
    for model in _trained(models):
        assert model.optimiser is not None
        found, states[model.name] = checkpoint.optimizer_tensors(model.optimiser, model.names())
        tensors |= {f"{model.name}/{key}": value for key, value in found.items()}
        tensors |= {f"master/{model.name}/{name}": master for name, (_, master) in model.masters.items()}
    return tensors, states


def restore_models(
    models: Mapping[str, Model], folder: Path, tensors: Mapping[str, Tensor], states: Mapping[str, Any]
) -> None:
    """Put back what `write_models` and `optimisers_saved` saved. Raises DataError if it does not fit."""
    for model in _trained(models):
        assert model.optimiser is not None
        place = folder if model.name == "policy" else folder / "roles" / model.name
        if model.role is None or model.role.source != "policy":
            dtype = str(model.policy.dtype).removeprefix("torch.")
            model.policy.load_weights(Policy.load(place, dtype=dtype).weights())
        if model.head is not None:
            model.head.load_state_dict(ScalarHead.load(place / "head.safetensors").state_dict())
        own = {key.partition("/")[2]: t for key, t in tensors.items() if key.partition("/")[0] == model.name}
        if model.name not in states:
            raise DataError(f"the checkpoint holds no optimizer of role {model.name!r}: it is of another recipe")
        checkpoint.load_optimizer(model.optimiser, model.names(), own, states[model.name])
        with torch.no_grad():
            for name, (_, master) in model.masters.items():
                master.copy_(tensors[f"master/{model.name}/{name}"])


def _trained(models: Mapping[str, Model]) -> Iterator[Model]:
    return (model for model in models.values() if model.optimiser is not None)
