"""What people do with GRPOTrainer works with a recipe in it: processes, resuming, evaluation, adapters, abstentions."""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import Qwen2ForCausalLM
from trl import GRPOTrainer
from trl_process import CASES, train
from trl_runs import (
    LETTERS,
    correct,
    furthest,
    letter_tokenizer,
    prompts,
    said,
    scripted,
    settings,
    trainer_of,
    weights_of,
    write_model,
)

from truegain.core.errors import RunError
from truegain.core.forms import Term
from truegain.hosts.rounds import begin_round
from truegain.hosts.trl import TruegainGRPOTrainer
from truegain.methods import credit, objective, reward
from truegain.recipes import cispo, dr_grpo, grpo, reinforce


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.slow  # three processes, each of which imports TRL
def test_two_processes_train_as_one_does(model: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = str(Path(__file__).with_name("trl_process.py"))
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", script, model, str(tmp_path), "2"],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    one = train(model, tmp_path, 1)
    said_last = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said_last)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    for recipe in CASES:
        assert furthest(first[recipe]["weights"], second[recipe]["weights"]) == 0
        assert furthest(one[recipe]["weights"], first[recipe]["weights"]) < 1e-5
        for ours, theirs in zip(one[recipe]["log"], first[recipe]["log"], strict=True):
            for name in ("loss", "entropy", "policy_loss", "clip_ratio/region_mean", "rewards/user_score/mean"):
                assert ours[name] == pytest.approx(theirs[name], abs=1e-5), (recipe, name)


def test_a_run_that_is_resumed_ends_where_an_uninterrupted_one_does(model: str, tmp_path: Path) -> None:
    def run(place: str, **changed: Any) -> Any:
        args = settings(
            tmp_path / place, max_steps=4, save_strategy="steps", save_steps=2, optim="adamw_torch",
            learning_rate=1e-2, gradient_accumulation_steps=2, per_device_train_batch_size=4,
        )  # fmt: skip
        trainer = trainer_of(model, args, recipe="reinforce-pp")
        trainer.train(**changed)
        return weights_of(trainer)

    whole = run("whole")
    again = run("again", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert furthest(whole, again) == 0


def test_evaluation_draws_its_own_number_of_samples_and_changes_no_training_step(model: str, tmp_path: Path) -> None:
    looked = settings(
        tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1, num_generations_eval=2,
        per_device_eval_batch_size=4,
    )  # fmt: skip
    trainer = trainer_of(model, looked, eval_dataset=prompts(4), rollout_func=scripted)
    trainer.train()
    assert trainer._rounds["eval"].batch["group"].tolist() == [0, 0, 1, 1]
    line = next(line for line in trainer.state.log_history if "eval_loss" in line)
    assert {"eval_reward", "eval_entropy", "eval_policy_loss", "eval_rewards/user_score/mean"} <= line.keys()
    assert math.isfinite(line["eval_loss"])
    plain = trainer_of(model, settings(tmp_path, max_steps=2), rollout_func=scripted)
    plain.train()
    assert furthest(weights_of(trainer), weights_of(plain)) < 1e-6


def test_an_adapter_alone_is_trained_and_its_base_is_the_reference(model: str, tmp_path: Path) -> None:
    from peft import LoraConfig

    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = trainer_of(model, settings(tmp_path, max_steps=2), recipe="reinforce-pp", peft_config=adapter)
    before = weights_of(trainer)
    trainer.train()
    after = weights_of(trainer)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    first, second = (line["kl"] for line in trainer.state.log_history[:2])
    assert first == pytest.approx(0, abs=1e-9)
    assert second > 0


def some_say_nothing(completions: list[str], **_: Any) -> list[float | None]:
    return [None if i in (1, 6) else value for i, value in enumerate(said(completions))]


def test_a_row_of_which_the_reward_says_nothing_is_in_no_statistic_and_in_no_loss(model: str, tmp_path: Path) -> None:
    trainer = trainer_of(model, settings(tmp_path), reward_funcs=some_say_nothing, rollout_func=scripted)
    trainer.train()
    found = trainer._rounds["train"]
    assert found.place.tolist() == [0, -1, 1, 2, 3, 4, -1, 5]
    advantages, score = found.row_advantages(), found.batch["score"]
    assert advantages[[1, 6]].tolist() == [0, 0]
    alone = torch.ones(6, 1, dtype=torch.bool)
    wanted = credit.group_normalise(score, torch.tensor([0, 0, 0, 1, 1, 1]), alone)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    torch.testing.assert_close(advantages[found.place >= 0], wanted[:, 0])
    assert trainer.state.log_history[0]["truegain/abstained"] == 2
    assert list(trainer._logs["advantages"]) == pytest.approx(advantages.tolist())
    assert found.step is not None
    assert len(found.step.rows) == 6


def test_a_batch_of_which_nothing_is_said_moves_no_weight(model: str, tmp_path: Path) -> None:
    trainer = trainer_of(model, settings(tmp_path), reward_funcs=lambda completions, **_: [None] * len(completions))
    before = weights_of(trainer)
    trainer.train()
    assert furthest(before, weights_of(trainer)) == 0
    assert trainer.state.log_history[0]["truegain/abstained"] == 8


def test_a_reward_that_is_not_finite_stops_the_run_before_a_weight_is_touched(model: str, tmp_path: Path) -> None:
    trainer = trainer_of(model, settings(tmp_path), reward_funcs=lambda completions, **_: [math.inf] * len(completions))
    before = weights_of(trainer)
    with pytest.raises(RunError, match="the reward of 8 rows is not finite"):
        trainer.train()
    assert furthest(before, weights_of(trainer)) == 0


def test_rows_that_selection_drops_are_in_no_denominator(model: str, tmp_path: Path) -> None:
    def once(recipe: Any, **more: Any) -> Any:
        trainer = trainer_of(model, settings(tmp_path), recipe=recipe, rollout_func=scripted, **more)
        trainer.train()
        return trainer

    best_and_worst = once(replace(grpo(), select=reward.extreme_ranks))
    found = best_and_worst._rounds["train"]
    assert found.batch.rows == 4
    assert found.step is not None and float(found.step.weights[0].sum()) == pytest.approx(1)
    assert best_and_worst.state.log_history[0]["truegain/kept"] == pytest.approx(0.5)
    assert once(dr_grpo())._rounds["train"].batch.rows == 8


def test_the_hook_that_trl_plans_has_its_log_right_and_changes_no_number(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> Any:
        trainer = trainer_of(model, settings(tmp_path), rollout_func=None)
        trainer.train()
        return trainer

    today, original, seen = trained(), GRPOTrainer._generate_and_score_completions, []

    def coming(self: Any, inputs: Any) -> Any:
        """As trl#7298 has it: the hook is between TRL's advantages, and their log and slice."""
        out = original(self, inputs)
        everyone = self.accelerator.gather(out["advantages"])
        seen.append(changed := self._transform_advantages(everyone))
        for value in changed.tolist():
            self._logs["advantages"].append(value)
        out["advantages"] = changed
        return out

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", coming)
    monkeypatch.setattr(GRPOTrainer, "_transform_advantages", lambda self, a: a, raising=False)
    monkeypatch.setattr(TruegainGRPOTrainer, "_log_advantages", lambda self: pytest.fail("logged behind TRL's back"))
    tomorrow = trained()
    assert furthest(weights_of(today), weights_of(tomorrow)) == 0
    torch.testing.assert_close(seen[0], today._rounds["train"].row_advantages())
    assert list(tomorrow._logs["advantages"]) == list(today._logs["advantages"])


def test_the_ratio_between_sampler_and_learner_multiplies_the_loss(model: str, tmp_path: Path) -> None:
    class Corrected(TruegainGRPOTrainer):
        ratio = 1.0

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            out = super()._generate_and_score_completions(inputs)
            return {**out, "importance_sampling_ratio": torch.full_like(out["completion_mask"], self.ratio).float()}

    found = {}
    for ratio in (1.0, 3.0):
        Corrected.ratio = ratio
        args = settings(tmp_path, max_grad_norm=0.0)
        trainer = trainer_of(model, args, Corrected, recipe="reinforce", rollout_func=scripted)
        before = weights_of(trainer)
        trainer.train()
        found[ratio] = {name: value - before[name] for name, value in weights_of(trainer).items()}
    for name, moved in found[1.0].items():
        torch.testing.assert_close(found[3.0][name], 3 * moved, atol=1e-5, rtol=1e-4)


class Sampled:
    """Either trainer, as if an engine had sampled whose ratio differs from token to token."""

    use_vllm: bool

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        out = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        shape = out["completion_mask"].shape
        return {**out, "importance_sampling_ratio": 0.2 + torch.arange(float(shape.numel())).reshape(shape) % 7}

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        self.use_vllm = True  # what TRL's loss asks before it takes the ratio
        loss = super()._compute_loss(model, inputs)  # type: ignore[misc]
        self.use_vllm = False
        return loss


class OursSampled(Sampled, TruegainGRPOTrainer): ...


class TheirsSampled(Sampled, GRPOTrainer): ...


def test_the_ratio_leaves_the_penalty_beside_it_whole_as_trls_loss_does(model: str, tmp_path: Path) -> None:
    other = Qwen2ForCausalLM.from_pretrained(write_model(tmp_path / "other", seed=1)).state_dict()

    def trained(kind: Any, **more: Any) -> tuple[float, dict[str, torch.Tensor]]:
        args = settings(tmp_path, max_grad_norm=0.0, **more.pop("set", {}))
        trainer = trainer_of(model, args, kind, rollout_func=scripted, **more)
        before = weights_of(trainer)
        # At the reference itself the penalty would have no gradient; far from it ours is bounded, and TRL's is not.
        trainer.ref_model.load_state_dict({name: 0.95 * value + 0.05 * other[name] for name, value in before.items()})
        trainer.train()
        loss = next(line["loss"] for line in trainer.state.log_history if "loss" in line)
        return loss, {name: value - before[name] for name, value in weights_of(trainer).items()}

    form = grpo(beta=0.5)
    form = replace(form, terms=(replace(form.terms[0], credit=partial(credit.group_normalise, eps=1e-4)),))
    same = {"loss_type": "grpo", "use_bias_correction_kl": False}
    theirs_loss, theirs = trained(TheirsSampled, set={**same, "beta": 0.5})
    ours_loss, ours = trained(OursSampled, recipe=form)
    assert ours_loss == pytest.approx(theirs_loss, abs=1e-5)
    assert furthest(ours, theirs) < 1e-5
    # Neither is trivial: without the ratio, and without the penalty, the step is another.
    assert furthest(ours, trained(TruegainGRPOTrainer, recipe=form)[1]) > 1e-2
    assert furthest(ours, trained(TheirsSampled, set={**same, "beta": 1e-9})[1]) > 1e-2


def test_a_penalty_in_a_term_of_its_own_is_not_corrected_for_the_sampler() -> None:
    penalty = Term(surrogate=objective.negative_logp, weight=objective.token_mean)
    form = replace(reinforce(), terms=(reinforce().terms[0], penalty))
    mask = torch.ones(2, 3, dtype=torch.bool)
    columns = {"mask": mask, "group": torch.tensor([0, 0]), "correct": torch.tensor([1.0, 0.0])}
    found, _ = begin_round(form, columns, torch.zeros(2, dtype=torch.bool), {"step_index": 0})
    found.begin(torch.arange(2))
    current = {"logp": torch.full((2, 3), -1.0), "entropy": torch.zeros(2, 3)}
    # The row that is right: 3 tokens of -A logp = 1, by the weight of a mean over two rows; the penalty: mean of 1.
    plain, _ = found.loss(torch.arange(2), current)
    doubled, _ = found.loss(torch.arange(2), current, torch.full((2, 1), 2.0))
    assert float(plain) == pytest.approx(1.5 + 1)
    assert float(doubled) == pytest.approx(3 + 1)


def test_the_loss_of_a_router_is_added_as_trl_adds_it(tmp_path: Path) -> None:
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen2MoeConfig(
        vocab_size=12, hidden_size=16, intermediate_size=16, moe_intermediate_size=8, num_hidden_layers=1,
        shared_expert_intermediate_size=8, num_attention_heads=2, num_key_value_heads=2, num_experts=4,
        num_experts_per_tok=2, max_position_embeddings=64, eos_token_id=1, pad_token_id=None, bos_token_id=None,
    )  # fmt: skip
    Qwen2MoeForCausalLM(config).save_pretrained(tmp_path / "moe")

    def flat(completions: list[str], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    def logged(kind: Any) -> dict[str, float]:
        args = settings(tmp_path / "out", router_aux_loss_coef=0.5, loss_type="dapo")
        trainer = trainer_of(str(tmp_path / "moe"), args, kind, reward_funcs=flat)
        trainer.train()
        return trainer.state.log_history[0]

    ours, theirs = logged(TruegainGRPOTrainer), logged(GRPOTrainer)
    assert ours["aux_loss"] == pytest.approx(theirs["aux_loss"], rel=1e-5)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def test_column_functions_are_handed_steps_and_data_and_may_abstain(model: str, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def by_step(completions: list[str], steps: list[list[str]], answer: list[str], **more: Any) -> list[Any]:
        seen.update(completions=completions, steps=steps, answer=answer, more=set(more))
        return [None if i == 2 else [LETTERS.index(s.replace("<end>", "a")[0]) for s in row] for i, row in
                enumerate(steps)]  # fmt: skip

    trainer = trainer_of(
        model, settings(tmp_path), recipe="pure", columns={"step_reward": by_step}, rollout_func=scripted
    )
    trainer.train()
    assert seen["more"] == {"prompts", "completion_ids", "env_mask"} or seen["more"] >= {"prompts", "completion_ids"}
    assert len(seen["steps"]) == len(seen["answer"]) == 8
    assert any(len(row) > 1 for row in seen["steps"])
    assert trainer._rounds["train"].place.tolist() == [0, 1, -1, 2, 3, 4, 5, 6]


def test_several_optimiser_steps_are_taken_from_a_batch_as_the_plan_says(model: str, tmp_path: Path) -> None:
    args = settings(tmp_path, per_device_train_batch_size=4, steps_per_generation=2, num_iterations=1, max_steps=2)
    trainer = trainer_of(model, args, recipe=cispo(minibatches=2), rollout_func=scripted)
    trainer.train()
    found = trainer._rounds["train"]
    assert found.step is not None and len(found.step.rows) == 4
    assert float(found.step.weights[0].sum()) == pytest.approx(1)
    assert found.batch.rows == 8


def test_the_checker_and_further_rewards_are_summed_as_trl_sums_them(model: str, tmp_path: Path) -> None:
    args = settings(tmp_path, reward_weights=[1.0, 0.5])
    trainer = trainer_of(model, args, reward_funcs=[correct, said], rollout_func=scripted)
    trainer.train()
    line = trainer.state.log_history[0]
    ours = line["rewards/outcome/mean"] + line["rewards/user_score/mean"]
    assert ours == pytest.approx(line["reward"], abs=1e-6)


def test_chat_prompts_train(model: str, tmp_path: Path) -> None:
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    chat = Dataset.from_list([{"prompt": [{"role": "user", "content": f"a{i % 4}"}]} for i in range(8)])

    def said_last(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
        return said([messages[-1]["content"] for messages in completions])

    trainer = trainer_of(
        model, settings(tmp_path), recipe="empg", reward_funcs=said_last, train_dataset=chat, processing_class=tokenizer
    )
    before = weights_of(trainer)
    trainer.train()
    assert furthest(before, weights_of(trainer)) > 0


@pytest.mark.slow
def test_the_example_runs_and_the_answers_get_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Path(__file__).parents[2] / "examples" / "trl_grpo.py"
    spec = importlib.util.spec_from_file_location("trl_grpo", place)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(tmp_path, 20)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    shares = [int(line.partition(": ")[2].partition("%")[0]) for line in lines]
    assert len(shares) == 5
    assert shares[-1] > shares[0] + 10
