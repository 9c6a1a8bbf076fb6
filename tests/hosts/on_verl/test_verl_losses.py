"""Policy losses inside verl: against verl's own, gradients included, and over micro-batches and processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import actor, masks, policy_loss, ppo_loss, uids
from torch import Tensor
from verl.workers.config import ActorConfig, PolicyLossConfig

import truegain.hosts.verl as plugin
from truegain.core.arithmetic import loss_of, plan_stage
from truegain.core.batch import Batch
from truegain.core.component import REGISTRY
from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import Train
from truegain.core.system import build
from truegain.hosts.offers import offer, refusal
from truegain.hosts.verl_columns import groups_of
from truegain.hosts.verl_config import Config, entries, hosted

ROWS, WIDTH = 8, 9
MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


@pytest.fixture
def knobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def write(text: str) -> None:
        (tmp_path / "verl.toml").write_text(text)
        monkeypatch.setenv("TRUEGAIN_VERL_CONFIG", str(tmp_path / "verl.toml"))
        plugin.install()

    yield write
    monkeypatch.delenv("TRUEGAIN_VERL_CONFIG", raising=False)
    plugin.install()


def inputs(seed: int, turns: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Old and new log-probs, advantages alike within a row, a mask. The ratios lie well beyond every clip."""
    draw = torch.Generator().manual_seed(seed)
    mask = masks(ROWS, WIDTH, seed, turns)
    old = -torch.rand(ROWS, WIDTH, generator=draw) * 3
    new = old + torch.randn(ROWS, WIDTH, generator=draw) * 0.4
    advantages = torch.randn(ROWS, 1, generator=draw).expand(ROWS, WIDTH) * mask
    return old, new, advantages, mask


def graded(name: str, old: Tensor, new: Tensor, advantages: Tensor, mask: Tensor, config: ActorConfig, **more: Any):
    """The value of a loss, its gradient and its metrics."""
    leaf = new.clone().requires_grad_()
    value, metrics = policy_loss(name, old, leaf, advantages, mask, config, **more)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient, metrics


PAIRS = [
    ("ppo_clip", "vanilla", "[ppo_clip]\nclip_low = 0.1\nclip_high = 0.3\ndual = 3.0\n"),
    ("sequence_clip", "gspo", "[sequence_clip]\nclip_low = 0.1\nclip_high = 0.3\n"),
    ("capped_ratio", "cispo", "[capped_ratio]\nfloor = 0.9\ncap = 1.3\n"),
    ("soft_gate", "sapo", "[soft_gate]\ntau_pos = 1.0\ntau_neg = 1.05\n"),
    ("policy_gradient", "gpg", ""),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "text", "mode"),
    # verl's sapo averages in one way, whatever is set.
    [(*pair, mode) for pair in PAIRS for mode in (MODES if pair[1] != "sapo" else ("seq-mean-token-mean",))],
)
def test_the_same_loss_of_verls_own_has_the_same_value_and_gradient(
    ours: str, theirs: str, text: str, mode: str, knobs: Any
) -> None:
    knobs(text)
    config = actor(clip_ratio_low=0.1, clip_ratio_high=0.3, loss_agg_mode=mode, loss_scale_factor=WIDTH)
    for seed in range(3):
        given = inputs(seed, turns=seed == 2)
        value, gradient, _ = graded(f"truegain_{ours}", *given, config)
        their_value, their_gradient, _ = graded(theirs, *given, config)
        assert torch.allclose(value, their_value, atol=1e-5)
        assert torch.allclose(gradient, their_gradient, atol=1e-6)
        assert gradient.abs().sum() > 0


def test_weights_of_rollout_correction_multiply_every_token() -> None:
    given = inputs(0)
    weights = torch.rand(ROWS, WIDTH) * 2
    config = actor(clip_ratio_c=1e9)
    _, ours, _ = graded("truegain_ppo_clip", *given, config, rollout_is_weights=weights)
    _, theirs, _ = graded("vanilla", *given, config, rollout_is_weights=weights)
    _, without, _ = graded("truegain_ppo_clip", *given, config)
    assert torch.allclose(ours, theirs, atol=1e-7)
    assert not torch.allclose(ours, without, atol=1e-3)


def test_what_stands_in_the_padding_reaches_neither_value_nor_gradient() -> None:
    old, new, advantages, mask = inputs(1, turns=True)
    wild = new.masked_fill(mask == 0, float("nan"))
    config = actor()
    value, gradient, metrics = graded("truegain_grpo", old, wild, advantages, mask, actor(loss_agg_mode=MODES[3]))
    assert value.isfinite()
    assert gradient[mask == 0].abs().sum() == 0
    assert gradient.isfinite().all()
    assert all(number == number for number in metrics.values())
    assert graded("truegain_ppo_clip", old, wild, advantages, mask, config)[0].isfinite()


def test_component_logs_come_as_metrics_and_verls_own_names_stay() -> None:
    given = inputs(2)
    config = actor(clip_ratio_c=1e9)
    _, _, ours = graded("truegain_ppo_clip", *given, config)
    _, _, theirs = graded("vanilla", *given, config)
    for name in ("actor/ppo_kl", "actor/pg_clipfrac"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6)
    assert {"truegain/clip_ratio/low_mean", "truegain/clip_ratio/high_mean"} <= ours.keys()
    assert all(isinstance(number, float) for number in ours.values())


def recipe_settings(name: str) -> dict[str, Any]:
    """The settings that a recipe asks for, read off what it says."""
    (entry,) = [e for e in entries(Config()) if e.recipe == name and e.kind == "surrogate"]
    found: dict[str, Any] = {}
    for ask in entry.asks:
        if ask.where.endswith("actor"):
            found[ask.path] = ask.values[0] if ask.values else WIDTH
    return found


def recipes() -> list[str]:
    both = [e for e in entries(Config()) if e.recipe and e.form and not e.refused]
    credit = {e.recipe for e in both if e.kind == "credit"}
    return sorted(credit & {e.recipe for e in both if e.kind == "surrogate"})


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_that_the_table_says_runs_has_our_loops_gradient(name: str) -> None:
    """The policy's part: KL to a reference and entropy are verl's own, added outside the loss."""
    old, new, advantages, mask = inputs(3, turns=True)
    config = actor(**recipe_settings(name))
    _, gradient, _ = graded(f"truegain_{name.replace('-', '_')}", old, new, advantages, mask, config)
    (form,) = build(name)
    assert isinstance(form, Train)
    columns = Batch(mask=mask.bool(), group=groups_of(uids(ROWS)), old_logp=old.masked_fill(mask == 0, 0.0))
    facts = {"max_tokens": WIDTH}
    whole = replace(hosted(form), plan=())
    steps, _ = plan_stage(whole, columns, (advantages,), facts)
    leaf = new.clone().requires_grad_()
    loss, _ = loss_of(whole, steps[0], torch.arange(ROWS), {"logp": leaf}, facts)
    (ours,) = torch.autograd.grad(loss, leaf)
    assert torch.allclose(gradient, ours, atol=1e-6)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_refuses_another_way_to_average(name: str) -> None:
    given = inputs(0)
    settings = recipe_settings(name)
    wrong = next(mode for mode in MODES if mode != settings["loss_agg_mode"])
    with pytest.raises(SettingError, match=rf"actor\.loss_agg_mode={settings['loss_agg_mode']}, .*{wrong!r}"):
        graded(f"truegain_{name.replace('-', '_')}", *given, actor(**{**settings, "loss_agg_mode": wrong}))


def runnable() -> list[str]:
    list(entries(Config()))
    return sorted(s.name for s in REGISTRY.values() if s.kind == "surrogate" and refusal(s, offer("verl")) is None)


@pytest.mark.parametrize("name", runnable())
def test_every_loss_that_the_table_says_runs_does(name: str) -> None:
    value, gradient, _ = graded(f"truegain_{name}", *inputs(4, turns=True), actor())
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_a_loss_that_verl_cannot_feed_raises_its_reason() -> None:
    for name, said in (("kl_hinge", "needs column 'group'"), ("value_clip", "needs column 'value'")):
        with pytest.raises(WiringError, match=said):
            graded(f"truegain_{name}", *inputs(0), actor())


def test_losses_add_up_where_one_runs_with_another(knobs: Any) -> None:
    knobs('[kl_to_old]\nwith = ["ppo_clip"]\nbeta = 0.5\n[ppo_clip]\nclip_high = 0.3\n')
    given = inputs(5)
    both = graded("truegain_kl_to_old", *given, actor())[1]
    clip = graded("truegain_ppo_clip", *given, actor())[1]
    knobs("[kl_to_old]\nbeta = 0.5\n")
    assert torch.allclose(both, clip + graded("truegain_kl_to_old", *given, actor())[1], atol=1e-7)


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"])
def test_two_micro_batches_on_two_processes_give_the_gradient_of_one_batch(mode: str) -> None:
    """verl's own `ppo_loss`, counts of the whole mini-batch in `global_batch_info`; FSDP averages over processes."""
    old, new, advantages, mask = inputs(6, turns=True)
    settings = {"loss_agg_mode": mode, "loss_scale_factor": WIDTH}
    loss = PolicyLossConfig(loss_mode="truegain_ppo_clip")

    def gradient(rows: slice, tokens: int | None, count: int | None, dp: int) -> Tensor:
        leaf = new.clone().requires_grad_()
        columns = {"response_mask": mask[rows], "old_log_probs": old[rows], "advantages": advantages[rows]}
        value, _ = ppo_loss(actor(policy_loss=loss, **settings), leaf[rows], columns, tokens, count, dp)
        (found,) = torch.autograd.grad(value, leaf)
        return found

    whole = gradient(slice(0, ROWS), None, None, 1)
    tokens = int(mask.sum())
    # Four micro-batches: two on each of two processes, whose gradients are averaged.
    parts = [gradient(slice(i, i + 2), tokens, ROWS, 2) for i in range(0, ROWS, 2)]
    assert torch.allclose(sum(parts) / 2, whole, atol=1e-6)
    assert whole.abs().sum() > 0
    direct = graded("truegain_ppo_clip", old, new, advantages, mask, actor(**settings))[1]
    assert torch.allclose(whole, direct, atol=1e-6)
