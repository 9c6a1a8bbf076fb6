"""ProRAG: trees of steps, a model of steps from siblings, the dual advantage."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import truegain.recipes  # noqa: F401  (fills the table of systems)
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.component import REGISTRY, component, spec_of
from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import Decode, Fit, Train, members
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.core.types import Abstain, Pair, Problem, Rollout, Turn
from truegain.methods import credit, reward, search
from truegain.policy.policy import Policy
from truegain.recipes.prorag import prorag
from truegain.tasks import make
from truegain.train.chain import Chain, check, execute
from truegain.train.dataset import pair_of, row_of
from truegain.train.launch import StopSignal
from truegain.train.online import check as check_train
from truegain.train.pairs import pair_ids

# --- the dual advantage ---------------------------------------------------------------------------------------------


def slow_scores(scores: list[list[float]], steps: list[list[int]], group: list[int], squash: bool) -> list[list[float]]:
    """Tokens' scores minus the mean of their group's tokens over its population deviation, from the formula."""

    def q(row: int, s: int) -> float:
        return 1 / (1 + math.exp(-scores[row][s])) if squash else scores[row][s]

    out = [[0.0] * len(row) for row in steps]
    for g in set(group):
        held = [q(i, s) for i, row in enumerate(steps) if group[i] == g for s in row if s >= 0]
        if not held:
            continue
        mean = sum(held) / len(held)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in held) / len(held) + 1e-8)
        for i, row in enumerate(steps):
            if group[i] == g:
                out[i] = [(q(i, s) - mean) / deviation if s >= 0 else 0.0 for s in row]
    return out


def test_a_steps_score_is_standardised_over_the_tokens_of_its_group() -> None:
    step = torch.tensor([[0, 0, 1], [0, 0, -1]])
    scores = torch.tensor([[3.0, 1.0], [1.0, math.nan]])
    # tokens hold 3 3 1 1 1: mean 9/5, squares 1.44 1.44 .64 .64 .64, variance 4.8/5 = 0.96, deviation 0.9798;
    # 1.2 / 0.9798 = 1.2247, -0.8 / 0.9798 = -0.8165
    found = credit.step_scores(scores, step, torch.zeros(2, dtype=torch.long), step >= 0, squash=False)
    assert torch.allclose(found, torch.tensor([[1.2247, 1.2247, -0.8165], [-0.8165, -0.8165, 0.0]]), atol=1e-4)


tables = st.lists(st.lists(st.integers(-1, 3), min_size=4, max_size=4), min_size=1, max_size=5)


@given(steps=tables, data=st.data(), squash=st.booleans())
def test_the_process_channel_agrees_with_a_slow_oracle_and_has_mean_0_and_variance_1(
    steps: list[list[int]], data: st.DataObject, squash: bool
) -> None:
    rows = len(steps)
    scores = data.draw(st.lists(st.lists(st.sampled_from([-2.0, -0.5, 1.0, 3.0]), min_size=4, max_size=4),
                                min_size=rows, max_size=rows))  # fmt: skip
    group = data.draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    ids = torch.tensor(steps)
    given_ = (torch.tensor(scores, dtype=torch.float64), ids, torch.tensor(group), ids >= 0)
    found = credit.step_scores(*given_, squash=squash)
    assert torch.allclose(
        found, torch.tensor(slow_scores(scores, steps, group, squash), dtype=torch.float64), atol=1e-6
    )
    for g in set(group):
        inside = (ids >= 0) & (torch.tensor(group) == g)[:, None]
        if inside.any() and float(found[inside].abs().max()) > 0:
            assert float(found[inside].mean()) == pytest.approx(0, abs=1e-6)
            assert float(found[inside].var(correction=0)) == pytest.approx(1, abs=1e-3)


def test_equal_scores_a_step_alone_and_a_row_without_steps_give_nothing() -> None:
    one, zero = torch.zeros(1, dtype=torch.long), torch.zeros(1, 3)
    for step, scores in (([[0, 0, 1]], [[0.7, 0.7]]), ([[0, 0, 0]], [[0.3]]), ([[-1, -1, -1]], [[math.nan]])):
        ids = torch.tensor(step)
        assert torch.equal(credit.step_scores(torch.tensor(scores), ids, one, ids >= 0), zero)
    with pytest.raises(SettingError, match="pool='row'"):
        inspect.unwrap(credit.step_scores)(torch.zeros(1, 1), ids, one, ids >= 0, pool="row")


def test_a_nan_at_a_step_reaches_its_group_and_no_other() -> None:
    ids = torch.tensor([[0, 1], [0, 1]])
    scores = torch.tensor([[1.0, math.nan], [0.0, 2.0]])
    found = credit.step_scores(scores, ids, torch.tensor([0, 1]), ids >= 0)
    assert found[0].isnan().all() and found[1].isfinite().all()


def batch(seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    step = torch.tensor([[0, 0, -1, 1], [0, -1, 1, 1], [0, 0, 0, -1], [0, 1, 2, -1]])
    return Batch(
        mask=step >= 0,
        step=step,
        group=torch.tensor([0, 0, 1, 1]),
        reward=torch.tensor([3.0, -1.0, 1.4, 3.0]),
        step_reward=torch.randn(4, 3, generator=rng),
    )


def advantage(form: Train) -> Tensor:
    (found,), _ = arithmetic.credit_stage(form, batch(), {})
    assert found is not None
    return found


def test_beta_0_is_outcome_grpo_and_the_channels_add_up() -> None:
    b = batch()
    outcome = credit.group_normalise(b["reward"], b["group"], b["mask"], eps=1e-4)
    process = credit.step_scores(b["step_reward"], b["step"], b["group"], b["mask"])
    assert torch.equal(advantage(prorag(beta=0.0)[-1]), outcome)
    assert torch.allclose(advantage(prorag(beta=0.5)[-1]), outcome + 0.5 * process)


def test_what_was_retrieved_carries_no_advantage_and_no_loss() -> None:
    from truegain.claims.updates import loss_on, step_on

    form, b = prorag()[-1], batch()
    logp = torch.zeros(4, 4, requires_grad=True)
    loss_on(form, step_on(form, Batch(**b, old_logp=torch.zeros(4, 4)), 4), logp).backward()
    assert logp.grad is not None
    assert bool((logp.grad[~b["mask"]] == 0).all()) and bool((logp.grad[b["mask"]] != 0).any())


# --- the outcome ----------------------------------------------------------------------------------------------------


def test_the_catalogs_example_of_the_outcome_reward() -> None:
    # F1 0.1 is below 0.2 and counts 0; else 2 F1; a sound format adds 1: 0+1, .4+1, 1.2+1, 2+1; a broken one takes 1
    score, sound = torch.tensor([0.1, 0.2, 0.6, 1.0]), torch.ones(4)
    total = reward.floored_score(score) + reward.well_formed(sound, scale=1.0, broken=-1.0)
    assert torch.allclose(total, torch.tensor([1.0, 1.4, 2.2, 3.0]))
    assert reward.well_formed(torch.tensor([0.0, 1.0]), scale=1.0, broken=-1.0).tolist() == [-1.0, 1.0]


@given(st.floats(0, 1, width=32))
def test_a_score_below_the_floor_earns_what_0_earns(score: float) -> None:
    found = float(reward.floored_score(torch.tensor([score])))
    assert found == (0.0 if score < 0.2 else pytest.approx(2 * score))
    assert reward.floored_score(torch.tensor([math.nan])).isnan().all()


@pytest.mark.parametrize(
    ("text", "answer", "f1"),
    [
        # shared york, city: 2 * 2 / (2 + 3); the article goes
        ("<answer>the city, York!</answer>", "New York City", 0.8),
        ("<answer>bob</answer><answer>ann</answer>", "ann", 1.0),  # the last one
        ("<answer>ann ann</answer>", "ann", 2 / 3),  # a word counts as often as it stands in both
        ("<answer>ann", "ann", 0.0),
        ("ann", "ann", 0.0),
        ("<answer></answer>", "ann", 0.0),
        ("<answer>the</answer>", "the", 1.0),  # nothing is left of either
        ("", "", 0.0),
    ],
)
def test_word_f1(text: str, answer: str, f1: float) -> None:
    row = Rollout(Problem("p", "?", answer), (), (), (), text, "eos", ())
    assert reward.word_f1(row.problem, row) == pytest.approx(f1)


def test_without_a_reference_there_is_no_score() -> None:
    row = Rollout(Problem("p", "?"), (), (), (), "<answer>x</answer>", "eos", ())
    assert isinstance(reward.word_f1(row.problem, row), Abstain)


# --- the search -----------------------------------------------------------------------------------------------------


class Letters:
    """A policy that writes steps, one token each, as told: a completion is right if all its tokens are even."""

    def __init__(self, writes: list[list[tuple[int, ...]]], length: int = 3) -> None:
        self.writes, self.length, self.asked = list(writes), length, list[list[tuple[int, int]]]()

    def row(self, problem: Problem, ids: tuple[int, ...], facts: Any = None) -> Rollout:
        said = (Turn("policy", 0, len(ids)),)
        found = {"correct": float(all(t % 2 == 0 for t in ids))} if facts is None else facts
        return Rollout(problem, (1,), ids, (0.0,) * len(ids), "x" * len(ids), "eos", said, facts=found)

    def again(self, problems: Any, samples: int) -> list[Rollout]:
        told = self.writes.pop(0)
        return [self.row(p, told[i * samples + n]) for i, p in enumerate(problems) for n in range(samples)]

    def fork(self, places: Any, samples: int) -> list[Rollout]:
        self.asked.append([(row.ids[cut - 1], cut) for row, cut in places])
        told = self.writes.pop(0)
        return [
            self.row(row.problem, (*row.ids[:cut], *told[i * samples + n]))
            for i, (row, cut) in enumerate(places)
            for n in range(samples)
        ]

    def segments(self, rows: Any, name: str) -> Tensor:
        width = max(len(r.ids) for r in rows)
        return torch.tensor([[*range(len(r.ids)), *[-1] * (width - len(r.ids))] for r in rows])


ROLES = {"policy": SimpleNamespace(policy=SimpleNamespace(decode=lambda ids: "x" * len(ids)))}
P = Problem("p", "q")


def tree(loop: Letters, problems: tuple[Problem, ...] = (P,), **knobs: Any) -> tuple[list[Pair], dict[str, float]]:
    return search.sibling_steps(ROLES, loop, problems, **{"width": 2, "curiosity": 0.0, **knobs})


def ahead(pairs: list[Pair]) -> dict[tuple[tuple[int, ...], tuple[int, ...]], float]:
    return {(tuple(p.meta["chosen_ids"]), tuple(p.meta["rejected_ids"])): p.meta["ahead"] for p in pairs}


def test_a_tree_by_hand() -> None:
    # Root: 2 4 6 is right, 3 4 6 is not. Child 2 is worth 0.9^2 (two steps to the end), child 3 nothing. The second
    # simulation goes on from 2, the better: 2|4 8 right, one step to go, so 0.9 at 4 and 0.81 at 2; 2|5 8 wrong, 0 at
    # 5 and at 2. Child 2 is then (0.81 + 0.81 + 0) / 3 = 0.54.
    loop = Letters([[(2, 4, 6), (3, 4, 6)], [(4, 8), (5, 8)]])
    pairs, logs = tree(loop, simulations=2, gamma=0.9)
    assert loop.asked == [[(2, 1)]]
    assert ahead(pairs) == {((2,), (3,)): pytest.approx(0.54), ((2, 4), (2, 5)): pytest.approx(0.9)}
    assert all(p.meta["prompt_ids"] == [1] and p.prompt == "q" for p in pairs)
    assert logs == {"nodes": 5.0, "pairs": 2.0}


def test_curiosity_sends_a_simulation_to_what_was_seen_less() -> None:
    # After the root's 4 rows child 2 has 3 visits and worth 1, child 3 one visit and nothing. With c: 1 + c/4*2/4 =
    # 1 + c/8 against c/4*2/2 = c/4: beyond c = 8 the child that was seen less is next.
    first = [(2, 4), (2, 6), (2, 8), (3, 4)]
    for curiosity, token in ((7.9, 2), (8.1, 3)):
        loop = Letters([first, [(4,)] * 4])
        tree(loop, simulations=2, width=4, gamma=1.0, curiosity=curiosity)
        assert loop.asked == [[(token, 1)]]


def test_steps_that_were_written_before_are_one_node_and_values_must_differ_by_the_margin() -> None:
    loop = Letters([[(2, 4), (2, 5), (2, 4), (3, 4)]])
    pairs, logs = tree(loop, simulations=1, width=4, gamma=1.0)
    # child 2 is worth 2/3
    assert logs["nodes"] == 3 and ahead(pairs) == {((2,), (3,)): pytest.approx(2 / 3)}
    again = Letters([[(2, 4), (2, 5), (2, 4), (3, 4)]])
    assert tree(again, simulations=1, width=4, gamma=1.0, margin=0.7)[0] == []


def test_an_end_the_depth_and_a_missing_verdict_stop_the_growth() -> None:
    ended = Letters([[(2,), (3,)]])
    pairs, _ = tree(ended, simulations=4)
    assert ended.asked == [] and ahead(pairs) == {((2,), (3,)): 1.0}
    assert tree(Letters([[(2, 4), (3, 4)]]), simulations=3, depth=1)[1]["nodes"] == 3
    blind = Letters([[(2, 4), (3, 4)]])
    blind.row = lambda problem, ids, facts=None: Letters.row(blind, problem, ids, {"abstained": "no"})  # type: ignore
    assert tree(blind, simulations=1)[0] == []
    assert search.sibling_steps(ROLES, None, ()) == ([], {})
    few: list[dict[str, Any]] = [{"simulations": 0}, {"width": 0}, {"depth": 0}]
    for knobs in few:
        with pytest.raises(SettingError, match="must be >= 1"):
            search.sibling_steps(ROLES, None, (P,), **knobs)


def test_trees_of_several_problems_grow_side_by_side() -> None:
    other = Problem("r", "s")
    loop = Letters([[(2, 4), (3, 4), (5, 4), (6, 4)], [(4,), (5,), (8,), (7,)]])
    pairs, _ = tree(loop, (P, other), simulations=2, gamma=1.0)
    assert loop.asked == [[(2, 1), (6, 1)]]
    assert {p.id for p in pairs} == {"p", "r"} and ((6, 8), (6, 7)) in ahead(pairs)


def test_a_pair_keeps_the_tokens_that_were_drawn_and_gets_no_end_mark() -> None:
    policy = Policy.load("table")
    (pair,), _ = tree(Letters([[(20, 4), (21, 4)]]), simulations=1)
    ids = pair_ids(policy, pair_of(row_of(policy, pair)))
    assert (ids.prompt, ids.chosen, ids.rejected) == ((1,), (20,), (21,))
    plain = pair_ids(policy, Pair("p", "q", "a", "b"))
    assert plain.chosen[-1] == policy.tokenizer.eos_token_id


def test_only_right_rollouts_without_a_bad_step_are_kept() -> None:
    loop = Letters([])
    rows = [loop.row(P, (2, 4)), loop.row(P, (2, 6)), loop.row(P, (3, 4)), loop.row(P, (2, 8), {"abstained": "no"})]
    asked: list[Any] = []

    def scores(given: Any) -> dict[str, Tensor]:
        asked.extend(given)
        return {"step_reward": torch.tensor([[0.0, 1.0, math.nan], [2.0, -0.1, math.nan]])}

    kept, logs = search.keep_sound({}, SimpleNamespace(columns=scores), rows)
    assert asked == rows[:2]
    assert [r.ids for r in kept] == [(2, 4)] and kept[0].facts["step_reward"] == [0.0, 1.0]
    assert logs == {"right": 0.5, "sound": 0.25}
    nothing = SimpleNamespace(columns=lambda given: {"step_reward": torch.full((2, 2), math.nan)})
    assert search.keep_sound({}, nothing, rows)[0] == []
    assert search.keep_sound({}, None, rows[2:]) == ([], {"right": 0.0, "sound": 0.0})


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_the_recipe_is_six_forms_and_every_one_can_be_fed(tmp_path: Path) -> None:
    forms = build("prorag", beta=0.5, simulations=3)
    assert [type(form) for form in forms] == [Fit, Decode, Fit, Decode, Fit, Train]
    assert spec_of(members(prorag()[1].search)[0]).full_name == "search.sibling_steps"
    check(Chain(forms, "prorag", tmp_path / "x", "tiny", "search,style=trace"))


def test_a_task_without_answers_in_marks_is_refused_with_column_component_and_supplier() -> None:
    with pytest.raises(WiringError, match=r"well_formed needs column 'answered', which .* does not supply; it comes"):
        check_train(prorag()[-1], make("bandit"))


@pytest.fixture
def lenient() -> Any:
    """Keeps whatever there is, scored: the embedded model cannot search, and two steps do not teach it."""

    @component("search", cite="truegain")
    def scored(roles: Any, draw: Any, rollouts: Any) -> list[Rollout]:
        """Keep everything."""
        before, scores = draw.ledger.scored, draw.columns(rollouts)["step_reward"]
        assert bool(scores.isfinite().any(dim=1).all())
        assert draw.ledger.scored - before == sum(len(r.prompt_ids) + len(r.ids) for r in rollouts)
        return list(rollouts)

    yield scored
    del REGISTRY[spec_of(scored).full_name]


def test_all_six_forms_run_on_the_search_task(tmp_path: Path, lenient: Any) -> None:
    sft, grow, judge, sound, refine, online = prorag(simulations=2, width=3)
    forms = (
        loop_with(sft, steps=2, prompts=4),
        # any value tells siblings apart
        loop_with(
            replace(grow, search=partial(members(grow.search)[0], fact="tool_calls")), steps=2, prompts=8, max_tokens=32
        ),
        loop_with(judge, steps=2, prompts=4),
        loop_with(replace(sound, search=lenient), steps=1, prompts=2, samples=2, max_tokens=24),
        loop_with(refine, steps=2, prompts=2),
        loop_with(online, steps=2, prompts=2, samples=4, eval_every=0, max_tokens=24),
    )
    options = {"sizes": {"dev": 2, "test": 2, "samples": 1}}
    chain = Chain(forms, "prorag", tmp_path / "run", "tiny", "search,style=trace,level=3", 0, options=options)
    events = list(execute(chain, StopSignal()))
    left = [event for event in events if event["kind"] == "left"]
    assert [event["form"] for event in left] == ["Fit", "Decode", "Fit", "Decode", "Fit", "Train"]
    lines = [event for event in events if event["kind"] == "step" and event["stage"] == "6-train"]
    assert len(lines) == 2 and all(math.isfinite(line["loss"]) for line in lines)


def test_a_search_that_reads_scores_needs_a_role_that_gives_them() -> None:
    loop = Letters([])
    with pytest.raises(WiringError, match="role that fills 'step_reward'"):
        search.keep_sound({}, SimpleNamespace(columns=lambda given: {}), [loop.row(P, (2,))])
