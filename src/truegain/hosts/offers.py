"""What each host can hand to a component, and so which components run in it.

A component says in its signature what it takes (`truegain.core.component`). An `Offer` says what a host has: for every
column what it takes to be there, the loop facts, and the kinds of components it has a place for. The rest is
comparison; a component that a host cannot feed is refused in one sentence that names the column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from truegain.core.columns import COLUMNS
from truegain.core.component import Member, Spec, spec_of
from truegain.core.errors import SettingError, WiringError, nearest
from truegain.core.forms import Train, members

STAGES = ("score", "resample", "probe", "reward", "select", "plan", "fold")


@dataclass(frozen=True)
class Offer:
    """What a host has for components. ``package`` is its name on PyPI, ``tested`` the version this was read from.

    ``columns`` maps a column to what has to be set for it to be there, an empty string where nothing has to be;
    ``when`` says the same of single components, by full name. ``why`` says of some absent columns and kinds, of single
    components, and of all of a kind that name a column (``"surrogate group"``) why the host cannot have them. ``kinds``
    maps a kind to where it runs; a component that only fills columns which the host has anyway is not missed. ``roles``
    are the columns that a model beside the policy may fill. ``seen`` maps a kind to the columns that its place is
    handed, where they are not all; ``fact_needs`` says what has to be set for a loop fact. ``settings`` maps a
    component to the host's own setting that does the same within a recipe; ``one_loss`` is a host with a place for one
    term.
    """

    host: str
    package: str
    tested: str
    kinds: Mapping[str, str]
    columns: Mapping[str, str]
    facts: frozenset[str] = frozenset()
    why: Mapping[str, str] = field(default_factory=dict)
    when: Mapping[str, str] = field(default_factory=dict)
    roles: frozenset[str] = frozenset()
    seen: Mapping[str, frozenset[str]] = field(default_factory=dict)
    fact_needs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    one_loss: bool = False

    def installed(self) -> str | None:
        """The version that is installed here, None without one."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


@dataclass(frozen=True)
class Refusal:
    """A component that a host cannot run: ``missing`` is the column, fact or kind that it lacks."""

    component: str
    missing: str
    sentence: str


def offer(host: str) -> Offer:
    """The offer of a host. Raises SettingError naming the nearest one.

    >>> offer("verl").package
    'verl'
    """
    if host not in OFFERS:
        raise SettingError(f"unknown host {host!r}{nearest(host, set(OFFERS))}; there are {', '.join(OFFERS)}")
    return OFFERS[host]


def refusal(spec: Spec, given: Offer, more: frozenset[str] = frozenset()) -> Refusal | None:
    """Why the host cannot run the component, None if it can. ``more`` are columns that a form fills by itself.

    >>> from truegain.methods import objective
    >>> refusal(spec_of(objective.ppo_clip), offer("verl"))
    >>> print(refusal(spec_of(objective.entropy_bonus), offer("verl")).sentence)
    objective.entropy_bonus needs column 'entropy', which verl 0.9.1 does not supply: its losses are not handed it; ...
    """
    name = f"{given.host} {given.tested}"
    if stands_in(spec, given, more):
        return None
    if spec.kind not in given.kinds or spec.full_name in given.why:
        reason = given.why.get(spec.kind, f"it has no place for one; it runs {', '.join(given.kinds)}")
        reason = given.why.get(spec.full_name, reason)
        return Refusal(
            spec.full_name, spec.kind, f"{spec.full_name} is a {spec.kind}, which {name} cannot run: {reason}"
        )
    seen = given.seen.get(spec.kind, given.columns)
    for column in spec.inputs:
        if reason := given.why.get(f"{spec.kind} {column}"):
            sentence = f"{spec.full_name} is a {spec.kind} that names {column!r}, which {name} cannot run: {reason}"
            return Refusal(spec.full_name, column, sentence)
        if column in COLUMNS and not (column in given.columns and column in seen) and column not in more:
            reason = given.why.get(column, f"it comes from {COLUMNS[column].provider}")
            if column in given.columns:
                reason = f"{given.kinds[spec.kind]} is not handed it"
            sentence = f"{spec.full_name} needs column {column!r}, which {name} does not supply: {reason}"
            return Refusal(spec.full_name, column, sentence)
    for fact in spec.facts:
        if fact not in given.facts:
            return Refusal(
                spec.full_name, fact, f"{spec.full_name} needs the loop fact {fact!r}, which {name} does not offer"
            )
    return None


def stands_in(spec: Spec, given: Offer, more: frozenset[str] = frozenset()) -> bool:
    """Whether the host has all that the component would fill, and so does without it.

    What a probe learns by asking a model is part of the method, and nothing else stands in for it.
    """
    absent = spec.kind not in given.kinds or spec.full_name in given.why
    judges = bool(spec.fills) and "roles" not in spec.inputs
    return absent and judges and {*spec.fills} <= {*given.columns, *more}


def conditions(spec: Spec, given: Offer) -> tuple[str, ...]:
    """What has to be set in the host for the component: for the columns that it takes, or those that it would fill."""
    if spec.full_name in given.when:
        return (given.when[spec.full_name],) if given.when[spec.full_name] else ()
    names = spec.fills if stands_in(spec, given) else spec.inputs
    found = [given.columns.get(name, "") for name in names] + [given.fact_needs.get(fact, "") for fact in spec.facts]
    return tuple(dict.fromkeys(filter(None, found)))


def form_of(recipe: str | Train, host: str) -> Train:
    """The form that a host is asked to run: a `Train`, or a recipe by name that is one. Raises WiringError otherwise.

    >>> form_of("grpo", "trl").loop.samples
    16
    """
    if isinstance(recipe, Train):
        return recipe
    if not isinstance(recipe, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WiringError(f"recipe must be a recipe's name or a Train form such as recipes.grpo(), not {recipe!r}")
    import truegain.recipes  # noqa: F401  # a recipe is registered when it is imported
    from truegain.core.system import build

    forms = build(recipe)
    if len(forms) == 1 and isinstance(forms[0], Train):
        return forms[0]
    kinds = ", ".join(type(form).__name__ for form in forms)
    if not any(isinstance(form, Train) for form in forms):
        raise WiringError(f"recipe {recipe!r} trains nothing online ({kinds}): `truegain run {recipe}` runs it")
    raise WiringError(
        f"recipe {recipe!r} is {len(forms)} forms in order ({kinds}), and {host} runs one Train: run the recipe with "
        f"`truegain train {recipe}`, or build it and give its Train the model that the others made"
    )


def form_members(form: Train) -> Iterator[tuple[str, Member]]:
    """Every component of a form with the stage it stands in."""
    for stage in STAGES:
        yield from ((stage, member) for member in members(getattr(form, stage)))
    yield from (("segment", member) for member in form.segment.values())
    for term in form.terms:
        for stage in ("credit", "surrogate", "weight"):
            yield from ((stage, member) for member in members(getattr(term, stage)))


def refusals(form: Train, given: Offer, more: frozenset[str] = frozenset()) -> list[Refusal]:
    """Every component and role of a form that the host cannot run, in the form's order.

    ``more`` are columns that the user fills.
    """
    filled = frozenset(form.segment) | frozenset({"reward", "reward_parts", "advantage"}) | more
    for stage, member in form_members(form):
        if stage == "score" and "score" in given.kinds:
            filled |= set(spec_of(member).fills)
    specs = [spec_of(member) for _, member in form_members(form)]
    found = [refusal(spec, given, filled) for spec in specs if spec.full_name not in given.settings]
    if given.one_loss and len(form.terms) > 1:
        sentence = f"the form has {len(form.terms)} terms, and {given.host} {given.tested} has a place for one loss"
        found.append(Refusal("terms", "terms", sentence))
    return [one for one in found if one is not None] + _role_refusals(form, given, more)


def _role_refusals(form: Train, given: Offer, more: frozenset[str]) -> list[Refusal]:
    """Roles that the host has no place for; one that only fills what the host has anyway is not missed."""
    if not given.kinds:
        return []
    has = given.roles | more | (BY_FUNCTION & set(given.columns))
    found: list[Refusal] = []
    for name, role in form.roles.items():
        trained = role.lr is not None or any(term.role == name for term in form.terms)
        if role.fills in has and not trained:
            continue
        reason = given.why.get("role", "it trains the policy and has no place for another model")
        what = f"role {name!r} fills column {role.fills!r}"
        sentence = f"{what}, which {given.host} {given.tested} cannot have a model for: {reason}"
        found.append(Refusal(f"role {name}", role.fills, sentence))
    return found


def needs(form: Train, given: Offer) -> tuple[str, ...]:
    """What has to be set in the host for the form as a whole."""
    scores = [spec_of(member) for member in members(form.score) if not stands_in(spec_of(member), given)]
    own = {*form.segment, *(name for spec in scores for name in spec.fills)}
    met = {given.columns.get(name, "") for name in own}
    found: list[str] = []
    for spec in (spec_of(member) for _, member in form_members(form)):
        own_setting = given.settings.get(spec.full_name)
        found += conditions(spec, given) if own_setting is None else (own_setting,)
    return tuple(dict.fromkeys(need for need in found if need not in met))


def check(form: Train, given: Offer, more: frozenset[str] = frozenset()) -> None:
    """Refuse a form that the host cannot run as a whole. Raises WiringError with one line per component."""
    found = refusals(form, given, more)
    if found:
        raise WiringError("\n".join(one.sentence for one in found))


_ALWAYS = dict.fromkeys(("tokens", "mask", "group", "reward", "reward_parts", "advantage", "logp"), "")

_TEXT = "answered confidence conciseness correct false_accept false_reject level reflections score tool_calls tool_cost"
BY_FUNCTION = frozenset(f"{_TEXT} tool_errors model_reward step_reward test_pass turn_reward".split())
"""Columns that follow from text and data, so that a function of the user's may fill them where a host allows it."""

_ACTOR = "actor_rollout_ref.actor"
_VERL_ESTIMATOR = frozenset(
    {"mask", "group", "score", "reward", "reward_parts", "turn", "correct", "step", "step_reward", "turn_reward"}
)

OFFERS: dict[str, Offer] = {
    "trl": Offer(
        host="trl",
        package="trl",
        tested="1.16.0",
        kinds={
            "score": "_calculate_rewards",
            "reward": "_calculate_rewards",
            "segment": "_generate_and_score_completions",
            "select": "_generate_and_score_completions",
            "credit": "_generate_and_score_completions",
            "plan": "steps_per_generation, num_iterations",
            "weight": "_prepare_inputs",
            "surrogate": "_compute_loss",
        },
        columns={
            **_ALWAYS,
            "key": "",
            "role": "",
            "keep": "",
            "truncated": "",
            "turn": "",
            "step": "a segment in the recipe",
            "part": "a segment in the recipe",
            "old_logp": "",
            "entropy": "",
            "ref_logp": "",
            "engine_logp": "use_vllm=True, or a rollout_func",
            **{name: f"columns={{'{name}': function}}" for name in sorted(BY_FUNCTION)},
            "score": "",
            "correct": "a reward function named correct",
        },
        facts=frozenset({"progress", "step_index", "max_tokens", "step_size"}),
        why={
            "probe": "what it fills comes from more samples, which TRL draws once",
            "resample": "TRL draws a fixed number of completions per prompt, once",
            "fold": "TRL has no place for a state that changes knobs from step to step",
            "role": "TRL trains the policy, and keeps a frozen reference at most",
            "objective.turns_in_order": "TRL cuts its steps by rows, not by turns",
            "reward.match_calls": "TRL does not record the calls that a rollout made",
            "surrogate group": "TRL spreads the rows of a group over micro-batches, and this loss compares them",
            "cut": "TRL does not fork completions",
            "hidden": "TRL's log-probs come from a fused head, which keeps no hidden states",
            "top_ids": "TRL's log-probs come from a fused head, which keeps no other token's",
            "top_logp": "TRL's log-probs come from a fused head, which keeps no other token's",
            "shift": "only a plan that renews fills it",
        },
        when={
            # Without a function named correct, `score`, the weighted sum of the reward functions, stands in its place.
            "reward.outcome": "",
            "objective.minibatches": "steps_per_generation = gradient_accumulation_steps times the plan's count, "
            "num_iterations = its epochs",
        },
        roles=frozenset({"ref_logp"}),
    ),
    "verl": Offer(
        host="verl",
        package="verl",
        tested="0.9.1",
        kinds={
            "reward": "register_adv_est",
            "credit": "register_adv_est",
            "surrogate": "register_policy_loss",
        },
        columns={
            **dict.fromkeys(("mask", "group", "score", "reward", "reward_parts", "advantage", "turn"), ""),
            **dict.fromkeys(("old_logp", "logp"), ""),
            "correct": "a reward that is 0 or 1",
            **dict.fromkeys(("step", "step_reward", "turn_reward"), "a reward manager that places dense rewards"),
        },
        seen={
            "reward": _VERL_ESTIMATOR,
            "credit": _VERL_ESTIMATOR | {"advantage"},
            "surrogate": frozenset({"mask", "turn", "advantage", "old_logp", "logp"}),
        },
        facts=frozenset({"max_tokens"}),
        fact_needs={"max_tokens": "max_tokens in the file that TRUEGAIN_VERL_CONFIG names"},
        settings={
            "objective.token_mean": f"{_ACTOR}.loss_agg_mode=token-mean",
            "objective.sequence_mean": f"{_ACTOR}.loss_agg_mode=seq-mean-token-mean",
            "objective.sequence_sum": f"{_ACTOR}.loss_agg_mode=seq-mean-token-sum",
            "objective.token_sum": f"{_ACTOR}.loss_agg_mode=token-sum",
            "objective.limit_mean": f"{_ACTOR}.loss_agg_mode=seq-mean-token-sum-norm with loss_scale_factor",
            "objective.kl_to_reference": f"{_ACTOR}.use_kl_loss=True with kl_loss_coef and kl_loss_type",
            "objective.entropy_bonus": f"{_ACTOR}.entropy_coeff",
            "objective.minibatches": f"{_ACTOR}.ppo_mini_batch_size and ppo_epochs",
            "reward.outcome": "a reward function of verl's",
            "exploration.dynamic_sampling": "algorithm.filter_groups.enable=True",
        },
        roles=frozenset({"ref_logp"}),
        one_loss=True,
        why={
            "key": "it has no draws of a row's own",
            "truncated": "its estimators do not see why a completion ended",
            "tokens": "its estimators are not handed the token ids",
            "old_value": "its estimators, gae apart, are not handed the critic's values",
            "ref_logp": "neither estimators nor losses are handed it; its own KL terms are actor.use_kl_loss and "
            "algorithm.use_kl_in_reward",
            "entropy": "its losses are not handed it; its own bonus is actor.entropy_coeff",
        },
    ),
    "verifiers": Offer(
        host="verifiers",
        package="verifiers",
        tested="0.4.0",
        kinds={
            "score": "TaskConfig.rewards or TaskConfig.metrics",
            "reward": "TaskConfig.rewards or TaskConfig.metrics",
        },
        columns={
            "truncated": "",
            "key": "",
            "mask": "--client.type train, which records token ids",
            "tokens": "--client.type train, which records token ids",
            "turn": "--client.type train, which records token ids",
            "engine_logp": "--client.type train, which records token ids",
            "reward": "of=TASK, whose reward it changes",
            "correct": "of=TASK, whose checker gives it",
            "answered": "of=TASK, whose checker gives it",
            "score": "of=REWARD, a function or a task with partial credit",
        },
        facts=frozenset({"max_tokens"}),
        fact_needs={"max_tokens": "sampling.max_tokens"},
        when={
            "objective.outcome_level": "of=TASK, whose checker gives what it ranks by",
            "verifier.noisy_checker": "of=TASK, whose checker it makes err",
        },
        why={
            "group": "a reward sees one trace; what compares traces is Env.finalize's",
            "old_logp": "a trace is judged before the trainer has seen it",
            "ref_logp": "a trace is judged before the trainer has seen it",
            "entropy": "a trace is judged before the trainer has seen it",
            "reward.match_calls": "it gives a number for each turn, and a reward of verifiers is one number",
            **dict.fromkeys(
                ("segment", "credit", "weight", "surrogate", "plan", "select"),
                "verifiers makes and judges episodes and trains nothing; read_traces gives its traces as rollouts",
            ),
            **dict.fromkeys(
                ("resample", "probe", "search", "sampler"), "the harness draws what it draws; a reward cannot ask it"
            ),
        },
    ),
}
"""What was read from each host at its tested version; the contract tests hold these against the installed one."""
