"""S-GRPO: exits along one path, ordered from early to late, the earliest right one earning most."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from length_runs import two_steps

import truegain.recipes  # noqa: F401  registers them
from truegain.core.component import spec_of
from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import members
from truegain.core.system import build
from truegain.core.types import Problem, Rollout, Turn
from truegain.methods.credit import fork_cuts, group_normalise
from truegain.methods.length import earliest_right, early_exits
from truegain.policy.policy import Policy
from truegain.tasks import make
from truegain.train.drawing import Draw
from truegain.train.folder import RunFolder
from truegain.train.models import load_models
from truegain.train.online import check
from truegain.train.setup import Setup, State

ROWS = st.lists(st.tuples(st.booleans(), st.integers(-1, 9), st.integers(0, 2)), min_size=1, max_size=12)


def paid(right: list[float], cut: list[int], group: list[int], decay: float = 2.0) -> list[float]:
    one = torch.ones(len(right), 1, dtype=torch.bool)
    given_right = torch.tensor(right, dtype=torch.float64)
    return earliest_right(given_right, torch.tensor(group), torch.tensor(cut), one, decay=decay).tolist()


def test_the_worked_example_of_the_catalog() -> None:
    # Right exits 2, 3 and 5 earn 1, 1/2, 1/4; their mean .35 is taken off, and nothing divides.
    found = paid([0, 1, 1, 0, 1], [1, 2, 3, 4, -1], [0] * 5)
    assert found == [0.0, 1.0, 0.5, 0.0, 0.25]
    one = torch.ones(5, 1, dtype=torch.bool)
    advantage = group_normalise(torch.tensor(found), torch.zeros(5).long(), one, std="none")[:, 0]
    assert advantage.tolist() == pytest.approx([-0.35, 0.65, 0.15, -0.35, -0.1])
    assert float(advantage.sum()) == pytest.approx(0.0, abs=1e-6)


@given(rows=ROWS, decay=st.sampled_from([1.0, 2.0, 3.0, float("inf")]))
def test_it_agrees_with_a_slow_oracle(rows: list[tuple[bool, int, int]], decay: float) -> None:
    order = sorted({g for _, _, g in rows})
    right, cut, group = [float(r) for r, _, _ in rows], [c for _, c, _ in rows], [order.index(g) for _, _, g in rows]
    wanted = [0.0] * len(rows)
    for g in set(group):
        own = [i for i in range(len(rows)) if group[i] == g]
        place = {i: cut[i] if cut[i] >= 0 else 99 for i in own}
        for i in own:
            if right[i]:
                n = sum(right[j] > 0 and place[j] < place[i] for j in own)
                wanted[i] = 1.0 if n == 0 else decay**-n
    assert paid(right, cut, group, decay) == pytest.approx(wanted)


def test_rewards_of_right_exits_fall_from_early_to_late_and_a_wrong_one_uses_up_no_level() -> None:
    assert paid([1, 1, 1, 1], [-1, 7, 2, 4], [0] * 4) == [0.125, 0.25, 1.0, 0.5]
    assert paid([0, 0, 1], [1, 2, 3], [0] * 3) == [0.0, 0.0, 1.0]


def test_a_decay_of_1_is_the_outcome_and_an_all_wrong_group_earns_nothing() -> None:
    assert paid([1, 0, 1], [2, 3, -1], [0] * 3, decay=1.0) == [1.0, 0.0, 1.0]
    assert paid([0, 0], [2, -1], [0] * 2) == [0.0, 0.0]
    assert paid([1], [-1], [0]) == [1.0]
    with pytest.raises(SettingError, match=r"decay=0\.5"):
        paid([1], [-1], [0], decay=0.5)


def test_parents_may_be_left_out_of_the_cuts() -> None:
    base = Rollout(Problem("a", "a"), (), (1, 2, 3), (0.0,) * 3, "", "eos", (), key=7)
    rows = [base, replace(base, key=8, parent="7", cut=2)]
    assert fork_cuts(rows)["cut"].tolist() == [2, 2]
    assert fork_cuts(rows, parents=False)["cut"].tolist() == [-1, 2]


def exits_of(folder: Path, **knobs: Any) -> tuple[list[Rollout], list[Rollout], Any]:
    """Paths of the embedded model on sort traces, their exits, and the policy."""
    (form,) = build("s-grpo")
    loop = form.loop.model_copy(update={"prompts": 2, "max_tokens": 60})
    with RunFolder(folder) as held:
        setup = Setup(replace(form, loop=loop), Policy.load("tiny"), make("sort,level=4,style=trace"), held)
        models, state = load_models(setup.form, setup.policy, setup.policy.reference()), State()
        draw = Draw(setup, models, state, "resampled", "length.early_exits")
        paths = draw.fresh(2)
        found = early_exits(models, draw, paths, **knobs)
        score = models["policy"].engine.score
    return paths, list(found.add), score


def test_exits_leave_the_thought_at_different_places_and_answer_at_once(tmp_path: Path) -> None:
    paths, exits, score = exits_of(tmp_path / "run", exits=5)
    policy = Policy.load("tiny")
    closing = policy.encode("</think>")
    assert len(exits) == 10
    for path in paths:
        own = [r for r in exits if r.parent == str(path.key)]
        thought = len(policy.encode(path.text.partition("</think>")[0]))
        cuts = [r.cut for r in own]
        assert cuts == sorted(set(cuts)) and all(1 <= cut <= thought for cut in cuts if cut is not None)
        for r in own:
            assert r.cut is not None and r.problem.id == path.problem.id and "correct" in r.facts
            assert r.ids[: r.cut] == path.ids[: r.cut]
            assert r.ids[r.cut : r.cut + 1] == closing
            assert r.text.startswith(policy.decode(path.ids[: r.cut]) + "</think><answer>")
            # The mark that ends the thought is the policy's own; the one that opens the answer is not.
            assert r.mask[r.cut] and not r.mask[r.cut + 1] and all(r.mask[r.cut + 2 :])
            trunk = (*r.prompt_ids, *r.ids[: r.cut])
            from truegain.core.types import Request

            (known,) = score([Request(trunk, suffix=closing)])
            assert r.engine_logp[r.cut] == pytest.approx(known[0], abs=1e-5)


def test_the_places_are_the_same_each_time_and_the_closing_mark_can_be_left_out(tmp_path: Path) -> None:
    _, first, _ = exits_of(tmp_path / "a", exits=3)
    _, again, _ = exits_of(tmp_path / "b", exits=3, trained="nothing")
    assert [r.cut for r in first] == [r.cut for r in again]
    assert all(not r.mask[r.cut] for r in again if r.cut is not None)


def test_a_short_thought_has_fewer_exits_and_an_empty_one_none() -> None:
    def row(text: str) -> Rollout:
        said = (Turn("policy", 0, len(text)),)
        return Rollout(Problem("a", "a"), (), tuple(range(len(text))), (0.0,) * len(text), text, "eos", said)

    def loop(text: str) -> Any:
        policy = SimpleNamespace(encode=lambda cue: (9,), decode=lambda ids: text[: len(ids)])
        fork = lambda places, n, **how: [replace(r, cut=cut) for r, cut in places]  # noqa: E731
        return {"policy": SimpleNamespace(policy=policy)}, SimpleNamespace(round=0, samples=1, fork=fork)

    for text, count in (("abc</think>1", 3), ("</think>1", 0), ("", 0)):
        roles, draw = loop(text)
        found = inspect.unwrap(early_exits)(roles, draw, [row(text)], trained="nothing").add
        assert sorted(r.cut for r in found) == list(range(1, count + 1))
    roles, draw = loop("abc")
    draw.round = 1
    assert not early_exits(roles, draw, [row("abc")], trained="nothing").add, "one round per step"


def test_several_samples_or_bad_knobs_or_merging_tokens_are_refused() -> None:
    loop = SimpleNamespace(round=0, samples=4)
    with pytest.raises(SettingError, match=r"loop\.samples must be 1, not 4"):
        early_exits({}, loop, [])
    for knobs in ({"exits": 0}, {"max_tokens": 0}):
        with pytest.raises(SettingError, match="early_exits"):
            early_exits({}, loop, [], **knobs)
    # A tokenizer that pairs characters: `x</think>` does not hold the tokens of `x` and then those of `</think>`.
    pairs = SimpleNamespace(
        encode=lambda text: tuple(hash(text[i : i + 2]) % 1000 for i in range(0, len(text), 2)),
        decode=lambda ids: "abc"[: len(ids)],
    )
    row = Rollout(Problem("a", "a"), (), (1, 2, 3), (0.0,) * 3, "abc", "eos", (Turn("policy", 0, 3),))
    loop = SimpleNamespace(round=0, samples=1, fork=lambda places, n, **how: [replace(r, cut=c) for r, c in places])
    with pytest.raises(SettingError, match="merge with what stands beside it"):
        early_exits({"policy": SimpleNamespace(policy=pairs)}, loop, [row], inducer="x")


@pytest.mark.parametrize("prefix", [True, False])
def test_two_steps_are_finite(tmp_path: Path, prefix: bool) -> None:
    lines = two_steps(tmp_path / "run", "s-grpo", prefix=prefix, exits=3)
    assert all(line["truegain/rows"] == 12 for line in lines), "three paths with three exits each"


def test_the_recipe_orders_rows_by_their_cut_and_needs_an_exact_check() -> None:
    (form,) = build("s-grpo", decay=4.0, prefix=False)
    assert [spec_of(m).name for m in members(form.terms[0].weight)] == ["sequence_mean", "after_cut"]

    class Unchecked:
        name, supplies = "unchecked", ("score",)

    with pytest.raises(WiringError, match="needs column 'correct', which task 'unchecked' does not supply"):
        check(form, Unchecked())  # pyright: ignore[reportArgumentType]
