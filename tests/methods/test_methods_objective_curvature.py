"""CAPO: the foreseen change of objective and policy against derivations, a slow oracle and finite differences."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import truegain.recipes  # noqa: F401  (fills the systems)
from truegain.core.component import call, component
from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import Loop
from truegain.core.moments import Moments
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.methods.objective import curvature_gate
from truegain.policy.candidates import token_candidates
from truegain.policy.policy import Policy
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.models import policy_model
from truegain.train.online import Setup, train

SEEDS = st.integers(0, 1000)


def columns(seed: int, rows: int = 3, width: int = 4, vocabulary: int = 5, size: int = 3) -> dict[str, Tensor]:
    """Rows of 1 to ``width`` tokens under a linear-softmax policy, all of the vocabulary as candidates, float64."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, size, generator=rng, dtype=torch.float64)
    weight = torch.randn(vocabulary, size, generator=rng, dtype=torch.float64)
    logp, ids = (hidden @ weight.T).log_softmax(-1).sort(-1)
    lengths = torch.randint(1, width + 1, (rows, 1), generator=rng)
    return {
        "tokens": torch.randint(vocabulary, (rows, width), generator=rng),
        "hidden": hidden,
        "top_ids": ids,
        "top_logp": logp,
        "advantage": torch.randn(rows, width, generator=rng, dtype=torch.float64),
        "mask": torch.arange(width) < lengths,
    }


def foreseen(found: dict[str, Tensor], **knobs: Any) -> tuple[Tensor, Tensor, Tensor]:
    knobs = {"step_size": 0.3, "head_moments": None, "direction": "gradient", **knobs}
    keep, logs = curvature_gate(**found, **knobs)  # pyright: ignore[reportArgumentType]
    return keep, logs["truegain/objective_shift"], logs["truegain/policy_shift"]


def oracle(found: dict[str, Tensor], lr: float, moments: Moments | None, direction: str, base: str, update: str) -> Any:
    """(m_H, m_F) by token, term by term in plain Python, per-token outer products and all."""
    vocabulary, size = found["top_ids"].shape[2], found["hidden"].shape[2]
    mask = found["mask"].tolist()
    at = [(i, t) for i, row in enumerate(mask) for t, inside in enumerate(row) if inside]
    counts = [sum(row) for row in mask]
    share = {(i, t): 1 / (counts[i] * sum(c > 0 for c in counts)) if base == "sequence" else 1 / len(at) for i, t in at}
    probs, v = {}, {}
    for i, t in at:
        pi = [0.0] * vocabulary
        for j, value in zip(found["top_ids"][i, t].tolist(), found["top_logp"][i, t].tolist(), strict=True):
            pi[j] = math.exp(value)
        probs[i, t] = pi
        v[i, t] = [float(j == int(found["tokens"][i, t])) - pi[j] for j in range(vocabulary)]
    out = {}
    for i, t in at:
        asked = {(i, t): 1.0} if update == "own" else share
        u = directed(found, asked, v, moments, direction, vocabulary, size, found["hidden"][i, t])
        slope = sum(a * b for a, b in zip(v[i, t], u, strict=True))
        mean = sum(p * x for p, x in zip(probs[i, t], u, strict=True))
        spread = sum(p * (x - mean) ** 2 for p, x in zip(probs[i, t], u, strict=True))
        out[i, t] = (
            float(found["advantage"][i, t]) * (lr * slope + lr**2 / 2 * (slope**2 - spread)),
            lr**2 / 2 * slope**2,
        )
    return out


def directed(
    found: dict[str, Tensor],
    share: dict[tuple[int, int], float],
    v: dict[tuple[int, int], list[float]],
    moments: Moments | None,
    direction: str,
    vocabulary: int,
    size: int,
    state: Tensor,
) -> list[float]:
    """``u = G h`` where G is made of the gradients of the tokens in ``share``."""
    u = [0.0] * vocabulary
    for j in range(vocabulary):
        for d in range(size):
            g = sum(
                w * float(found["advantage"][at]) * v[at][j] * float(found["hidden"][*at, d]) for at, w in share.items()
            )
            if direction == "adam":
                m, s, n, b1, b2, eps = 0.0, 0.0, 0, 0.9, 0.99, 1e-8
                if moments is not None:
                    m, s, n = -float(moments.first[j, d]), float(moments.second[j, d]), moments.steps
                    b1, b2, eps = moments.beta1, moments.beta2, moments.eps
                m, s, n = b1 * m + (1 - b1) * g, b2 * s + (1 - b2) * g * g, n + 1
                g = m / (1 - b1**n) / (math.sqrt(s / (1 - b2**n)) + eps)
            u[j] += g * float(state[d])
    return u


def test_a_worked_example() -> None:
    # v = (1,0,0) - (.5,.3,.2) = (.5,-.3,-.2), |h|^2 = 1.25, u = 1.25 v = (.625,-.375,-.25).
    # v.u = 1.25 * .38 = .475; E u = .3125 - .1125 - .05 = .15; E u^2 = .1953 + .0422 + .0125 = .25; Var = .2275.
    # H_q = .475^2 - .2275 = -.001875; m_H = .1 * .475 + .005 * -.001875 = .047491; m_F = .005 * .225625 = .001128.
    found = {
        "tokens": torch.zeros(1, 1, dtype=torch.long),
        "hidden": torch.tensor([[[1.0, 0.5]]], dtype=torch.float64),
        "top_ids": torch.arange(3)[None, None],
        "top_logp": torch.tensor([[[0.5, 0.3, 0.2]]], dtype=torch.float64).log(),
        "advantage": torch.ones(1, 1, dtype=torch.float64),
        "mask": torch.ones(1, 1, dtype=torch.bool),
    }
    keep, on_objective, on_policy = foreseen(found, step_size=0.1, policy_limit=0.0012, objective_limit=0.05)
    assert float(on_objective) == pytest.approx(0.047490625) and float(on_policy) == pytest.approx(0.001128125)
    assert keep.tolist() == [[1.0]]
    assert foreseen(found, step_size=0.1, policy_limit=0.0011, objective_limit=0.05)[0].tolist() == [[0.0]]
    assert foreseen(found, step_size=0.1, policy_limit=0.0012, objective_limit=0.047)[0].tolist() == [[0.0]]


@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS,
    direction=st.sampled_from(["adam", "gradient"]),
    base=st.sampled_from(["sequence", "token"]),
    update=st.sampled_from(["own", "batch"]),
)
def test_it_agrees_with_a_slow_oracle(seed: int, direction: Any, base: Any, update: Any) -> None:
    found = columns(seed)
    rng = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(5, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    for moments in (None, Moments(0.1 * first, 0.01 * second**2, 3, 0.8, 0.95, 1e-6)):
        _, *shifts = foreseen(found, head_moments=moments, direction=direction, base=base, update=update)
        for (i, t), wanted in oracle(found, 0.3, moments, direction, base, update).items():
            for shift, number in zip(shifts, wanted, strict=True):
                assert float(shift[i, t]) == pytest.approx(number, rel=1e-9, abs=1e-12)


@given(seed=SEEDS)
def test_the_first_order_term_is_the_product_of_the_tokens_gradient_and_the_update(seed: int) -> None:
    found = columns(seed, rows=1, width=1)
    # With one token the update is its own gradient, so <g, G> = |g|^2 = A^2 |v|^2 |h|^2.
    pi = torch.zeros(5, dtype=torch.float64).scatter(0, found["top_ids"][0, 0], found["top_logp"][0, 0].exp())
    v = torch.nn.functional.one_hot(found["tokens"][0, 0], 5) - pi
    size = float(found["advantage"] ** 2 * (v @ v) * (found["hidden"] ** 2).sum())
    assert float(foreseen(found, step_size=1e-7)[1]) == pytest.approx(1e-7 * size, rel=1e-4)


@given(seed=SEEDS)
def test_a_token_is_judged_by_the_update_that_it_asks_for_itself_and_not_by_the_others(seed: int) -> None:
    found = columns(seed)
    _, *whole = foreseen(found, direction="adam")
    row = {name: column[1:2] for name, column in found.items()}
    for alone, among in zip(foreseen(row, direction="adam")[1:], whole, strict=True):
        torch.testing.assert_close(alone[0], among[1])


def test_a_token_that_is_no_candidate_counts_as_one_of_probability_0() -> None:
    found = columns(3, rows=1, width=1) | {"tokens": torch.tensor([[7]])}
    # v = e_7 - pi over six tokens, so |v|^2 = 1 + sum pi^2, and along its own gradient v.u = A |v|^2 |h|^2.
    square = 1 + float((found["top_logp"].exp() ** 2).sum())
    slope = float(found["advantage"]) * square * float((found["hidden"] ** 2).sum())
    for update in ("own", "batch"):
        assert float(foreseen(found, update=update)[2]) == pytest.approx(0.5 * (0.3 * slope) ** 2)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_both_numbers_are_those_of_the_real_policy_after_the_update(seed: int) -> None:
    """Second order of the ratio surrogate and of the KL, by moving the weights of a linear-softmax policy."""
    rng = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, 3, generator=rng, dtype=torch.float64) for n in (6, 5))
    tokens, advantage = torch.randint(5, (6,), generator=rng), torch.randn(6, generator=rng, dtype=torch.float64)
    old = (hidden @ weight.T).log_softmax(-1)
    one, all_ids = torch.ones(6, 1, dtype=torch.bool), torch.arange(5).expand(6, 1, 5)
    found = (tokens[:, None], hidden[:, None], all_ids, old[:, None], advantage[:, None], one)
    v = torch.nn.functional.one_hot(tokens, 5) - old.exp()
    update = (advantage[:, None] * v).T @ hidden / 6
    lr = 1e-3
    _, logs = curvature_gate(*found, step_size=lr, head_moments=None, direction="gradient", update="batch")
    new = (hidden @ (weight + lr * update).T).log_softmax(-1)
    at = torch.arange(6)
    ratio = (new - old)[at, tokens].exp()
    torch.testing.assert_close(
        logs["truegain/objective_shift"][:, 0],
        advantage * (ratio - 1),
        rtol=0,
        atol=20 * lr**3 * float(update.abs().sum()) ** 3,
    )
    moved = (new - old)[at, tokens] ** 2 / 2
    torch.testing.assert_close(logs["truegain/policy_shift"][:, 0], moved, rtol=0.05, atol=1e-3 * lr**2)


@given(seed=SEEDS, per=st.sampled_from(["token", "sequence", "batch"]))
def test_without_limits_every_token_is_kept(seed: int, per: Any) -> None:
    found = columns(seed)
    for limit in (0.0, math.inf):
        keep, _, on_policy = foreseen(found, step_size=50.0, policy_limit=limit, objective_limit=limit, per=per)
        assert torch.equal(keep, found["mask"].double()) and (on_policy >= 0).all()


def test_one_sided_drops_what_the_update_would_harm() -> None:
    found = columns(4, rows=8)
    keep, on_objective, _ = foreseen(found, update="batch", one_sided=True, objective_limit=1e9, policy_limit=0.0)
    assert torch.equal(keep.bool(), found["mask"] & (on_objective >= 0)) and (on_objective < 0).any()


def test_averages_are_tested_over_a_row_or_over_all() -> None:
    found = columns(5)
    _, single, _ = foreseen(found)
    lengths = found["mask"].sum(1, keepdim=True)
    _, by_row, _ = foreseen(found, per="sequence")
    torch.testing.assert_close(by_row, (single.sum(1, keepdim=True) / lengths) * found["mask"])
    _, by_batch, _ = foreseen(found, per="batch")
    torch.testing.assert_close(by_batch, single.sum() / lengths.sum() * found["mask"])


@pytest.mark.parametrize("update", ["own", "batch"])
def test_slices_of_tokens_change_nothing(update: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = foreseen(columns(7), update=update)
    monkeypatch.setattr(sys.modules[curvature_gate.__module__], "SLICE_BYTES", 1)
    for a, b in zip(foreseen(columns(7), update=update), whole, strict=True):
        torch.testing.assert_close(a, b)


def test_no_token_and_numbers_that_are_not_finite_keep_nothing() -> None:
    found = columns(2)
    nothing = found | {"mask": torch.zeros_like(found["mask"])}
    assert not foreseen(nothing)[0].any()
    broken = found | {"hidden": found["hidden"].clone()}
    broken["hidden"][0, 0] = math.nan
    assert not foreseen(broken)[0][0, 0]


@pytest.mark.parametrize("knobs", [{"policy_limit": -1.0}, {"objective_limit": -1.0}])
def test_knobs_out_of_bounds_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="curvature_gate"):
        foreseen(columns(0), **knobs)


def test_candidates_are_the_models_own_distribution_and_hold_the_token_that_stands_there() -> None:
    policy = Policy.load("tiny")
    prompts = [policy.encode("sort 3 1 2\n"), policy.encode("add 4 5\n")]
    tokens = torch.tensor([[5, 6, 7], [9, 8, 0]])
    found = token_candidates(policy, prompts, tokens, torch.tensor([3, 2]), 4, temperature=0.7)
    ids = torch.tensor([[*prompts[0], 5, 6, 7]])
    logits = policy.model(input_ids=ids).logits[0, len(prompts[0]) - 1 : -1] / 0.7
    scores = logits.log_softmax(-1)
    for t in range(3):
        torch.testing.assert_close(found["top_logp"][0, t], scores[t, found["top_ids"][0, t]], atol=1e-4, rtol=1e-4)
    assert (found["top_ids"] == tokens[..., None]).any(-1)[torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()].all()
    best = scores.topk(3).indices
    assert all(set(best[t].tolist()) <= set(found["top_ids"][0, t].tolist()) for t in range(3))
    head = policy.model.get_output_embeddings()
    torch.testing.assert_close((found["hidden"][0] @ head.weight.T).log_softmax(-1), scores, atol=1e-4, rtol=1e-4)
    assert not found["hidden"][1, 2].any()


def test_a_policy_without_a_linear_unembedding_is_refused_before_training() -> None:
    with pytest.raises(WiringError, match=r"'hidden'.*linear unembedding.*another --model"):
        token_candidates(Policy.load("table"), [(1,)], torch.tensor([[2]]), torch.tensor([1]), 4)


def test_without_limits_the_recipe_is_grpo() -> None:
    (form,) = build("capo", policy_limit=0.0, objective_limit=0.0)
    (term,) = form.terms
    (plain,) = build("grpo")
    assert term.weight[0] is plain.terms[0].weight[0] and term.credit == plain.terms[0].credit


def test_two_real_steps_on_the_embedded_model_use_its_own_moments(tmp_path: Path) -> None:
    (form,) = build("capo")
    form = loop_with(form, steps=2, prompts=4, samples=8, max_tokens=24, eval_every=0, save_every=0)
    with RunFolder(tmp_path / "run") as folder:
        lines = list(train(Setup(form, Policy.load("tiny"), make("sort"), folder, 0), lambda: None))
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 2 and all(0 < line["truegain/curvature_kept"] <= 1 for line in steps)
    assert any(line["truegain/policy_shift"] > 0 for line in steps)


def test_moments_are_those_of_the_policys_optimiser() -> None:
    policy = Policy.load("tiny")
    model = policy_model(policy, Loop(lr=0.1))
    assert model.head_moments() is None
    head = policy.model.get_output_embeddings().weight
    before = head.detach().clone()
    for gradient in (torch.ones_like(head), -3 * torch.ones_like(head)):
        held = model.head_moments()
        head.grad = gradient
        rows = torch.arange(len(head))
        wanted = -gradient / (gradient.abs() + 1e-8) if held is None else held.ascent(-gradient, rows)
        model.step()
        torch.testing.assert_close(head.detach() - before, 0.1 * wanted, rtol=1e-3, atol=1e-5)
        before = head.detach().clone()


def test_only_a_weight_may_name_a_costly_column() -> None:
    with pytest.raises(WiringError, match="only a weight can name it"):

        @component("credit", cite="truegain")
        def doubtful(hidden, mask):
            return hidden.sum(-1)


def test_a_host_without_the_optimisers_moments_is_refused_by_name() -> None:
    found = columns(1)
    with pytest.raises(WiringError, match="loop fact 'head_moments', which this host does not offer"):
        call(curvature_gate, found, {"step_size": 0.1})
