"""The stages around the update: resamplers, scores, segments, probes, roles with heads, folds, short weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_runs import BANDIT, begin, equal, final_weights, form_of, llama, logged, rollout, run

from truegain.core.batch import Batch
from truegain.core.component import REGISTRY, component, spec_of
from truegain.core.errors import RunError, WiringError
from truegain.core.forms import Role, Term, Train
from truegain.core.types import Abstain, Resampled
from truegain.methods import credit, exploration, objective, reward
from truegain.policy.heads import ScalarHead
from truegain.policy.policy import Policy
from truegain.recipes.controls import on_user_score
from truegain.recipes.grpo import grpo
from truegain.recipes.rloo import rloo
from truegain.rollout.batch import to_columns
from truegain.rollout.segment import by_line
from truegain.tasks import make
from truegain.tasks.bandit import right_arm
from truegain.train import online
from truegain.train.drawing import Draw
from truegain.train.folder import RunFolder
from truegain.train.learner import logp_pass
from truegain.train.models import Model, load_models, policy_model
from truegain.train.setup import Setup, State
from truegain.train.shaping import add_segments, at_step_ends, renewed, shape


@pytest.fixture
def register() -> Any:
    """Registers components for one test only."""
    names: list[str] = []

    def made(kind: str, **more: Any) -> Any:
        def keep(function: Any) -> Any:
            found = component(kind, cite="truegain", **more)(function)
            names.append(spec_of(found).full_name)
            return found

        return keep

    yield made
    for name in names:
        del REGISTRY[name]


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [line for line in logged(folder) if line["kind"] == "step"]


def setup_of(folder: RunFolder, form: Train, task: str = BANDIT, model: str | Path = "table") -> Setup:
    return Setup(form, Policy.load(model), make(task), folder)


# Resampling


SAMPLED_AGAIN = partial(exploration.dynamic_sampling, rounds=40)


def test_dynamic_sampling_fills_every_step_with_groups_that_have_a_signal(tmp_path: Path) -> None:
    form = replace(form_of(steps=4, eval_every=0), resample=SAMPLED_AGAIN)
    run(tmp_path / "run", form)
    for line in steps_of(tmp_path / "run"):
        # 4 problems of 4 samples each are trained on, whatever had to be drawn to find them.
        assert (line["frac_reward_zero_std"], line["truegain/rows"]) == (0.0, 16)
        assert line["truegain/drawn_rows"] > 16
        assert line["ledger"]["resampled"] > 0
    plain = tmp_path / "plain"
    run(plain, form_of(steps=4, eval_every=0))
    assert max(line["frac_reward_zero_std"] for line in steps_of(plain)) > 0, "else nothing was shown"


def test_a_run_with_a_resampler_resumes_to_the_same_numbers_and_meets_no_problem_twice(tmp_path: Path) -> None:
    form = replace(form_of(steps=6, save_every=2), resample=SAMPLED_AGAIN)
    run(tmp_path / "whole", form)
    begin(tmp_path / "cut", 5, form)
    run(tmp_path / "cut", form)
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    assert final_weights(tmp_path / "cut") == final_weights(tmp_path / "whole")


def test_a_step_whose_groups_all_lack_a_signal_trains_on_nothing_and_the_run_goes_on(tmp_path: Path) -> None:
    form = replace(form_of(steps=2, eval_every=0), resample=partial(SAMPLED_AGAIN, rounds=1))
    lines, policy = run(tmp_path / "run", form, task="bandit,level=100")
    assert [(line["truegain/rows"], line["truegain/trained_rows"], line["loss"]) for line in lines] == [(0, 0, 0.0)] * 2
    assert [line["truegain/drawn_rows"] for line in lines] == [32, 32], "one refill of the four groups"
    assert equal(policy.weights(), Policy.load("table").weights())


def test_a_resampler_that_never_has_enough_is_stopped_with_its_name(tmp_path: Path, register: Any) -> None:
    @register("resample")
    def greedy_for_rows(draw: Any) -> Resampled:
        """Always one more."""
        return Resampled(add=draw.fresh(1))

    with pytest.raises(RunError, match=r"greedy_for_rows asked for more rollouts 64 times in step 1"):
        run(tmp_path / "run", replace(form_of(), resample=greedy_for_rows))


def test_two_draws_of_one_problem_in_one_round_differ(tmp_path: Path, register: Any) -> None:
    seen: list[list[tuple[int, ...]]] = []

    @register("resample")
    def twice(draw: Any, rollouts: Any) -> Resampled:
        """Draw every problem of the step again, two times."""
        asked = [r.problem for r in rollouts if r.sample == 0]
        seen.extend([r.ids for r in draw.again(asked, 4)] for _ in range(2))
        return Resampled()

    run(tmp_path / "run", replace(form_of(steps=1), resample=twice))
    assert seen[0] != seen[1]


def test_a_fork_keeps_what_it_shares_and_masks_what_was_inserted(tmp_path: Path) -> None:
    policy = Policy.load(llama(tmp_path / "model"))
    form = form_of(max_tokens=12)
    with RunFolder(tmp_path / "run") as held:
        setup = Setup(form, policy, make("sort,level=3"), held)
        draw = Draw(setup, load_models(form, policy, policy.reference()), State(), "resampled", "test")
        parents = [r for r in draw.fresh(2) if len(r.ids) >= 4][:3]
        found = draw.fork([(p, 2) for p in parents], 2, insert="12")
        again = draw.fork([(p, 2) for p in parents], 2, insert="12")
    assert len(found) == 2 * len(parents) > 0
    for n, row in enumerate(found):
        parent = parents[n // 2]
        assert (row.ids[:2], row.ids[2:4]) == (parent.ids[:2], policy.encode("12"))
        assert row.engine_logp[:4] == (*parent.engine_logp[:2], 0.0, 0.0)
        assert row.mask[:4] == (True, True, False, False) and all(row.mask[4:]) and len(row.ids) <= 12
        assert (row.parent, row.cut, row.text) == (str(parent.key), 2, policy.decode(row.ids))
        assert "correct" in row.facts
        # What was drawn has the log-probs that the learner finds for it.
        batch = Batch(**to_columns([row]))
        logp = logp_pass(policy, [row.prompt_ids], batch, form.loop)[0]
        assert logp[4:].tolist() == pytest.approx(row.engine_logp[4:], abs=1e-5)
    assert len({r.key for r in (*found, *again)}) == 4 * len(parents)
    assert [r.ids for r in found] != [r.ids for r in again], "a second call draws anew"
    # 3 parents share prompt and two tokens among their forks; every fork pays what it inserted and drew.
    assert draw.ledger.resampled > 0


# Scores, segments, probes


def test_a_score_fills_its_column_and_its_abstention_takes_the_row_out(tmp_path: Path, register: Any) -> None:
    @register("score", fills="score")
    def vowel(problem: Any, rollout: Any) -> float | Abstain:
        """1 for a vowel, no verdict on a digit."""
        return Abstain("a digit") if rollout.text.strip().isdigit() else float(rollout.text.strip() in "aeiou")

    form = replace(on_user_score(form_of(steps=1, prompts=32, samples=8, eval_every=0)), score=vowel)
    (line,), _ = run(tmp_path / "run", form)
    assert line["truegain/abstained"] > 0 and 0 < line["reward"] < 1


def test_segments_number_the_lines_of_what_the_policy_wrote(tmp_path: Path) -> None:
    policy = Policy.load("table")
    text = "ab\nc\n\nd"
    ids = policy.encode(text)
    row = replace(rollout("a", text, tokens=len(ids)), ids=ids)
    with RunFolder(tmp_path / "run") as held:
        setup = setup_of(held, replace(form_of(), segment={"step": by_line}))
        batch = add_segments(setup, Batch(**to_columns([row, rollout("b")])), [row, rollout("b")])
    # "ab\n" is line 0, "c\n\n" line 1 (the blank line belongs to it), "d" line 2; the second row has one token.
    assert batch["step"].tolist() == [[0, 0, 0, 1, 1, 1, 2], [0, -1, -1, -1, -1, -1, -1]]


def test_a_probe_sees_models_rows_and_columns_and_its_columns_reach_the_credit(tmp_path: Path, register: Any) -> None:
    seen: dict[str, Any] = {}

    @register("probe", fills="prior_value")
    def half(roles: Any, rollouts: Any, mask: Any) -> dict[str, torch.Tensor]:
        """One half at every token."""
        seen.update(roles=set(roles), rows=len(rollouts), shape=tuple(mask.shape))
        return {"prior_value": mask.float() / 2}

    @register("credit")
    def above_prior(correct: Any, prior_value: Any, mask: Any) -> Any:
        """The outcome above the prior."""
        return (correct[:, None] - prior_value) * mask

    form = form_of(steps=1, eval_every=0)
    form = replace(form, probe=half, terms=(replace(form.terms[0], credit=above_prior),))
    run(tmp_path / "run", form)
    assert seen == {"roles": {"policy"}, "rows": 16, "shape": (16, 1)}
    with pytest.raises(WiringError, match=r"above_prior needs column 'prior_value'"):
        run(tmp_path / "other", replace(form, probe=()))


def test_a_greedy_baseline_costs_one_probed_completion_per_problem(tmp_path: Path) -> None:
    form = replace(form_of(steps=1, prompts=3, eval_every=0), probe=credit.greedy_reward)
    (line,), _ = run(tmp_path / "run", form)
    assert line["ledger"]["probed"] == 3 * (3 + 1)  # a prompt of three tokens and one drawn


def test_columns_that_nothing_supplies_are_refused_before_anything_is_drawn() -> None:
    class Bare:
        name, supplies = "bare", ("correct",)

    form = form_of()
    online.check(form, Bare())  # pyright: ignore[reportArgumentType]
    with pytest.raises(WiringError, match=r"user_score needs column 'score', which task 'bare' does not supply"):
        online.check(on_user_score(form), Bare())  # pyright: ignore[reportArgumentType]
    online.check(on_user_score(form), Bare(), functions=True)  # pyright: ignore[reportArgumentType]


# Roles


def critic_form(source: str = "init", lr: float = 1e-2, **loop: Any) -> Train:
    form = form_of(**{"steps": 3, "max_tokens": 8, "eval_every": 0, "lr": 1e-3, **loop})
    values = Term(credit=_outcome, surrogate=_squared, weight=objective.token_mean, role="critic")
    return replace(
        form, terms=(*form.terms, values), roles={"critic": Role(source=source, fills="value", head=True, lr=lr)}
    )


@component("credit", cite="truegain")
def _outcome(reward: Any, mask: Any) -> Any:
    """The outcome at every token, as a target."""
    return reward[:, None] * mask.float()


@component("surrogate", cite="truegain")
def _squared(value: Any, target: Any) -> Any:
    """Half the squared error."""
    return (value - target) ** 2 / 2


for _private in (_outcome, _squared):
    del REGISTRY[spec_of(_private).full_name]


def test_a_critic_learns_the_value_of_a_task_that_is_always_right(tmp_path: Path) -> None:
    model = llama(tmp_path / "model")
    form = replace(critic_form(steps=40, save_every=40), reward=partial(reward.outcome, right=0.7, wrong=0.7))
    _, policy = run(tmp_path / "run", form, model=model, task="sort,level=3")
    losses = [line["truegain/critic/loss"] for line in steps_of(tmp_path / "run")]
    # Before training the head says 0: the loss is 0.7 ** 2 / 2 at every token. The policy has no signal: it stays.
    assert losses[0] == pytest.approx(0.245, rel=1e-5) and losses[-1] < 0.005
    assert equal(policy.weights(), Policy.load(model).weights())
    saved = tmp_path / "run" / "checkpoints" / "step-000040" / "roles" / "critic"
    assert not equal(Policy.load(saved).weights(), policy.weights())
    assert float(ScalarHead.load(saved / "head.safetensors").linear.bias.detach()) != 0


def test_a_critic_of_the_table_policy_learns_a_value_for_every_context(tmp_path: Path) -> None:
    form = critic_form(steps=60, prompts=32, samples=4, max_tokens=1, lr=1e-9, save_every=60)
    form = replace(form, roles={"critic": Role(source="init", fills="value", head=True, lr=0.05)})
    run(tmp_path / "run", form)
    head = ScalarHead.load(tmp_path / "run" / "checkpoints" / "step-000060" / "roles" / "critic" / "head.safetensors")
    policy = Policy.load("table")
    (letter,) = policy.encode("a")
    value = float((head.linear.weight[0, letter] + head.linear.bias).detach())
    # The policy hardly moves from uniform over 108 tokens: a context is worth the share of its arms that pay.
    arms = [policy.decode([i]) for i in range(108)]
    share = sum(right_arm("a", arm, 10) for arm in arms) / 108
    assert value == pytest.approx(share, abs=0.06)


def test_a_head_on_the_policys_own_body_trains_both(tmp_path: Path) -> None:
    model = llama(tmp_path / "model")
    form = replace(critic_form("policy", steps=2), reward=partial(reward.outcome, right=0.7, wrong=0.7))
    lines, policy = run(tmp_path / "run", form, model=model, task="sort,level=3")
    # The head is zero at the start, so the first step moves it alone; the second reaches the body through it.
    assert lines[0]["grad_norm"] == 0 and lines[1]["grad_norm"] > 0
    assert not equal(policy.weights(), Policy.load(model).weights())


def test_a_run_with_a_critic_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    model = llama(tmp_path / "model")
    form = critic_form(steps=4, save_every=2)
    run(tmp_path / "whole", form, model=model, task="sort,level=3")
    run(
        tmp_path / "cut",
        replace(form, loop=form.loop.model_copy(update={"steps": 2})),
        model=model,
        task="sort,level=3",
    )
    run(tmp_path / "cut", form, model=model, task="sort,level=3")
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    assert final_weights(tmp_path / "cut") == final_weights(tmp_path / "whole")


def test_frozen_reward_models_fill_a_column_each_and_steps_are_read_at_their_ends(tmp_path: Path) -> None:
    places = [llama(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    for n, place in enumerate(places):
        head = ScalarHead(16)
        torch.nn.init.constant_(head.linear.bias, float(n + 1))
        head.save(place / "head.safetensors")
    roles = {f"judge {n}": Role(source=str(p), fills="model_reward", head=True) for n, p in enumerate(places)}
    roles["steps"] = Role(source=str(places[0]), fills="step_reward", head=True)
    form = replace(form_of(max_tokens=4), roles=roles, segment={"step": by_line})
    policy = Policy.load(llama(tmp_path / "policy"))
    rows = [rollout("a", "ab", tokens=2, correct=1.0), rollout("b", "c", tokens=1, correct=0.0)]
    with RunFolder(tmp_path / "run") as held:
        setup = Setup(form, policy, make("sort,level=3"), held)
        batch = shape(setup, load_models(form, policy, policy.reference()), State(), rows).batch
    # The heads' weights are zero, so each model says its bias.
    assert batch["model_reward"].tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert batch["step_reward"].tolist() == [[1.0], [1.0]]
    with pytest.raises(WiringError, match="role 'steps' is trained by a term"):
        online.check(replace(form, terms=(*form.terms, replace(form.terms[0], role="steps"))))


def test_numbers_are_read_at_the_last_token_of_each_step() -> None:
    scores = torch.arange(8.0).reshape(2, 4)
    step = torch.tensor([[0, 0, 1, -1], [0, -1, -1, -1]])
    found = at_step_ends(scores, step)
    assert found[0].tolist() == [1.0, 2.0] and found[1, 0] == 4.0 and math.isnan(found[1, 1])


# Folds


def test_a_fold_sees_the_step_and_sets_the_next_one_and_both_survive_a_resume(tmp_path: Path, register: Any) -> None:
    seen: list[tuple[float, int]] = []

    @register("fold")
    @dataclass(frozen=True, kw_only=True)
    class Warmer:
        """Raise the temperature after every step, and remember the rewards."""

        by: float = 0.125

        def init(self) -> dict[str, Any]:
            return {"steps": 0, "rewards": torch.zeros(0)}

        def update(self, state: Any, *, line: Any, reward: Any, step_index: int) -> Any:
            seen.append((float(reward.mean()), step_index))
            steps = state["steps"] + 1
            kept = torch.cat([state["rewards"], reward.mean()[None]])
            return {"steps": steps, "rewards": kept}, {"temperature": 1.0 + self.by * steps}

    form = replace(form_of(steps=4, save_every=2, eval_every=0), fold=partial(Warmer, by=0.25))
    run(tmp_path / "whole", form)
    assert [line["set/loop.temperature"] for line in steps_of(tmp_path / "whole")] == [1.25, 1.5, 1.75, 2.0]
    assert [at for _, at in seen] == [0, 1, 2, 3]
    assert [value for value, _ in seen] == pytest.approx([line["reward"] for line in steps_of(tmp_path / "whole")])
    run(tmp_path / "cut", replace(form, loop=form.loop.model_copy(update={"steps": 2})))
    run(tmp_path / "cut", form)
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    kept = load_file(max((tmp_path / "cut" / "checkpoints").glob("step-*")) / "optimizer.safetensors")
    assert kept["state/0"].shape == (4,)


# Short weights


def test_steps_too_small_for_bfloat16_add_up_in_its_float32_masters(tmp_path: Path) -> None:
    policy = Policy.load(llama(tmp_path / "model"), dtype="bfloat16")
    model = policy_model(policy, form_of(lr=1e-6).loop)
    weight = policy.model.lm_head.weight
    before = weight.detach().clone()
    for _ in range(3):
        # Two micro-batches: their gradients add up in float32, and the weight keeps none.
        for _ in range(2):
            (weight.float() * 0.5).sum().backward()
        master = model.masters["lm_head.weight"][1]
        assert weight.grad is None and master.grad is not None and bool((master.grad == 1.0).all())
        model.step()
        model.zero_grad()
    moved = before.float() - model.masters["lm_head.weight"][1]
    # Adam moves by lr each time, far below what bfloat16 can tell: the weight stays, its master does not.
    torch.testing.assert_close(moved, torch.full_like(moved, 3e-6), rtol=0.1, atol=2e-7)
    large = before.abs() > 0.01
    assert bool(large.any()) and torch.equal(weight[large], before[large])


def test_a_bfloat16_run_learns_and_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    form = form_of(steps=4, save_every=2, eval_every=0)

    def going(name: str, steps: int) -> Model:
        with RunFolder(tmp_path / name) as held:
            now = replace(form, loop=form.loop.model_copy(update={"steps": steps}))
            setup = Setup(now, Policy.load("table", dtype="bfloat16"), make(BANDIT), held)
            list(online.train(setup, lambda: None))
            return Model("policy", setup.policy)

    whole = going("whole", 4)
    going("cut", 2)
    cut = going("cut", 4)
    assert whole.policy.dtype == torch.bfloat16
    assert equal(whole.policy.weights(), cut.policy.weights())
    assert not equal(whole.policy.weights(), Policy.load("table", dtype="bfloat16").weights())
    assert final_weights(tmp_path / "cut") == final_weights(tmp_path / "whole")
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


def test_an_adaptive_penalty_follows_its_target_in_a_run(tmp_path: Path) -> None:
    form = replace(grpo(beta=0.5), loop=form_of(steps=4, eval_every=0).loop)
    form = replace(form, fold=partial(objective.adaptive_kl, target=1e6, start=0.5, horizon=32.0))
    run(tmp_path / "run", form)
    # The KL is far below the target, so the error is clipped to -0.2; 16 rows of a horizon of 32 halve it.
    expected = [0.5 * 0.9**n for n in (1, 2, 3, 4)]
    assert [s["set/surrogate.kl_to_reference.beta"] for s in steps_of(tmp_path / "run")] == pytest.approx(expected)


# Plans that renew


def test_a_renewing_plan_trains_each_part_against_the_policy_that_the_one_before_left(
    tmp_path: Path, register: Any
) -> None:
    seen: list[tuple[Any, Any]] = []

    @register("plan", renew=True)
    def halves(mask: Any) -> Any:
        """The even rows, then the odd ones."""
        even = (torch.arange(len(mask)) % 2 == 0)[:, None]
        return torch.stack([mask & even, mask & ~even])

    @register("weight")
    def watched(mask: Any, old_logp: Any, shift: Any) -> Any:
        """The mean over tokens; looks on."""
        seen.append((old_logp.clone(), shift.clone()))
        return mask.float() / mask.sum()

    form = form_of(steps=1, eval_every=0, samples=8)
    form = replace(form, plan=halves, terms=(replace(form.terms[0], weight=watched),))
    (line,), _ = run(tmp_path / "run", form)
    (first, before), (second, after) = seen
    assert first.shape == second.shape == (16, 1) and bool(before.isnan().all())
    # The second step sees only odd rows: the policy moved since they were drawn, and no step has trained them yet.
    assert not torch.allclose(second, torch.full_like(second, -math.log(108)), atol=1e-4)
    assert torch.allclose(first, torch.full_like(first, -math.log(108)), atol=1e-4)
    assert bool(after.isnan().all())
    # 32 rows, three passes of 4 tokens each: before, between; and each row is trained once.
    assert line["ledger"]["scored"] == 2 * 32 * 4 and line["ledger"]["trained"] <= 32 * 4


def test_the_shift_of_a_part_is_the_mean_log_ratio_over_its_tokens() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    batch = Batch(mask=mask, old_logp=-torch.ones(2, 3), shift=torch.full((2, 2), math.nan))
    part = torch.tensor([[False, True, True], [False, False, False]])
    logp = torch.tensor([[-1.0, -0.5, -0.9], [-1.0, -1.0, 0.0]])
    found = renewed(batch, logp, part, 1)
    # Row 0: (0.5 + 0.1) / 2 = 0.3. Row 1 has no token in the part.
    assert found["shift"][0, 1] == pytest.approx(0.3) and bool(found["shift"][1].isnan().all())
    assert bool(found["shift"][:, 0].isnan().all()) and torch.equal(found["old_logp"], logp)


def test_a_reward_that_reads_a_model_is_resampled_on_and_left_out_of_the_judges_proxy(tmp_path: Path) -> None:
    form = replace(rloo(beta=0.1), loop=form_of(steps=2, eval_every=1).loop, resample=SAMPLED_AGAIN)
    lines, _ = run(tmp_path / "run", form)
    looks = [line for line in lines if line["kind"] == "eval"]
    # The penalty to the reference is not in the proxy: what is left of the reward is the checker.
    assert looks and all(line["proxy"] == line["gold"] for line in looks)
    shaped = replace(form, reward=tuple(reversed(form.reward)), resample=())  # pyright: ignore
    lines, _ = run(tmp_path / "other", shaped)
    assert all(line["proxy"] is None for line in lines if line["kind"] == "eval")
