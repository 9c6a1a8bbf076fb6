"""The contract of tensor components, one check per clause. Each takes a member and raises AssertionError."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from typing import Any, Literal

import torch
from random_columns import changed, emptied, facts, padded, poisoned, random_batch
from torch import Tensor

from truegain.core.batch import Batch
from truegain.core.columns import COLUMNS, GRADIENT
from truegain.core.component import Member, Spec, call, spec_of

TENSOR_KINDS = ("reward", "select", "credit", "weight", "surrogate", "plan")
PER_TOKEN = ("credit", "weight", "surrogate")


def variants(spec: Spec) -> dict[str, Member]:
    """The component as it is, and with every other choice of each knob that is a choice of words."""
    found: dict[str, Member] = {spec.full_name: spec.function}
    hints = typing.get_type_hints(spec.function)
    for knob, default in spec.knobs.items():
        if typing.get_origin(hints.get(knob)) is Literal:
            for word in typing.get_args(hints[knob]):
                if word != default:
                    member = functools.partial(spec.function, **{knob: word})
                    found[f"{spec.full_name}[{knob}={word}]"] = member
    return found


def value_of(member: Member, batch: Batch) -> Tensor:
    return call(member, batch, facts(batch["mask"].shape[1]))[0]


def named_by(member: Member, batch: Batch) -> Batch:
    """The columns that a member names, and those that every check reads: quicker to change than all."""
    return Batch(**{name: batch[name] for name in {*spec_of(member).inputs, "mask", "group"}})


def _floats(batch: Batch, member: Member) -> list[str]:
    return [name for name in spec_of(member).inputs if COLUMNS[name].kind == "float"]


def check_shape_and_dtype(member: Member, seed: int) -> None:
    spec = spec_of(member)
    for dtype in (torch.float32, torch.float64):
        kept = random_batch(seed, dtype=dtype)
        batch = Batch(**{name: value.clone() for name, value in kept.items()})
        value = value_of(member, batch)
        rows, tokens = batch["mask"].shape
        if spec.kind == "plan":
            assert value.shape[1:] == (rows, tokens)
            assert value.dtype == torch.bool
            continue
        assert value.shape == ((rows, tokens) if spec.kind in PER_TOKEN else (rows,))
        assert value.dtype == (dtype if _floats(batch, member) else torch.float32), f"{dtype} became {value.dtype}"


def check_float32_agrees_with_float64(member: Member, seed: int) -> None:
    exact = random_batch(seed)
    rough = Batch(**{n: v.float() if v.is_floating_point() else v for n, v in exact.items()})
    torch.testing.assert_close(
        value_of(member, rough), value_of(member, exact), check_dtype=False, rtol=1e-3, atol=1e-4, equal_nan=True
    )


def _same(found: Tensor, wanted: Tensor, message: str) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9, msg=lambda text: f"{message}: {text}")


def check_padding_is_inert(member: Member, batch: Batch, extra: int) -> None:
    wide = padded(batch, extra)
    # The fact is the run's, not the batch's width: it stays.
    told = facts(batch["mask"].shape[1])
    narrow_value, wide_value = call(member, batch, told)[0], call(member, wide, told)[0]
    kind, mask = spec_of(member).kind, batch["mask"]
    if kind == "plan":
        assert torch.equal(wide_value[..., : mask.shape[1]] & mask, narrow_value & mask)
    elif kind in PER_TOKEN:
        _same(wide_value[:, : mask.shape[1]][mask], narrow_value[mask], "padding changes values inside the mask")
        if kind == "weight":
            assert torch.equal(wide_value[~wide["mask"]], torch.zeros_like(wide_value[~wide["mask"]]))
    else:
        _same(wide_value, narrow_value, "padding changes values")


def check_row_order_is_inert(member: Member, batch: Batch, seed: int) -> None:
    if spec_of(member).kind == "plan":
        return  # A plan may cut by row number; what it may not do is lose a token, which its own test shows.
    order = torch.randperm(batch.rows, generator=torch.Generator().manual_seed(seed))
    mask = batch["mask"]
    value, moved = value_of(member, batch), value_of(member, batch.take(order))
    wanted = value[order]
    if spec_of(member).kind in PER_TOKEN:
        wanted, moved = wanted[mask[order]], moved[mask[order]]
    _same(moved, wanted, "the order of rows changes values")


def check_group_numbers_are_inert(member: Member, batch: Batch) -> None:
    if spec_of(member).kind == "plan":
        return
    renamed = changed(batch, group=(batch["group"].max() - batch["group"]))
    mask = batch["mask"] if spec_of(member).kind in PER_TOKEN else torch.ones(batch.rows, dtype=torch.bool)
    _same(value_of(member, renamed)[mask], value_of(member, batch)[mask], "renumbering groups changes values")


def check_groups_of_one_are_finite(member: Member, seed: int) -> None:
    batch = random_batch(seed, rows=4, groups=(1, 1))
    value = value_of(member, batch)
    chosen = value[batch["mask"]] if spec_of(member).kind in PER_TOKEN else value
    assert chosen.isfinite().all(), "a group of one row gives a value that is not finite"


def check_equal_rewards_give_no_advantage(member: Member, seed: int) -> None:
    """For credit relative to a group: it names both ``group`` and ``reward``, and does not modify another's."""
    spec = spec_of(member)
    if spec.kind != "credit" or not {"group", "reward"} <= set(spec.inputs) or spec.modifies:
        return
    for level in (0.1, -3.7):
        batch = random_batch(seed, rows=12, groups=(2, 5))
        value = value_of(member, changed(batch, reward=torch.full((12,), level, dtype=torch.float64)))
        assert not value[batch["mask"]].any(), "equal rewards must give exactly zero"


def check_an_all_masked_row_is_harmless(member: Member, seed: int) -> None:
    batch = emptied(random_batch(seed), row=1)
    value = value_of(member, batch)
    kind = spec_of(member).kind
    if kind == "plan":
        assert not (value & batch["mask"])[:, 1].any()
        return
    assert value.isfinite().all(), "an all-masked row gives a value that is not finite"
    if kind == "weight":
        assert not value[1].any(), "an all-masked row has weight"
        rest = torch.arange(batch.rows) != 1
        _same(value_of(member, batch.take(rest)), value[rest], "an all-masked row changes the weight of others")


def check_the_answer_repeats(member: Member, seed: int) -> None:
    kept = random_batch(seed)
    batch = Batch(**{name: value.clone() for name, value in kept.items()})
    first = value_of(member, batch)
    for name, value in batch.items():
        assert torch.equal(value.nan_to_num(), kept[name].nan_to_num()), f"the component writes into {name!r}"
    assert torch.equal(first, value_of(member, batch)), "the same input gave two answers"


def _surrogate_gradient(member: Member, batch: Batch) -> dict[str, Tensor]:
    leaves = {n: batch[n].clone().requires_grad_() for n in spec_of(member).inputs if n in GRADIENT}
    loss = value_of(member, changed(batch, **leaves)).masked_fill(~batch["mask"], 0.0).sum()
    assert loss.requires_grad, "the surrogate has no gradient"
    loss.backward()
    return {n: torch.zeros_like(v) if v.grad is None else v.grad for n, v in leaves.items()}


def check_surrogates_have_a_finite_gradient(member: Member, seed: int) -> None:
    """And one that says nothing about a token which the policy did not choose."""
    if spec_of(member).kind != "surrogate":
        return
    batch = random_batch(seed)
    clean, dirty = _surrogate_gradient(member, batch), _surrogate_gradient(member, poisoned(batch))
    assert clean, "a surrogate must name a column that carries gradient"
    for name, grad in clean.items():
        assert grad.isfinite().all()
        _same(dirty[name][batch["mask"]], grad[batch["mask"]], "NaN outside the mask changes the gradient inside it")
    assert any(grad.any() for grad in clean.values()), "the surrogate has no gradient"


def check_no_advantage_gives_no_gradient(member: Member, seed: int) -> None:
    """The arithmetic relies on it: rows without advantage are left out of the pass."""
    if spec_of(member).kind != "surrogate" or "advantage" not in spec_of(member).inputs:
        return
    batch = random_batch(seed)
    for name, grad in _surrogate_gradient(member, changed(batch, advantage=torch.zeros_like(batch["logp"]))).items():
        assert not grad.any(), f"a zero advantage gives a gradient to {name!r}"


def check_surrogates_do_not_mix_micro_batches(member: Member, seed: int) -> None:
    """Rows alone give what rows together give; a surrogate that names ``group`` sees groups whole."""
    if spec_of(member).kind != "surrogate":
        return
    batch = random_batch(seed)
    chosen = batch["group"] < 2 if "group" in spec_of(member).inputs else torch.arange(batch.rows) % 3 != 1
    mask = batch["mask"][chosen]
    _same(
        value_of(member, batch.take(chosen))[mask],
        value_of(member, batch)[chosen][mask],
        "a row's loss depends on the rows beside it",
    )


def check_select_keeps_or_drops(member: Member, seed: int) -> None:
    if spec_of(member).kind == "select":
        value = value_of(member, random_batch(seed))
        assert ((value == 0) | (value == 1)).all(), "selection gives 0 or 1, nothing between"


SEEDED: tuple[Callable[[Any, int], None], ...] = (
    check_shape_and_dtype,
    check_float32_agrees_with_float64,
    check_groups_of_one_are_finite,
    check_equal_rewards_give_no_advantage,
    check_an_all_masked_row_is_harmless,
    check_the_answer_repeats,
    check_surrogates_have_a_finite_gradient,
    check_no_advantage_gives_no_gradient,
    check_surrogates_do_not_mix_micro_batches,
    check_select_keeps_or_drops,
)
