"""The dictionary of columns and the batch that is checked against it."""

from __future__ import annotations

import re

import pytest
import torch
from core_checks import refused

from truegain.core.batch import Batch
from truegain.core.columns import COLUMNS, FACTS, GRADIENT, column
from truegain.core.errors import WiringError

LETTERS = set("BTSUMKHC")


@pytest.fixture
def batch() -> Batch:
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    return Batch(mask=mask, logp=-torch.rand(3, 3), group=torch.tensor([0, 0, 1]), reward=torch.tensor([1.0, 0.0, 2.0]))


@pytest.mark.parametrize("name", COLUMNS)
def test_every_column_says_what_it_is_in_one_line(name: str) -> None:
    found = column(name)
    assert re.fullmatch(r"[a-z][a-z_]*", name)
    assert set(found.shape.split(",")) <= LETTERS
    assert found.shape.startswith("B")
    assert found.kind in ("float", "int", "bool")
    assert found.provider
    assert found.line().startswith(f"{name}[{found.shape}] {found.kind}: {found.meaning}")
    assert "\n" not in found.line()


def test_columns_and_facts_share_no_name_and_gradient_columns_are_token_floats() -> None:
    assert not set(COLUMNS) & set(FACTS)
    assert all((COLUMNS[n].shape, COLUMNS[n].kind) == ("B,T", "float") for n in GRADIENT)


def test_an_unknown_column_is_refused_with_the_nearest_name() -> None:
    with refused(WiringError, "'old_logpp'", "did you mean 'old_logp'"):
        column("old_logpp")
    with refused(WiringError, "'rewards'", "did you mean 'reward'"):
        Batch(rewards=torch.zeros(2))


def test_a_batch_holds_its_columns_and_counts_its_rows(batch: Batch) -> None:
    assert (batch.rows, len(batch), set(batch)) == (3, 4, {"mask", "logp", "group", "reward"})
    assert Batch().rows == 0
    assert batch["reward"].tolist() == [1.0, 0.0, 2.0]


def test_asking_whether_a_column_is_there_does_not_raise(batch: Batch) -> None:
    assert "mask" in batch
    assert "old_logp" not in batch
    assert "no_column_at_all" not in batch


def test_a_missing_column_is_named_with_its_provider(batch: Batch) -> None:
    with refused(WiringError, "'ref_logp'", "missing", COLUMNS["ref_logp"].provider):
        batch["ref_logp"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"reward": torch.zeros(3, 2)}, ("'reward'", "(3, 2)", "[B]")),
        ({"mask": torch.ones(3, dtype=torch.bool)}, ("'mask'", "(3,)", "[B,T]")),
        ({"reward": torch.zeros(3), "group": torch.zeros(2, dtype=torch.long)}, ("'group'", "B=2", "have 3")),
        ({"logp": torch.zeros(2, 3), "mask": torch.ones(2, 4, dtype=torch.bool)}, ("'mask'", "T=4", "have 3")),
        ({"mask": torch.ones(2, 3)}, ("'mask'", "torch.float32", "bool")),
        ({"mask": torch.ones(2, 3, dtype=torch.long)}, ("'mask'", "torch.int64", "bool")),
        ({"reward": torch.zeros(3, dtype=torch.long)}, ("'reward'", "torch.int64", "float")),
        ({"group": torch.zeros(3)}, ("'group'", "torch.float32", "int")),
    ],
)
def test_a_wrong_shape_size_or_dtype_is_refused(wrong: dict[str, torch.Tensor], words: tuple[str, ...]) -> None:
    with refused(WiringError, *words):
        Batch(**wrong)


def test_letters_other_than_rows_and_tokens_may_differ_between_columns() -> None:
    assert Batch(reward_parts=torch.zeros(2, 3), test_pass=torch.zeros(2, 5)).rows == 2


def test_adding_gives_a_new_batch_and_never_replaces_a_column(batch: Batch) -> None:
    wider = batch.add(truncated=torch.zeros(3, dtype=torch.bool))
    assert "truncated" in wider
    assert "truncated" not in batch
    with refused(WiringError, "'reward'", "exists already"):
        wider.add(reward=torch.zeros(3))
    with refused(WiringError, "'truncated'", "B=2"):
        batch.add(truncated=torch.zeros(2, dtype=torch.bool))


def test_taking_rows_by_mask_and_by_index_keeps_every_column_aligned(batch: Batch) -> None:
    chosen = batch.take(torch.tensor([2, 0]))
    assert chosen["reward"].tolist() == [2.0, 1.0]
    assert chosen["group"].tolist() == [1, 0]
    assert torch.equal(chosen["mask"], batch["mask"][[2, 0]])
    assert batch.take(torch.tensor([False, True, False]))["reward"].tolist() == [0.0]
    none = batch.take(torch.zeros(3, dtype=torch.bool))
    assert (none.rows, none["mask"].shape) == (0, (0, 3))


def test_narrowing_cuts_token_columns_only(batch: Batch) -> None:
    cut = batch.add(step_reward=torch.ones(3, 3)).narrow(2)
    assert cut["mask"].shape == cut["logp"].shape == (3, 2)
    assert cut["step_reward"].shape == (3, 3)
    assert cut["reward"].shape == (3,)


def test_the_columns_of_a_batch_cannot_be_assigned(batch: Batch) -> None:
    with pytest.raises(TypeError):
        batch["reward"] = torch.zeros(3)  # type: ignore[index]
