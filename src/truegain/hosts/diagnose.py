"""What a training log gives away: known ways in which a run goes wrong without stopping, read off its metrics.

Every check looks at a `Log` (ours, TRL's or verl's) and says one of four things: *ok*, *note* (look at it), *bad* (the
run does not do what it seems to do), or *unseen*: the log does not hold what the check needs. A finding names the
cause, the evidence with steps and numbers, and the mend. Thresholds are constants here: rules of thumb, not tests with
a level; the guard has one (`truegain.hosts.guard`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal, TypeGuard

from truegain.core.errors import DataError, nearest
from truegain.hosts.logs import Log, number

State = Literal["ok", "note", "bad", "unseen"]
Series = list[tuple[int, float]]

_TRL: Mapping[str, tuple[str, ...]] = {
    "reward": ("reward",),
    "proxy": ("reward",),
    "gold": ("truegain/gold",),
    "flat": ("frac_reward_zero_std",),
    "entropy": ("entropy",),
    "kl": ("kl",),
    "clipped": ("completions/clipped_ratio",),
    "longest": ("completions/max_length",),
    "shortest": ("completions/min_length",),
    "ended": ("completions/mean_terminated_length",),
    "gap": ("sampling/sampling_logp_difference/mean",),
    "loss": ("loss",),
    "grad_norm": ("grad_norm",),
    "rate": ("learning_rate",),
}
NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "truegain": {**_TRL, "proxy": ("proxy",), "gold": ("gold",), "gap": ("truegain/engine_gap",)},
    "trl": _TRL,
    "verl": {
        "reward": ("critic/score/mean", "critic/rewards/mean"),
        "proxy": ("critic/score/mean", "critic/rewards/mean"),
        "gold": ("truegain/gold",),
        "entropy": ("actor/entropy",),
        "kl": ("actor/kl_loss", "actor/reward_kl_penalty"),
        "clipped": ("response_length/clip_ratio",),
        "longest": ("response_length/max",),
        "shortest": ("response_length/min",),
        "gap": ("training/rollout_probs_diff_mean",),
        "loss": ("actor/pg_loss",),
        "grad_norm": ("actor/grad_norm",),
        "rate": ("actor/lr",),
    },
}
"""By host, what a check asks for and what the host calls it, the first that is there."""

# Shares of groups whose rewards are all equal
FLAT, ALL_FLAT = 0.5, 0.95
# Entropy as a share of what it was
COLLAPSED = 0.1
# Nats from the start, per token (TRL, verl) and per completion (our looks at dev)
KL_PER_TOKEN, KL_PER_COMPLETION = 0.5, 30.0
# Mean difference between sampler and learner, per token, of log-probs (of probabilities in verl)
GAP_NOTE, GAP_BAD = 0.02, 0.1
# Share of completions that are cut
MOSTLY = 0.5
# Largest gradient norm over the median one
SPIKE = 50.0
# Gold lost between the best look and the chosen one: as a share of what was won, and of what there is
LOST, LEAST_FALL = 0.2, 0.02


@dataclass(frozen=True)
class Finding:
    """One check's answer. ``cause``, ``evidence`` and ``mend`` are sentences; empty where there is nothing to say."""

    name: str
    state: State
    evidence: str
    cause: str = ""
    mend: str = ""


def diagnose(log: Log, *, gold: str = "", proxy: str = "") -> list[Finding]:
    """Every check's finding, the worst first, the order of `CHECKS` among equals.

    ``gold`` and ``proxy`` name the metrics of the independent and of the optimised score where the host's own names are
    not theirs. Raises DataError for a name that the log does not hold.
    """
    names = dict(NAMES[log.host])
    for what, key in (("gold", gold), ("proxy", proxy)):
        if key and key not in (keys := log.keys()):
            raise DataError(f"{log.path} holds no metric {key!r}{nearest(key, set(keys))}")
        names |= {what: (key,)} if key else {}
    seen = Seen(log, names)
    rank = {"bad": 0, "note": 1, "ok": 2, "unseen": 3}
    return sorted((check(seen) for check in CHECKS), key=lambda found: rank[found.state])


@dataclass(frozen=True)
class Seen:
    """A log with what its host calls the metrics."""

    log: Log
    names: Mapping[str, tuple[str, ...]]

    def key(self, what: str) -> str | None:
        """What the log calls it; None where it holds none of the names."""
        return next((key for key in self.names.get(what, ()) if any(key in line for line in self.log.lines)), None)

    def series(self, what: str) -> Series:
        """(step, value) in the order of steps; empty where the log holds none of the names."""
        key = self.key(what)
        if key is None:
            return []
        if self.log.host == "truegain" and what == "kl":  # a loss may log a `kl` of its own; this one is of the looks
            found = {line["step"]: number(line.get(key)) for line in self.log.lines if line.get("kind") == "eval"}
            return [(step, value) for step, value in sorted(found.items()) if value is not None]
        return list(self.log.series(key).items())

    def unseen(self, name: str, *needs: str) -> Finding:
        """The finding of a check whose metrics are missing."""
        wanted = [key for need in needs for key in self.names.get(need, ())]
        lacks = f"the log holds no {' or '.join(wanted)}" if wanted else f"{self.log.host} logs nothing of it"
        return Finding(name, "unseen", lacks)


def _late(values: Series) -> float:
    """The mean of the last third, of at least three."""
    return fmean(value for _, value in values[-max(3, len(values) // 3) :])


def _early(values: Series) -> float:
    """The mean of the first tenth, of at least three."""
    return fmean(value for _, value in values[: max(3, len(values) // 10)])


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


# The checks


def not_finite(seen: Seen) -> Finding:
    """Losses, gradients and rewards that are no numbers, or one gradient far above the others."""
    name, lines = "numbers", seen.log.lines
    for key in filter(None, map(seen.key, ("loss", "grad_norm", "reward"))):
        wrong = [line["step"] for line in lines if _is_number(line.get(key)) and number(line[key]) is None]
        if wrong:
            what = f"{key} is not finite at {len(wrong)} steps, first at {wrong[0]}"
            cause = "an overflow, a reward that is no number, or an empty batch"
            return Finding(
                name, "bad", what, cause, "take the checkpoint before; lower the learning rate; see the rows"
            )
    norms = seen.series("grad_norm")
    if not norms:
        return seen.unseen(name, "grad_norm")
    (step, top), near = max(norms, key=lambda at: at[1]), [at for at, _ in norms]
    place = near.index(step)
    around = [value for _, value in norms[max(0, place - 8) : place + 9]]  # a gradient that dies away is no spike
    middle = median(around)
    if place and middle > 0 and top > SPIKE * middle:
        what = f"the gradient norm is {top:.3g} at step {step}, {middle:.3g} in the median around it"
        return Finding(name, "note", what, "one batch pulled very hard", "clip gradients; look at that step's rows")
    return Finding(name, "ok", f"loss, gradient and reward are finite; the largest gradient norm is {top:.3g}")


def trained_nothing(seen: Seen) -> Finding:
    """Steps that moved nothing: a resume past the end, a schedule that has run out, gradients of exactly zero."""
    name, norms, rates = "steps that train", seen.series("grad_norm"), seen.series("rate")
    if resumed := _idle_resume(seen.log):
        cause = "the run was resumed at or past its last step"
        return Finding(name, "bad", resumed, cause, "raise the number of steps (max_steps, epochs, --steps) and resume")
    if not norms:
        return seen.unseen(name, "grad_norm")
    still = {step for step, value in norms if value == 0}
    dead = {step for step, value in rates if value == 0}
    steps = [step for step, _ in norms]
    if len(steps) >= 3 and still.issuperset(steps[-3:]):
        what = f"the gradient is exactly 0 at {len(still)} of {len(steps)} logged steps, the last three among them"
        cause = "no row has an advantage, or nothing that is trained is in the graph"
        return Finding(name, "bad", what, cause, "see the zero-variance groups; check requires_grad and adapters")
    # A schedule that ends at 0 does so at the last step, one that warms up begins with it.
    if len(dead - {steps[0], steps[-1]}) > len(rates) // 20:
        what = f"the learning rate is 0 at {len(dead)} of {len(rates)} logged steps, last at {max(dead)}"
        cause = "the schedule has run out, as it does when a run is resumed with more steps than it was planned for"
        return Finding(name, "bad", what, cause, "plan the schedule for the whole number of steps")
    return Finding(name, "ok", f"{len(steps) - len(still)} of {len(steps)} logged steps have a gradient")


def _idle_resume(log: Log) -> str:
    """What shows that a resume trained nothing; empty if nothing does."""
    ends = [line for line in log.lines if _is_number(line.get("train_runtime"))]
    # train_loss is the mean over the steps since the start or the resume: with losses in the log, it was over none.
    had_losses = any(number(line.get("loss")) for line in log.lines)
    if log.host == "trl" and ends and ends[-1].get("train_loss") == 0 and had_losses:
        return f"the run ended at step {ends[-1]['step']} after {ends[-1]['train_runtime']:.3g} s with train_loss 0"
    notes = [n for n, line in enumerate(log.lines) if str(line.get("text", "")).startswith("resumed after step")]
    if notes and not any(line.get("kind") == "step" for line in log.lines[notes[-1] :]):
        return f"no step is logged after the resume at step {log.lines[notes[-1]]['step']}"
    return ""


def chosen_checkpoint(seen: Seen) -> Finding:
    """The checkpoint that is taken for the best: chosen by what was optimised, or by gold."""
    name, gold, proxy, log = "choice of the checkpoint", seen.series("gold"), seen.series("proxy"), seen.log
    marked = log.settings.get("best_global_step")
    if not gold:
        if not isinstance(marked, int) or not marked:
            held_out = sorted(key for key in log.keys() if key.startswith(("val-core/", "eval_")))  # noqa: SIM118
            hint = f"; is one of {', '.join(held_out[:3])} independent of what is optimised? --gold METRIC" * bool(
                held_out
            )
            return Finding(name, "unseen", seen.unseen(name, "gold").evidence + hint)
        what = f"step {marked} is marked as the best, and the log holds no gold"
        cause = "a checkpoint chosen by the optimised reward is the one that fools it best"
        return Finding(name, "note", what, cause, "score checkpoints independently (docs/guard.md)")
    top = max(gold, key=lambda at: at[1])
    chosen = marked if isinstance(marked, int) and marked else max(proxy or gold[-1:], key=lambda at: at[1])[0]
    there = min(gold, key=lambda at: abs(at[0] - chosen))
    how = "marked as the best" if chosen == marked else "where the reward is highest" if proxy else "the last one"
    what = f"gold is {there[1]:.3g} at step {there[0]} ({how}) and {top[1]:.3g} at step {top[0]}"
    fall, rise = top[1] - there[1], top[1] - gold[0][1]
    if fall <= max(LOST * abs(rise), LEAST_FALL * abs(top[1])):
        return Finding(name, "ok", what)
    cause = "the reward went on rising where gold had stopped"
    near = min(log.checkpoints, key=lambda one: abs(one.step - top[0]), default=None)
    take = (
        f"the nearest to step {top[0]} is {near.path.name}" if near else f"none is there: save one near step {top[0]}"
    )
    mend = f"take another checkpoint ({take}); `truegain guard` tests whether the fall is more than chance"
    return Finding(name, "bad", what, cause, mend)


def dropped_parts(seen: Seen) -> Finding:
    """A reward that never varies or never speaks, or metrics that end before the log does."""
    name, lines = "parts that count", seen.log.lines
    keys = sorted({key for line in lines for key in line if key.startswith("rewards/") and key.endswith("/mean")})
    idle = [said for key in keys if (said := _idle(seen, key))]
    gone = _vanished(seen)
    if not keys and not gone:
        return Finding(name, "unseen", "the log names no parts of the reward (rewards/NAME/mean)")
    if not idle and not gone:
        return Finding(name, "ok", f"{len(keys)} named rewards vary to the end")
    cause = (
        "a part is switched off without a word: a function that abstains or is constant, a component lost in a resume"
    )
    mend = "`truegain audit` the reward; start the resumed run with the same recipe; `truegain doctor` shows plugins"
    return Finding(name, "bad" if gone or len(idle) == len(keys) else "note", "; ".join(idle + gone), cause, mend)


def _idle(seen: Seen, key: str) -> str:
    lines = [line for line in seen.log.lines if key in line]
    part, values = key.removeprefix("rewards/").removesuffix("/mean"), list(seen.log.series(key).values())
    if len(lines) >= 3 and not values:
        return f"{part} gave no number at any of {len(lines)} steps"
    spread = any(line.get(key.removesuffix("mean") + "std") for line in lines)
    if len(values) >= 3 and len(set(values)) == 1 and not spread:
        return f"{part} is {values[0]:g} at each of {len(values)} steps"
    return ""


def _vanished(seen: Seen) -> list[str]:
    """Metrics of the loss and the reward that every early step has, and no step of the last quarter."""
    steps = [line for line in seen.log.lines if seen.key("grad_norm") in line]
    if len(steps) < 8:
        return []
    early, late = steps[: len(steps) // 2], steps[-(len(steps) // 4) :]
    lasting = set(early[0]).intersection(*early)
    gone = sorted(key for key in lasting if not any(key in line for line in late))
    last = {key: max(line["step"] for line in steps if key in line) for key in gone}
    return [f"{key} is not logged after step {last[key]}" for key in gone[:4]]


def truncation_metric(seen: Seen) -> Finding:
    """Completions that were cut are as long as the limit; a metric that says otherwise counts something else."""
    name, key = "truncation metric", seen.key("clipped")
    clipped, longest, shortest = (dict(seen.series(what)) for what in ("clipped", "longest", "shortest"))
    if key is None or not longest:
        return seen.unseen(name, "clipped", "longest")
    cut = [step for step, share in clipped.items() if share > 0 and step in longest]
    mend = "compare the end marks of tokenizer and model (generation_config.eos_token_id) and the padding mark"
    whole = [step for step in cut if clipped[step] >= 1 and shortest.get(step, longest[step]) < longest[step]]
    if whole:
        few, many = shortest[whole[0]], longest[whole[0]]
        what = f"{key} is 1 at step {whole[0]}, where completions have {few:g} to {many:g} tokens"
        cause = "completions of different lengths were not all cut at one limit: their end mark is not recognised"
        return Finding(name, "bad", what, cause, mend)
    tops = sorted({longest[step] for step in cut})
    # Ours is read off the rows' stop reasons; with tools, what counts against the limit is not the length.
    if len(tops) > 1 and seen.log.host != "truegain" and not _has_turns(seen.log):
        what = (
            f"{key} is above 0 at {len(cut)} steps, their longest completions have {tops[0]:g} to {tops[-1]:g} tokens"
        )
        cause = "what was cut is as long as the limit, and the limit does not change: something else is counted"
        return Finding(name, "bad", what, cause, f"{mend}; verl counts the longest row of a batch where it pads to it")
    ended = dict(seen.series("ended"))
    blind = [step for step, share in clipped.items() if share == 0 and ended.get(step) == 0 and longest.get(step)]
    if blind:
        what = f"at step {blind[0]} {key} is 0, and so is {seen.key('ended')}"
        return Finding(name, "bad", what, "no completion is counted as cut, and none as ended", mend)
    share = _late(list(clipped.items()))
    what = f"{key} is {share:.0%} at the end, {_early(list(clipped.items())):.0%} at the start"
    if share <= MOSTLY:
        return Finding(name, "ok", what)
    cause = "most completions run into the limit, so what is rewarded is an unfinished answer"
    return Finding(name, "note", what, cause, "raise the limit, or price length softly (`truegain show dapo`)")


def _has_turns(log: Log) -> bool:
    keys = log.keys()
    return any(key.startswith(("tools/", "num_turns/", "tool_call_counts/")) for key in keys)


def engine_mismatch(seen: Seen) -> Finding:
    """The sampler's log-probs against the learner's for the same tokens; apart, training is off-policy unknowingly."""
    name, key, gap = "engine against learner", seen.key("gap"), seen.series("gap")
    if key is None or not gap:
        return seen.unseen(name, "gap")
    (step, worst), last = max(gap, key=lambda at: at[1]), _late(gap)
    what = f"{key} is {last:.2g} at the end, at most {worst:.2g} (step {step})"
    if last < GAP_NOTE:
        return Finding(name, "ok", what)
    cause = "sampler and learner disagree about the same tokens: number format, kernels, temperature or weights differ"
    mend = "correct by truncated importance sampling (TRL vllm_importance_sampling_correction, verl rollout_correction)"
    if len(gap) >= 6 and last > 3 * max(_early(gap), 1e-9):
        cause += "; it grows, as when the engine is not given the new weights"
        mend += "; check that weights are sent after every step"
    return Finding(name, "bad" if last >= GAP_BAD else "note", what, cause, mend)


def zero_variance(seen: Seen) -> Finding:
    """Groups whose samples all earn the same have no advantage, and so no gradient."""
    name, flat, reward = "zero-variance groups", seen.series("flat"), seen.series("reward")
    if not flat:
        return seen.unseen(name, "flat")
    share = _late(flat)
    what = f"in the last third of the log, {share:.0%} of the groups have equal rewards"
    if share < FLAT:
        return Finding(name, "ok", what)
    values = [value for _, value in reward]
    if values and max(values) == min(values):
        cause = f"the reward is {values[0]:g} at every step: it does not tell completions apart"
    elif values and _late(reward) >= median(values):
        cause = "the problems have become too easy"
    else:
        cause = "the problems are too hard, or the reward hardly varies"
    mend = "draw such groups anew (`truegain show dapo`), take other problems, or more samples per prompt"
    return Finding(name, "bad" if share >= ALL_FLAT else "note", what, cause, mend)


def entropy_collapse(seen: Seen) -> Finding:
    """A policy without entropy samples one completion again and again: nothing is left to tell apart."""
    name, entropy = "entropy", seen.series("entropy")
    if len(entropy) < 6:
        return seen.unseen(name, "entropy") if not entropy else Finding(name, "unseen", "fewer than six steps have it")
    before, after = _early(entropy), _late(entropy)
    what = f"{before:.3g} nats per token at the start, {after:.3g} at the end"
    if before > 0 and after < COLLAPSED * before:
        cause = "the policy has settled on one way of answering"
        mend = "widen the upper clip (`truegain show dapo`), add an entropy bonus, or stop: it may be done"
        return Finding(name, "note", what, cause, mend)
    if before > 0 and after > before / COLLAPSED**0.5:
        cause = "the policy is much less sure than it was: updates too far off-policy, or a learning rate too high"
        return Finding(name, "note", what, cause, "lower the learning rate, and read some samples")
    return Finding(name, "ok", what)


def kl_drift(seen: Seen) -> Finding:
    """How far the policy is from where it began."""
    name, key, kl = "distance from the start", seen.key("kl"), seen.series("kl")
    if key is None or not kl:
        return seen.unseen(name, "kl")
    ours, last = seen.log.host == "truegain", _late(kl)
    limit, unit = (KL_PER_COMPLETION, "completion") if ours else (KL_PER_TOKEN, "token")
    what = f"{key} is {last:.3g} nats per {unit} at the end, {kl[0][1]:.3g} at step {kl[0][0]}"
    if last < limit:
        return Finding(name, "ok", what)
    cause = "the policy is far from the model that it began as, where no learned reward was ever checked"
    mend = "weigh the penalty to the reference higher, lower the learning rate, or take an earlier checkpoint"
    return Finding(name, "note", what, cause, mend)


CHECKS: Sequence[Callable[[Seen], Finding]] = (
    not_finite,
    trained_nothing,
    chosen_checkpoint,
    dropped_parts,
    truncation_metric,
    engine_mismatch,
    zero_variance,
    entropy_collapse,
    kl_drift,
)
