"""Where a recipe and a GRPOConfig speak of the same thing: what is fitted, and what is refused before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from truegain.core.arithmetic import named_columns
from truegain.core.component import knobs_of, spec_of
from truegain.core.errors import SettingError, WiringError, nearest
from truegain.core.forms import Train, members
from truegain.hosts._trl_rows import Given
from truegain.hosts.offers import BY_FUNCTION, Offer, form_members, stands_in
from truegain.recipes.controls import on_user_score, with_user_score

# What GRPOConfig says of rewards, advantages and losses, which the recipe says here.
OVERRULED = (
    *("loss_type", "scale_rewards", "multi_objective_aggregation", "importance_sampling_level"),
    *("epsilon", "epsilon_high", "delta", "top_entropy_quantile", "entropy_coef", "use_adaptive_entropy"),
    *("off_policy_mask_threshold", "use_bias_correction_kl", "sapo_temperature_pos", "sapo_temperature_neg"),
    *("vespo_k_pos", "vespo_k_neg", "vespo_lambda_pos", "vespo_lambda_neg"),
)


def has_reference(form: Train) -> bool:
    """Whether a role of the form is the policy before training, which TRL calls its reference model."""
    return any(role.fills == "ref_logp" for role in form.roles.values())


def check_columns_given(columns: Any) -> None:
    """Refuse ``columns`` that are no functions by the name of a column. Raises SettingError."""
    if not isinstance(columns, Mapping):
        raise SettingError(f"columns must be a mapping such as {{'step_reward': function}}, not {columns!r}")
    for name, function in columns.items():
        if not callable(function):
            raise SettingError(f"columns[{name!r}] must be a function of the completions, not {function!r}")


def check_settings(form: Train, args: Any) -> None:
    """Refuse settings that the recipe decides, or under which its numbers would be wrong. Raises SettingError."""
    default = {field.name: field.default for field in fields(args)}
    set_ = [f"{n}={getattr(args, n)!r}" for n in OVERRULED if n in default and getattr(args, n) != default[n]]
    if set_:
        raise SettingError(
            f"GRPOConfig says {', '.join(set_)}, which the recipe decides: leave it out there, and choose a recipe or "
            "its knobs (truegain show RECIPE)"
        )
    corrects = any(spec_of(member).name == "truncated_importance" for _, member in form_members(form))
    if corrects and args.use_vllm and args.vllm_importance_sampling_correction:
        raise SettingError(
            "the recipe corrects for the sampler itself (objective.truncated_importance), and TRL would again: set "
            "vllm_importance_sampling_correction=False"
        )
    _check_reference(form, args)
    _check_steps(form, args)


def _check_reference(form: Train, args: Any) -> None:
    sources = {name: role.source for name, role in form.roles.items() if role.fills == "ref_logp"}
    other = [f"{name} from {source}" for name, source in sources.items() if source not in ("init", "base")]
    if other:
        raise SettingError(f"TRL's reference is the policy before training; the recipe wants {other[0]}")
    if not sources and args.beta:
        raise SettingError(
            f"GRPOConfig says beta={args.beta}, and the recipe has no penalty to a reference: leave beta out, and give "
            "the recipe its own, as in recipe=grpo(beta=0.04)"
        )
    own = [
        knobs_of(m)["beta"] for _, m in form_members(form) if "ref_logp" in spec_of(m).inputs and "beta" in knobs_of(m)
    ]
    if sources and args.beta and args.beta not in own:
        raise SettingError(
            f"GRPOConfig says beta={args.beta}, the recipe {', '.join(map(str, own)) or 'has no such weight'}: leave "
            "beta out; the recipe's reference is loaded without it"
        )
    if sources and args.sync_ref_model:
        raise SettingError(
            "sync_ref_model moves the reference, and the recipe's is the policy before training: unset it"
        )


def _check_steps(form: Train, args: Any) -> None:
    made, accumulated, iterations = args.steps_per_generation, args.gradient_accumulation_steps, args.num_iterations
    if made % accumulated:
        raise SettingError(
            f"steps_per_generation={made} cuts an optimiser step of gradient_accumulation_steps={accumulated} in two, "
            f"and its rows are weighed together: set steps_per_generation={accumulated} or a multiple of it"
        )
    for member in members(form.plan):
        knobs = knobs_of(member)
        wanted = knobs["count"] * accumulated
        if (wanted, knobs["epochs"]) != (made, iterations):
            raise SettingError(
                f"the recipe takes {knobs['count']} optimiser steps from each batch, {knobs['epochs']} times over: set "
                f"GRPOConfig(steps_per_generation={wanted}, num_iterations={knobs['epochs']}); it has "
                f"steps_per_generation={made}, num_iterations={iterations}"
            )


def fitted(form: Train, given: Given) -> Train:
    """The form with `score` where the user's functions are its verdict, or join it. Raises SettingError."""
    weighed = [n for n, weight in zip(given.names, given.weights, strict=True) if n in given.filling and weight != 1]
    if weighed:
        raise SettingError(
            f"reward_weights weighs {weighed[0]!r}, which fills the column of that name: what it is worth is the "
            "recipe's to say; set its weight to 1"
        )
    rewards = members(form.reward)
    own = {name for member in members(form.score) for name in spec_of(member).fills}
    named = {name for member in rewards for name in spec_of(member).inputs}
    if "score" not in given.columns or "score" in named:
        return form
    if "score" in own:
        raise SettingError("the recipe fills `score` itself: name the reward function after the column that it fills")
    if "correct" not in given.columns | own:
        return on_user_score(form)
    return with_user_score(form)


def check_columns(form: Train, offer: Offer, given: Given, samples_logp: bool) -> None:
    """Refuse a form that TRL, with these functions, cannot feed. Raises WiringError or SettingError."""
    for name in given.functions:
        if name not in BY_FUNCTION:
            hint = nearest(name, set(BY_FUNCTION))
            raise SettingError(f"columns[{name!r}]: no function can fill that{hint}; {', '.join(sorted(BY_FUNCTION))}")
        if name in given.names or (name == "score" and given.sums):
            raise SettingError(f"columns[{name!r}] and a reward function fill the same column: leave one out")
    _check_filled(form, offer, given)
    there = given.columns | {name for member in members(form.score) for name in spec_of(member).fills}
    absent = (BY_FUNCTION - there) | (frozenset() if samples_logp else {"engine_logp"})
    for _, member in form_members(form):
        spec = spec_of(member)
        for name in sorted(absent & {*(spec.fills if stands_in(spec, offer) else spec.inputs)}):
            raise WiringError(
                f"{spec.full_name} {'fills' if name in spec.fills else 'needs'} column {name!r}, which "
                f"{offer.host} {offer.tested} has with {offer.columns[name]}"
            )


def _check_filled(form: Train, offer: Offer, given: Given) -> None:
    """Refuse what a function says of a column and nobody would hear."""
    twice = sorted(name for name in given.filling if given.names.count(name) > 1)
    if twice:
        raise SettingError(
            f"{given.names.count(twice[0])} reward functions are called {twice[0]!r}, and one alone can fill that "
            "column: rename the others so that they are summed"
        )
    form = without_stand_ins(form, offer)
    filled = {name: spec_of(member) for member in members(form.score) for name in spec_of(member).fills}
    for name in sorted(given.filling & filled.keys()):
        raise SettingError(
            f"a reward function is called {name!r}, a column that the recipe fills itself ({filled[name].full_name}): "
            "rename the function so that it is summed"
        )
    for name in sorted((given.filling | given.functions.keys()) - named_columns(form)):
        what, mend = f"columns[{name!r}]", "leave it out"
        if name in given.filling:
            what, mend = f"the reward function called {name!r}", "rename the function so that it is summed"
        raise SettingError(
            f"{what} fills a column that the recipe does not read: {mend}, or take a recipe that reads {name!r}"
        )


def without_stand_ins(form: Train, offer: Offer) -> Train:
    """The form without the judges and models whose columns the user's functions fill."""
    kept = {
        stage: tuple(member for member in members(getattr(form, stage)) if not stands_in(spec_of(member), offer))
        for stage in ("probe", "score")
    }
    roles = {name: role for name, role in form.roles.items() if role.fills in offer.roles}
    return replace(form, roles=roles, **kept)
