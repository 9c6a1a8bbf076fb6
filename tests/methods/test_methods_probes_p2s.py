"""P2S: how far a rollout's steps lead along a good chain of thought, and when that replaces the outcome."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError
from truegain.core.settings import loop_with
from truegain.core.types import Problem, Rollout
from truegain.methods.credit import by_share, group_normalise, path_faithfulness
from truegain.methods.credit._path_faithfulness import _hinted, _suffixes  # pyright: ignore[reportPrivateUsage]
from truegain.methods.reward import malformed, steps_if_unsolved
from truegain.policy.policy import Policy
from truegain.recipes.p2s import p2s
from truegain.tasks import make
from truegain.train.drawing import Draw
from truegain.train.folder import RunFolder
from truegain.train.models import load_models
from truegain.train.setup import Setup, State
from truegain.train.shaping import shape

NAN = float("nan")


def row(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def replaced(reward: list[float], steps: list[list[float]], correct: list[float], group: list[int], **more: Any) -> Any:
    columns = (row(reward), row(steps), row(correct), torch.tensor(group))
    found, said = steps_if_unsolved(*columns, **{"progress": 0.5, **more})
    return found.tolist(), said


def test_the_worked_example_of_the_catalog() -> None:
    # w = sigmoid(8 (i/4 - 1/2)) = sigmoid(-2, 0, 2, 4) = .1192, .5, .8808, .9820;
    # .1192 * .3 + .5 * 1.2 + .8808 * .8 - .9820 * .5 = .0358 + .6 + .7046 - .4910 = .8494.
    steps = [[0.3, 1.2, 0.8, -0.5]]
    found, _ = replaced([0.0], steps, [0.0], [0], average=False)
    assert found == pytest.approx([0.8494], abs=1e-4)
    # Divided by the sum of the weights, 2.4820.
    assert replaced([0.0], steps, [0.0], [0])[0] == pytest.approx([0.8494 / 2.4820], abs=1e-4)


@given(seed=st.integers(0, 500), rows=st.integers(1, 6), average=st.booleans())
def test_it_agrees_with_a_slow_oracle(seed: int, rows: int, average: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    steps = torch.randn(rows, 4, generator=rng, dtype=torch.float64)
    lengths = torch.randint(0, 5, (rows,), generator=rng)
    steps[torch.arange(4) >= lengths[:, None]] = NAN
    group = torch.randint(0, 3, (rows,), generator=rng)
    right = (torch.rand(rows, generator=rng) < 0.3).double()
    found, said = steps_if_unsolved(right, steps, right, group, average=average, progress=0.0)
    for i in range(rows):
        own = [x for x in steps[i].tolist() if not math.isnan(x)]
        weights = [1 / (1 + math.exp(-8 * ((n + 1) / len(own) - 0.5))) for n in range(len(own))]
        total = sum(w * x for w, x in zip(weights, own, strict=True))
        wanted = total / sum(weights) if average and own else total
        solved = any(right[j] for j in range(rows) if group[j] == group[i])
        assert float(found[i]) == pytest.approx(float(right[i]) if solved else wanted, abs=1e-9)
        assert bool(said["truegain/unsolved"][i]) is not solved


def test_a_group_with_a_right_row_is_plain_grpo_on_the_outcome_and_another_is_not() -> None:
    correct, group = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 1, 1])
    steps, mask = torch.tensor([[9.0], [5.0], [1.0], [2.0]]), torch.ones(4, 1, dtype=torch.bool)
    shaped, _ = steps_if_unsolved(correct, steps, correct, group, progress=0.0)
    assert shaped.tolist() == [1.0, 0.0, 1.0, 2.0]
    plain, dense = group_normalise(correct, group, mask), group_normalise(shaped, group, mask)
    assert torch.equal(plain[:2], dense[:2]) and not plain[2:].any() and bool(dense[2:].all())


def test_steps_wait_for_their_share_of_the_run_and_malformed_rows_lose_all() -> None:
    assert replaced([0.0], [[3.0]], [0.0], [0], start=0.6)[0] == [0.0]
    assert replaced([0.0], [[3.0]], [0.0], [0], start=0.5)[0] == pytest.approx([3.0])
    assert replaced([0.0], [[NAN, NAN]], [0.0], [0])[0] == [0.0], "no step says nothing"
    assert malformed(torch.tensor([3.0]), torch.tensor([0.0])).tolist() == [-1.0]
    with pytest.raises(SettingError, match="sharpness=0"):
        replaced([0.0], [[1.0]], [0.0], [0], sharpness=0.0)


@given(count=st.integers(1, 8), sharpness=st.floats(0.1, 20), middle=st.floats(0, 1))
def test_weights_strictly_increase_with_the_step(count: int, sharpness: float, middle: float) -> None:
    # A step reward of 1 at one place and 0 elsewhere gives that step's weight.
    rows = torch.eye(count, dtype=torch.float64).tolist()
    knobs = {"sharpness": sharpness, "middle": middle, "average": False}
    weights = [replaced([0.0], [row], [0.0], [0], **knobs)[0][0] for row in rows]
    assert all(a < b for a, b in pairwise(weights))


@given(own=st.lists(st.booleans(), min_size=1, max_size=12), parts=st.integers(1, 6))
def test_shares_are_contiguous_as_equal_as_can_be_and_leave_no_step_out(own: list[bool], parts: int) -> None:
    spans = [(n, n + 1) if mine else (-1, -1) for n, mine in enumerate(own)]
    found = by_share("x" * len(own), spans, parts=parts)
    ids = [n for n, mine in zip(found, own, strict=True) if mine]
    assert [n for n, mine in zip(found, own, strict=True) if not mine] == [-1] * own.count(False)
    assert ids == sorted(ids) and set(ids) == set(range(min(parts, len(ids))))
    sizes = [ids.count(n) for n in set(ids)]
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    with pytest.raises(SettingError, match="1 or more"):
        by_share("a", [(0, 1)], parts=0)


def test_a_hint_ends_the_prompt_of_text_and_of_chat() -> None:
    assert _hinted(Problem("a", "q\n", "4"), "so {answer}").prompt == "q\nso 4"
    chat = Problem("a", ({"role": "user", "content": "q"},), "4")
    assert _hinted(chat, "so {answer}").prompt == ({"role": "user", "content": "q\nso 4"},)
    assert _hinted(chat, "") is chat


def test_what_is_left_of_a_chain_begins_at_each_part() -> None:
    assert _suffixes((1, 2, 3, 4, 5), 2) == [(1, 2, 3, 4, 5), (3, 4, 5)]
    assert _suffixes((1, 2), 4) == [(1, 2), (2,)]


def on_tiny(folder: Path, form: Any) -> tuple[Any, list[Rollout], list[Rollout], Any, Any]:
    """The batch, its rows, the candidates that the probe drew, the models and what the probe cost."""
    policy, seen = Policy.load("tiny"), list[Rollout]()
    with RunFolder(folder) as held:
        setup = Setup(form, policy, make("chain,level=4,style=trace"), held)
        models, state = load_models(form, policy, policy.reference()), State()
        rollouts = Draw(setup, models, state, "sampled", "train").fresh(2)
        drawn = Draw.again

        def again(self: Draw, *args: Any, **how: Any) -> Any:
            found = drawn(self, *args, **how)
            seen.extend(found)
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Draw, "again", again)
            made = shape(setup, models, state, rollouts)
            batch, spent = made.batch, made.spent
    return batch, rollouts, seen, models, spent


def test_gains_are_those_of_forward_passes_over_every_prefix_and_suffix(tmp_path: Path) -> None:
    form = loop_with(p2s(candidates=3, parts=3), prompts=2, samples=2, max_tokens=70)
    batch, rollouts, seen, models, spent = on_tiny(tmp_path / "run", form)
    policy = models["policy"].policy

    def mean_logp(start: tuple[int, ...], wanted: tuple[int, ...]) -> float:
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([[*start, *wanted]])).logits[0].log_softmax(-1)
        return sum(float(logits[len(start) - 1 + k, token]) for k, token in enumerate(wanted)) / len(wanted)

    def reasoning(text: str) -> tuple[int, ...]:
        return policy.encode(text.partition("</think>")[0].partition("<answer>")[0])

    def of_answer(row: Rollout) -> float:
        given_ids = (*row.prompt_ids, *reasoning(row.text), *policy.encode("</think><answer>"))
        return mean_logp(given_ids, policy.encode(str(row.problem.answer)))

    assert len(seen) == 6 and spent.probed > 0
    for i, row in enumerate(rollouts):
        pool = [c for c in seen if c.problem.id == row.problem.id and c.facts["answered"]]
        good = reasoning(max(pool, key=of_answer).text)
        left = [good[len(good) * t // 3 :] for t in range(3)]
        ids = batch["step"][i].tolist()
        for s in range(2):
            end = min(max(t for t, at in enumerate(ids) if at == s) + 1, len(reasoning(row.text)))
            start = (*row.prompt_ids, *row.ids[:end])
            wanted = max(mean_logp(start, suffix) - mean_logp(row.prompt_ids, suffix) for suffix in left)
            assert float(batch["step_reward"][i, s]) == pytest.approx(wanted, abs=1e-4)
        assert float(batch["step_reward"][i, 2]) == pytest.approx(of_answer(row), abs=1e-4)
    assert not batch["step_reward"].requires_grad


def test_without_a_well_formed_candidate_steps_gain_nothing_and_a_prefix_of_nothing_does_neither(
    tmp_path: Path,
) -> None:
    policy = Policy.load("tiny")
    form = p2s()
    with RunFolder(tmp_path / "run") as held:
        setup = Setup(form, policy, make("chain,level=4,style=trace"), held)
        models = load_models(form, policy, policy.reference())
        (first, *_) = Draw(setup, models, State(), "sampled", "train").fresh(1)

    class Loop:
        def __init__(self, *found: Rollout) -> None:
            self.found = found

        def again(self, problems: Any, count: int) -> list[Rollout]:
            return list(self.found)

    step = torch.tensor([[0, *[1] * (len(first.ids) - 1)]])
    nothing = path_faithfulness(models, Loop(), [first], step)["step_reward"]
    assert float(nothing[0, 0]) == 0.0 and float(nothing[0, 1]) < 0
    # Its reasoning is over before it begins: the first step is cut at the prompt, which is the masked prefix itself.
    ids = policy.encode("</think></think>")
    empty = Rollout(first.problem, first.prompt_ids, ids, (0.0,) * 2, "</think></think>", "eos", ())
    found = path_faithfulness(models, Loop(first), [empty], torch.tensor([[0, 1]]))["step_reward"]
    assert float(found[0, 0]) == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(SettingError, match="candidates=0"):
        path_faithfulness(models, Loop(), [first], step, candidates=0)
