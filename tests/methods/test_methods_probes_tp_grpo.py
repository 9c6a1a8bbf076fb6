"""TP-GRPO: thoughts as runs of steps with one label, and what each is paid."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError
from truegain.methods.credit import group_normalise, thought_rewards
from truegain.methods.credit._steps import steps_of
from truegain.methods.credit._thought_rewards import thoughts

NAN = float("nan")
LABELS = st.lists(st.sampled_from([1.0, -1.0, 0.0, NAN]), min_size=1, max_size=8)


def paid(labels: list[list[float]], correct: list[float], **knobs: Any) -> list[list[float]]:
    """Rows of one group, a token per step."""
    judged = torch.tensor(labels, dtype=torch.float64)
    step = torch.arange(judged.shape[1]).expand(judged.shape)
    group = torch.zeros(len(labels), dtype=torch.long)
    right = torch.tensor(correct, dtype=torch.float64)
    return thought_rewards(judged, right, group, step, step >= 0, **knobs).tolist()


def test_a_worked_example() -> None:
    # acc = 1/4: a right thought earns .5 * .25 = .125. Row 0 ends wrong, so its wrong thought costs .5; row 1 ends
    # right, so the same thought costs nothing.
    labels = [[1.0, -1.0, -1.0, 1.0]] * 4
    found = paid(labels, [0.0, 1.0, 0.0, 0.0])
    assert found[0] == [0.125, -0.5, -0.5, 0.125] and found[1] == [0.125, 0.0, 0.0, 0.125]
    # acc^2 = 1/16.
    assert paid(labels, [0.0, 1.0, 0.0, 0.0], power=2.0)[1] == [0.03125, 0.0, 0.0, 0.03125]
    # To the end: the thoughts .125, -.5, .125 of row 0 sum to -.25, -.375, .125, the middle one having two steps.
    assert paid(labels, [0.0, 1.0, 0.0, 0.0], spread="to_go")[0] == [-0.25, -0.375, -0.375, 0.125]


@given(labels=LABELS)
def test_thoughts_partition_the_steps_into_runs_of_one_label(labels: list[float]) -> None:
    step = torch.arange(len(labels))[None]
    found, begins = thoughts(torch.tensor([labels]), steps_of(step, step >= 0, torch.float32))
    number = begins[0].long().cumsum(0).tolist()
    clean = [0.0 if value != value else value for value in labels]
    assert found[0].tolist() == clean and number[0] == 1
    for s in range(1, len(labels)):
        assert number[s] - number[s - 1] == int(clean[s] != clean[s - 1])


@given(seed=st.integers(0, 1000), spread=st.sampled_from(["own", "to_go"]))
def test_it_agrees_with_a_slow_oracle(seed: int, spread: Any) -> None:
    rng = torch.Generator().manual_seed(seed)
    rows, tokens = 4, 8
    step = torch.randint(0, 2, (rows, tokens), generator=rng).cumsum(1)
    step[torch.rand(rows, tokens, generator=rng) < 0.25] = -1
    judged = torch.randint(-1, 2, (rows, 9), generator=rng).double()
    correct, group = torch.randint(0, 2, (rows,), generator=rng).double(), torch.tensor([0, 1, 0, 1])
    found = thought_rewards(judged, correct, group, step, step >= 0, right=0.7, wrong=0.3, spread=spread)
    for i in range(rows):
        mates = [float(correct[j]) for j in range(rows) if group[j] == group[i]]
        skill = sum(mates) / len(mates)
        runs: list[tuple[float, list[int]]] = []
        for s in sorted({int(s) for s in step[i] if s >= 0}):
            label = float(judged[i, s])
            if runs and runs[-1][0] == label:
                runs[-1][1].append(s)
            else:
                runs.append((label, [s]))
        loss = 0.3 if correct[i] == 0 and skill > 0 else 0.0
        pay = [0.7 * skill if label > 0 else -loss if label < 0 else 0.0 for label, _ in runs]
        for t in range(tokens):
            n = next((n for n, (_, own) in enumerate(runs) if int(step[i, t]) in own), None)
            wanted = 0.0 if n is None else sum(pay[n:]) if spread == "to_go" else pay[n]
            assert float(found[i, t]) == pytest.approx(wanted, abs=1e-12)


@given(labels=st.lists(st.sampled_from([1.0, -1.0]), min_size=3, max_size=3), spread=st.sampled_from(["own", "to_go"]))
def test_a_group_without_a_right_answer_has_the_outcome_alone(labels: list[float], spread: Any) -> None:
    assert paid([labels, labels], [0.0, 0.0], spread=spread) == [[0.0] * 3] * 2


@given(labels=LABELS)
def test_a_right_answer_has_no_negative_thought(labels: list[float]) -> None:
    assert min(paid([labels, labels], [1.0, 0.0])[0]) >= 0


def test_an_empty_judgement_leaves_grpo() -> None:
    reward, group = torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.long)
    step = torch.tensor([[0, 1], [0, 1]])
    plain = group_normalise(reward, group, step >= 0)
    for judged in (torch.zeros(2, 0), torch.full((2, 2), NAN), torch.zeros(2, 2)):
        both = plain + thought_rewards(judged, reward, group, step, step >= 0)
        assert torch.equal(both, plain)


@pytest.mark.parametrize("knobs", [{"right": -1.0}, {"wrong": -0.1}, {"power": 0.0}])
def test_knobs_out_of_bounds_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="thought_rewards"):
        paid([[1.0]], [1.0], **knobs)
