"""What we take from TRL is as it was read: against the installed version, pinned or (`make contract-trl`) the newest.

A failure says in one line what changed. The version that `truegain hosts` names is the one that this file passed on.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer
from trl_runs import scripted, settings, trainer_of, weights_of, write_model

from truegain.core.columns import COLUMNS
from truegain.hosts._trl_settings import OVERRULED
from truegain.hosts.offers import OFFERS

TRL = f"trl {version('trl')}"
SIGNATURES = {
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_compute_loss": ["self", "model", "inputs"],
}
FORWARD = ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy"]
FORWARD += ["compute_aux_loss"]
BATCH = {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "num_items_in_batch"}
SET = "args state accelerator lr_scheduler model ref_model reward_func_names reward_weights eos_token_ids _tokenizer "
SET += "num_generations num_generations_eval use_vllm rollout_func tools mask_truncated_completions _metrics _logs "
SET += "_step _buffered_inputs aux_loss_enabled router_aux_loss_coef max_completion_length"
# Logged by GRPOTrainer's own loss and not by ours: the smallest and the largest share of clipped tokens of a row.
NOT_LOGGED = {"clip_ratio/low_min", "clip_ratio/high_max"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_method_that_we_wrap_has_the_parameters_that_it_had(name: str) -> None:
    found = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
    assert found == SIGNATURES[name], f"{TRL}: GRPOTrainer.{name} takes {found}, it took {SIGNATURES[name]}"


def test_the_forward_pass_takes_and_gives_what_it_did() -> None:
    forward = GRPOTrainer._get_per_token_logps_and_entropies
    found = list(inspect.signature(forward).parameters)
    assert found[: len(FORWARD)] == FORWARD, f"{TRL}: _get_per_token_logps_and_entropies begins with {found[:8]}"
    assert GRPOTrainer.loss_is_scaled_for_ga is True, f"{TRL}: the loss is divided by the accumulation steps outside"


def test_the_first_parameters_of_the_trainer_are_the_ones_that_we_name() -> None:
    found = list(inspect.signature(GRPOTrainer.__init__).parameters)[:4]
    assert found == ["self", "model", "reward_funcs", "args"], f"{TRL}: GRPOTrainer takes {found} first"


def test_settings_that_a_recipe_overrules_are_still_settings() -> None:
    gone = set(OVERRULED) - {field.name for field in fields(GRPOConfig)}
    assert not gone, f"{TRL}: GRPOConfig has no {sorted(gone)} any more"


def settings_in(code: ast.AST, kept: dict[str, set[str]]) -> set[str]:
    """The settings that the code reads from args, or under a name in which they are ``kept``."""
    read = {ast.unparse(part) for part in ast.walk(code) if isinstance(part, ast.Attribute | ast.Name)}
    found = {field.name for field in fields(GRPOConfig) if {f"args.{field.name}", f"self.args.{field.name}"} & read}
    return found.union(*(kept.get(name, set()) for name in read))


def settings_of_the_loss(begins: ast.AST, loss: ast.AST) -> set[str]:
    """The settings that a loss reads: from args, or as attributes to which ``begins`` has copied them."""
    kept: dict[str, set[str]] = {}
    given = [node for node in ast.walk(begins) if isinstance(node, ast.Assign)]
    for node in sorted(given, key=lambda node: node.lineno):
        for name in map(ast.unparse, node.targets):
            kept[name] = kept.get(name, set()) | settings_in(node.value, kept)
    return settings_in(loss, {name: found for name, found in kept.items() if name.startswith("self.")})


def code_of(method: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(method)))


def test_no_new_setting_changes_a_loss_that_ours_replaces() -> None:
    """Every setting that GRPOTrainer's own loss reads is one that we refuse or follow, or goes with one of these."""
    known = {*OVERRULED, "steps_per_generation", "entropy_target", "entropy_coef_delta", "entropy_coef_max"}
    known |= {"entropy_coef_min", "beta", "max_completion_length", "use_vllm", "vllm_importance_sampling_correction"}
    known |= {"router_aux_loss_coef", "model_init_kwargs"}
    read = settings_of_the_loss(code_of(GRPOTrainer.__init__), code_of(GRPOTrainer._compute_loss))
    assert read <= known, f"{TRL}: the loss reads settings that are new to us: {sorted(read - known)}"
    assert read >= {"beta", "loss_type", "epsilon", "epsilon_high", "delta", "use_vllm"}, f"{TRL}: found {sorted(read)}"


def test_a_setting_is_found_in_a_loss_under_any_name_in_which_it_is_kept() -> None:
    begins = ast.parse("self.low = args.epsilon\ncoef = args.beta\nself.x = [coef]\nself.on = self.x != 0\nself.a = 1")
    assert settings_of_the_loss(begins, ast.parse("loss = self.low * self.a")) == {"epsilon"}
    assert settings_of_the_loss(begins, ast.parse("if self.on: loss = self.args.delta")) == {"beta", "delta"}
    assert settings_of_the_loss(begins, ast.parse("coef = args.new")) == set()


class Kept(GRPOTrainer):
    """Keeps the batch that TRL makes, and what it handed to the rewards."""

    def _calculate_rewards(self, *given: Any) -> Any:
        self.given, self.matrix = given, super()._calculate_rewards(*given)
        return self.matrix

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.made = super()._generate_and_score_completions(inputs)
        return self.made


def plain(model: str, place: Path, **changed: Any) -> Any:
    trainer = trainer_of(model, settings(place, **changed), Kept, rollout_func=scripted)
    trainer.train()
    return trainer


def test_the_batch_has_the_keys_and_shapes_that_we_read(model: str, tmp_path: Path) -> None:
    trainer = plain(model, tmp_path, beta=0.1, steps_per_generation=2, per_device_train_batch_size=4)
    wanted = BATCH | {"old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps", "tool_mask"}
    missing = wanted - trainer.made.keys()
    assert not missing, f"{TRL}: the batch has no {sorted(missing)}; it has {sorted(trainer.made)}"
    shape = trainer.made["completion_ids"].shape
    for name in sorted(wanted - {"prompt_ids", "prompt_mask", "advantages", "num_items_in_batch"}):
        assert trainer.made[name].shape == shape, f"{TRL}: {name} has shape {tuple(trainer.made[name].shape)}"
    assert trainer.matrix.shape == (8, 1), (
        f"{TRL}: rewards have shape {tuple(trainer.matrix.shape)}, not [rows, functions]"
    )
    assert trainer.given[0][0].keys() >= {"prompt", "answer"}, f"{TRL}: rows come without the dataset's columns"


def test_the_trainer_has_the_attributes_that_we_read(model: str, tmp_path: Path) -> None:
    trainer = plain(model, tmp_path)
    gone = [name for name in SET.split() if not hasattr(trainer, name)]
    assert not gone, f"{TRL}: the trainer has no {gone}"
    assert {"train", "eval"} <= trainer._metrics.keys(), f"{TRL}: _metrics holds {list(trainer._metrics)}"
    assert isinstance(trainer._metrics["train"]["new"], list), f"{TRL}: _metrics[mode][name] is no list"
    assert len(trainer._logs["advantages"]) == 8, f"{TRL}: _logs['advantages'] holds no number per row"


def test_the_batch_is_cut_by_rows_and_every_column_goes_with_its_row(model: str, tmp_path: Path) -> None:
    class Numbered(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            out = super()._generate_and_score_completions(inputs)
            return {**out, "number": torch.arange(len(out["advantages"])), "copy": out["completion_ids"].clone()}

    args = settings(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    trainer = trainer_of(model, args, Numbered, rollout_func=scripted)
    trainer.train()
    parts = trainer._buffered_inputs
    assert sorted(torch.cat([part["number"] for part in parts]).tolist()) == list(range(8)), f"{TRL}: rows are lost"
    assert all(torch.equal(part["copy"], part["completion_ids"]) for part in parts), f"{TRL}: columns part from rows"


def test_no_metric_is_lost_beside_those_that_are_named_here(model: str, tmp_path: Path) -> None:
    theirs = plain(model, tmp_path, beta=0.1).state.log_history[0].keys()
    ours = trainer_of(model, settings(tmp_path), recipe="kl-estimators", rollout_func=scripted)
    ours.train()
    lost = theirs - ours.state.log_history[0].keys()
    assert lost == NOT_LOGGED, f"{TRL}: our trainer does not log {sorted(lost - NOT_LOGGED)}"


@pytest.mark.parametrize("masked", [False, True])
def test_a_step_is_trls_own_where_the_two_mean_the_same(masked: bool, model: str, tmp_path: Path) -> None:
    cut = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "mask_truncated_completions": masked}
    cut["max_grad_norm"] = 0.0
    args = settings(tmp_path, loss_type="dr_grpo", scale_rewards=False, **cut)
    theirs = trainer_of(model, args, GRPOTrainer, rollout_func=scripted)
    before = weights_of(theirs)
    theirs.train()
    ours = trainer_of(model, settings(tmp_path, **cut), recipe="dr-grpo", rollout_func=scripted)
    ours.train()
    # TRL's denominator counts the rows that masking emptied, `limit_mean` does not (see its docstring).
    share = float((ours._rounds["train"].batch["mask"].sum(dim=1) > 0).float().mean())
    assert share == pytest.approx(5 / 8 if masked else 1)
    for name, value in weights_of(theirs).items():
        moved = share * (weights_of(ours)[name] - before[name])
        torch.testing.assert_close(moved, value - before[name], atol=1e-5, rtol=1e-4)


def test_the_offer_names_columns_and_the_version_that_is_pinned() -> None:
    assert set(OFFERS["trl"].columns) | OFFERS["trl"].roles <= set(COLUMNS)
    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8")
    assert f"trl=={OFFERS['trl'].tested}\n" in pinned
