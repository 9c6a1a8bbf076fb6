"""The gold-gap guard as a callback: in a plain transformers Trainer, and in TRL's."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments
from trl import GRPOConfig, GRPOTrainer
from trl_runs import letter_tokenizer, prompts, write_model

from truegain.core.errors import DataError, SettingError
from truegain.core.types import Abstain
from truegain.hosts.guard import STATE, GoldGapGuard, said
from truegain.hosts.logs import read_log
from truegain.hosts.trl import TruegainGRPOTrainer
from truegain.tasks.mixture import parse

# TRL and transformers warn of what they themselves still do.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

ROWS = [{"prompt": f"{'abc'[n % 3]}{1 + n % 4}", "want": "y"} for n in range(60)]
TURN, STEPS, EVERY = 12, 24, 4
KNOBS: dict[str, Any] = {"every": EVERY, "max_tokens": 6, "proxy": "loss"}


def gold(completions: list[str], want: list[str], **_: Any) -> list[float]:
    """The share of a completion's letters that are the wanted one."""
    return [text.count(letter) / max(len(text), 1) for text, letter in zip(completions, want, strict=True)]


class Lessons(torch.utils.data.Dataset[dict[str, Any]]):
    """Four examples a step: they teach the letter y until step `TURN`, and n afterwards."""

    def __init__(self, steps: int = STEPS, turn: int = TURN) -> None:
        tokenizer = letter_tokenizer()
        self.rows = [
            tokenizer(f"{'abc'[n % 3]}{1 + n % 4}" + ("y" if step < turn else "n") * 6)["input_ids"]
            for step in range(steps)
            for n in range(4)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = torch.tensor(self.rows[index])
        return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}


def trainer(place: Path, guard: GoldGapGuard, *more: TrainerCallback, **changed: Any) -> Trainer:
    given: dict[str, Any] = {
        "output_dir": str(place / "run"), "use_cpu": True, "per_device_train_batch_size": 4, "learning_rate": 0.02,
        "lr_scheduler_type": "constant", "max_steps": STEPS, "logging_steps": 1, "disable_tqdm": True,
        "save_strategy": "no", "report_to": "none", "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(write_model(place / "model"))
    args = TrainingArguments(**{**given, **changed})
    return Trainer(model, args, train_dataset=Lessons(), processing_class=letter_tokenizer(), callbacks=[guard, *more])


def gold_of(model: Any) -> float:
    """The mean gold of a model, on draws of its own."""
    from truegain.hosts._looking import Decoding, complete

    texts = complete(model, letter_tokenizer(), ROWS, Decoding(6), seed=99)
    return float(np.mean(gold(texts, [row["want"] for row in ROWS])))


def test_a_fall_is_logged_and_training_goes_on(tmp_path: Path) -> None:
    guard = GoldGapGuard(gold, ROWS, **KNOBS)
    trainer(tmp_path, guard).train()
    assert [look.step for look in guard.looks] == list(range(0, STEPS + 1, EVERY))
    assert guard.alarm is not None
    assert guard.alarm.best in (TURN, TURN - EVERY, TURN + EVERY)
    assert guard.looks[-1].step == STEPS
    log = read_log(tmp_path / "run" / f"checkpoint-{guard.best}")
    assert log.series("truegain/gold")[guard.best] == pytest.approx(max(look.gold for look in guard.looks))
    assert set(log.series("truegain/gold_alarm").values()) == {0.0}
    assert log.settings["best_global_step"] == guard.best
    assert f"below step {guard.best}" in said(guard.alarm)


def test_stop_ends_the_run_at_its_alarm(tmp_path: Path) -> None:
    guard = GoldGapGuard(gold, ROWS, action="stop", **KNOBS)
    run = trainer(tmp_path, guard)
    run.train()
    assert guard.alarm is not None and run.state.global_step == guard.alarm.step < STEPS


def test_roll_back_leaves_the_weights_of_the_best_checkpoint(tmp_path: Path) -> None:
    guard = GoldGapGuard(gold, ROWS, action="rollback", **KNOBS)
    run = trainer(tmp_path, guard, save_total_limit=1)
    run.train()
    assert guard.alarm is not None and run.state.global_step == guard.alarm.step
    place = tmp_path / "run" / f"checkpoint-{guard.alarm.best}"
    saved = AutoModelForCausalLM.from_pretrained(place)
    assert all(
        torch.equal(a, b) for a, b in zip(saved.state_dict().values(), run.model.state_dict().values(), strict=True)
    )
    assert gold_of(run.model) > guard.alarm.gold + 0.2
    assert (place / "optimizer.pt").is_file()


def test_roll_back_can_go_to_the_start(tmp_path: Path) -> None:
    # A model that was taught y beforehand, and is taught n from the first step on.
    first = trainer(tmp_path, GoldGapGuard(gold, ROWS, **KNOBS), max_steps=TURN)
    first.train()
    first.model.save_pretrained(tmp_path / "taught")
    guard = GoldGapGuard(gold, ROWS, action="rollback", **KNOBS)
    run = trainer(tmp_path / "second", guard)
    run.model.load_state_dict(first.model.state_dict())
    run.train_dataset = Lessons(turn=0)
    run.train()
    assert guard.alarm is not None and guard.alarm.best == 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(run.model.state_dict().values(), first.model.state_dict().values(), strict=True)
    )


def test_a_paused_run_goes_on_when_it_is_resumed_and_is_held_to_what_it_was_at_the_pause(tmp_path: Path) -> None:
    paused = GoldGapGuard(gold, ROWS, action="pause", **KNOBS)
    trainer(tmp_path, paused).train()
    assert paused.alarm is not None
    stopped = paused.alarm.step
    assert (tmp_path / "run" / f"checkpoint-{stopped}" / "optimizer.pt").is_file()
    guard = GoldGapGuard(gold, ROWS, action="pause", **KNOBS)
    run = trainer(tmp_path, guard)
    run.train(resume_from_checkpoint=True)
    assert guard.looks[: len(paused.looks)] == paused.looks
    assert guard.since == len(paused.looks) - 1
    # It is not stopped again by the fall that somebody has seen.
    assert guard.looks[len(paused.looks)].step == stopped + EVERY
    assert run.state.global_step > stopped


class Kill(TrainerCallback):
    """Dies at a step, as if the machine had."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_a_killed_run_that_is_resumed_has_the_looks_of_one_that_was_not(tmp_path: Path) -> None:
    whole = GoldGapGuard(gold, ROWS, **KNOBS)
    trainer(tmp_path / "a", whole, save_strategy="steps", save_steps=5).train()
    with pytest.raises(KeyboardInterrupt):
        trainer(
            tmp_path / "b", GoldGapGuard(gold, ROWS, **KNOBS), Kill(15), save_strategy="steps", save_steps=5
        ).train()
    assert json.loads((tmp_path / "b" / "run" / STATE).read_text())["looks"][-1]["step"] == 12
    # Make it go back before looks that were taken: they are taken again.
    guard = GoldGapGuard(gold, ROWS, **KNOBS)
    run = trainer(tmp_path / "b", guard, save_strategy="steps", save_steps=5)
    run.train(resume_from_checkpoint=str(tmp_path / "b" / "run" / "checkpoint-10"))
    assert guard.looks == whole.looks
    assert np.array_equal(guard.scores, whole.scores)


def test_looking_does_not_change_what_is_trained(tmp_path: Path) -> None:
    class Idle(TrainerCallback):
        pass

    seen = trainer(tmp_path / "a", GoldGapGuard(gold, ROWS, **KNOBS), max_steps=6)
    seen.train()
    alone = trainer(tmp_path / "b", Idle(), max_steps=6)  # type: ignore[arg-type]
    alone.train()
    for a, b in zip(seen.model.state_dict().values(), alone.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert seen.model.training == alone.model.training


def grpo_settings(place: Path, **changed: Any) -> GRPOConfig:
    given: dict[str, Any] = {
        "output_dir": str(place), "use_cpu": True, "bf16": False, "per_device_train_batch_size": 8,
        "num_generations": 4, "max_completion_length": 6, "learning_rate": 0.03, "lr_scheduler_type": "constant",
        "max_steps": 10, "activation_checkpointing": False, "dataloader_pin_memory": False, "logging_steps": 1,
        "disable_tqdm": True, "save_strategy": "no", "report_to": "none",
    }  # fmt: skip
    return GRPOConfig(**{**given, **changed})


def hacked(completions: list[str], **_: Any) -> list[float]:
    """A proxy that pays for anything but y."""
    return [1 - text.count("y") / max(len(text), 1) for text in completions]


@pytest.mark.parametrize("kind", ["TRL's own", "ours"])
def test_inside_grpo_the_proxy_rises_while_gold_falls_and_the_run_is_rolled_back(kind: str, tmp_path: Path) -> None:
    taught = trainer(tmp_path, GoldGapGuard(gold, ROWS, **KNOBS), max_steps=6)
    taught.train()
    taught.model.save_pretrained(tmp_path / "taught")
    guard = GoldGapGuard(gold, ROWS, every=2, max_tokens=6, action="rollback")
    given: dict[str, Any] = {
        "model": str(tmp_path / "taught"), "reward_funcs": hacked,
        "args": grpo_settings(tmp_path / "grpo", max_steps=40),
        "train_dataset": prompts(), "processing_class": letter_tokenizer(), "callbacks": [guard],
    }  # fmt: skip
    run = GRPOTrainer(**given) if kind == "TRL's own" else TruegainGRPOTrainer(recipe="grpo", **given)
    run.train()
    assert guard.alarm is not None and guard.alarm.kind == "divergence"
    assert run.state.global_step == guard.alarm.step < 40
    assert gold_of(run.model) > guard.alarm.gold + 0.1
    first = next(line["reward"] for line in run.state.log_history if "reward" in line)
    assert guard.looks[0].proxy == first, "the completions of the first line were drawn before the first step"
    assert read_log(tmp_path / "grpo").host == "trl", "nothing was saved, and there is a log all the same"
    # TRL's own lines are as they were: the guard's have lines of their own.
    own = [line for line in run.state.log_history if "truegain/gold" in line]
    assert [line["step"] for line in own] == [look.step for look in guard.looks]
    assert all("reward" in line for line in run.state.log_history if "loss" in line)


def test_given_the_trainer_the_metrics_reach_its_trackers(tmp_path: Path) -> None:
    class Tracker(TrainerCallback):
        lines: list[dict[str, float]] = []  # noqa: RUF012

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.lines.append(dict(logs))

    guard = GoldGapGuard(gold, ROWS, every=2, max_tokens=6)
    run = GRPOTrainer(
        model=write_model(tmp_path / "model"), reward_funcs=hacked, args=grpo_settings(tmp_path / "grpo", max_steps=4),
        train_dataset=prompts(), processing_class=letter_tokenizer(), callbacks=[guard, Tracker()],
    )  # fmt: skip
    guard.trainer = run
    run.train()
    assert sum("truegain/gold_gap" in line for line in Tracker.lines) == 3
    assert sum("reward" in line for line in Tracker.lines) == 4


def test_a_scorer_that_raises_or_abstains_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def fragile(completions: list[str], **_: Any) -> list[float | None]:
        calls.append(len(completions))
        if len(calls) == 2:
            raise RuntimeError("the checker is down")
        return [None if n % 2 else 0.5 for n in range(len(completions))]

    guard = GoldGapGuard(fragile, ROWS, **KNOBS)
    trainer(tmp_path, guard, max_steps=8).train()
    assert [math.isnan(look.gold) for look in guard.looks] == [False, True, False]
    assert "the checker is down" in caplog.text
    assert np.isnan(guard.scores[0]).sum() == len(ROWS) // 2


def test_scores_beyond_their_bounds_are_refused_before_the_first_step_and_scaled_within_them(tmp_path: Path) -> None:
    def wide(completions: list[str], **_: Any) -> list[float]:
        return [3.0 for _ in completions]

    with pytest.raises(DataError, match="outside bounds"):
        trainer(tmp_path / "a", GoldGapGuard(wide, ROWS, **KNOBS), max_steps=1).train()
    guard = GoldGapGuard(wide, ROWS, bounds=(-1.0, 4.0), **KNOBS)
    trainer(tmp_path / "b", guard, max_steps=1).train()
    assert guard.looks[0].gold == pytest.approx(0.8)


def test_a_task_is_gold_too_on_problems_of_its_dev_split(tmp_path: Path) -> None:
    task = parse("sort")

    def solve(model: Any, tokenizer: Any, rows: Any, seed: int) -> list[str]:
        return [task.demonstration(row["problem"], random.Random(0)) for row in rows]  # type: ignore[attr-defined]

    guard = GoldGapGuard(task, 10, generate=solve)
    trainer(tmp_path, guard, max_steps=1).train()
    assert {row["problem"].id for row in guard.rows} == {task.problem("dev", n).id for n in range(10)}
    assert guard.looks[0].gold == 1.0

    class Down:
        """The same task with a checker that abstains."""

        name = "down"
        size, problem = task.size, task.problem

        def score(self, problem: Any, rollout: Any) -> Abstain:
            return Abstain("down")

    again = GoldGapGuard(Down(), 10, generate=lambda model, tokenizer, rows, seed: [""] * len(rows))
    with pytest.raises(DataError, match="no score to any of the 10 problems"):
        trainer(tmp_path / "b", again, max_steps=1).train()


def test_a_scorer_that_cannot_run_is_an_error_before_the_first_step(tmp_path: Path) -> None:
    def needs(completions: list[str], solution: list[str]) -> list[float]:
        return [0.0 for _ in solution]

    run = trainer(tmp_path, GoldGapGuard(needs, ROWS, **KNOBS), max_steps=1)
    with pytest.raises(DataError, match=r"gold raised TypeError: .*solution"):
        run.train()
    assert run.state.global_step == 0


def test_the_models_own_generation_settings_do_not_act_and_are_as_they_were_afterwards(tmp_path: Path) -> None:
    from truegain.hosts._looking import Decoding, complete

    model = AutoModelForCausalLM.from_pretrained(write_model(tmp_path / "model"))
    plain = complete(model, letter_tokenizer(), ROWS, Decoding(6), seed=1)
    changed = {"min_p": 0.999, "repetition_penalty": 5.0, "top_k": 1, "no_repeat_ngram_size": 1, "suppress_tokens": [3]}
    for name, value in changed.items():
        setattr(model.generation_config, name, value)
    assert complete(model, letter_tokenizer(), ROWS, Decoding(6), seed=1) == plain
    assert {name: getattr(model.generation_config, name) for name in changed} == changed


def test_the_chat_template_gets_what_the_trainer_gives_it(tmp_path: Path) -> None:
    from truegain.hosts._looking import _prompt

    class Chat:
        def apply_chat_template(self, messages: Any, **given: Any) -> dict[str, Any]:
            self.given = given
            return {"input_ids": [1, 2]}

    chat = Chat()
    assert _prompt(chat, [{"role": "user", "content": "a1"}], {"enable_thinking": False}) == [1, 2]
    assert chat.given["enable_thinking"] is False and chat.given["add_generation_prompt"] is True
    guard = GoldGapGuard(gold, ROWS, every=2, max_tokens=6)
    run = GRPOTrainer(
        model=write_model(tmp_path / "model"), reward_funcs=hacked, train_dataset=prompts(), callbacks=[guard],
        args=grpo_settings(tmp_path / "grpo", max_steps=1, chat_template_kwargs={"enable_thinking": False}),
        processing_class=letter_tokenizer(),
    )  # fmt: skip
    run.train()
    assert guard.how.template == {"enable_thinking": False}


def test_a_reusable_hold_out_is_worn_by_every_run_that_asks_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "holdout.json"
    for n in range(2):
        guard = GoldGapGuard(gold, ROWS, reusable=place, **KNOBS)
        trainer(tmp_path / str(n), guard, max_steps=8).train()
    kept = json.loads(place.read_text())
    assert kept["asked"] == 6
    # The noise is not that of a seed which anybody could guess, and so subtract.
    assert kept["seed"] > 2**20
    assert "reusable with 60 problems" in caplog.text and "used up" not in caplog.text
    logged = read_log(tmp_path / "1" / "run" / f"checkpoint-{guard.best}") if guard.best else None
    assert logged is None or not logged.series("truegain/gold_evidence")
    halves = guard.scores[:, 0::2].mean(axis=1), guard.scores[:, 1::2].mean(axis=1)
    for n, look in enumerate(guard.looks):
        # Either the first half's own mean, or a noisy one of the second half: nothing else is let out.
        assert look.gold == pytest.approx(halves[0][n]) or abs(look.gold - halves[1][n]) < 0.15
    kept["budget"] = 0
    place.write_text(json.dumps(kept))
    guard = GoldGapGuard(gold, ROWS, reusable=place, **KNOBS)
    trainer(tmp_path / "worn", guard, max_steps=3).train()
    assert all(math.isnan(look.gold) for look in guard.looks)
    assert caplog.text.count("is used up") == 1


def test_one_of_our_rewards_is_gold_as_it_is_in_trl(tmp_path: Path) -> None:
    from truegain.hosts.rewards import Reward

    held = Reward.of("exact")
    guard = GoldGapGuard(held, [{"prompt": "9 8", "answer": "8 9"}, {"prompt": "2 1", "answer": "1 2"}], generate=_say)
    trainer(tmp_path, guard, max_steps=1).train()
    held.close()
    assert guard.scores.tolist() == [[1.0, 0.0]]


def _say(model: Any, tokenizer: Any, rows: Any, seed: int) -> list[str]:
    return ["8 9"] * len(rows)


def test_an_adapter_is_rolled_back_too(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    guard = GoldGapGuard(gold, ROWS, action="rollback", **KNOBS)
    run = trainer(tmp_path, guard)
    config = peft.LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    model = peft.get_peft_model(base, config)
    run = Trainer(model, run.args, train_dataset=Lessons(), processing_class=letter_tokenizer(), callbacks=[guard])
    run.args.learning_rate = 0.05
    run.train()
    assert guard.alarm is not None
    place = tmp_path / "run" / (f"checkpoint-{guard.alarm.best}" if guard.alarm.best else "gold-gap-guard-start")
    from safetensors.torch import load_file

    saved = load_file(place / "adapter_model.safetensors")
    now = peft.get_peft_model_state_dict(run.model)
    assert saved.keys() == now.keys() and all(torch.equal(saved[name], now[name]) for name in saved)


@pytest.mark.slow
def test_two_processes_see_the_same_looks_and_stop_together(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    script, processes = Path(__file__).with_name("guard_process.py"), []
    for rank in range(2):
        shown = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        places = {"MASTER_PORT": "29577", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent)}
        processes.append(
            subprocess.Popen([sys.executable, str(script), str(tmp_path)], env={**os.environ, **shown, **places})
        )
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["alarm"] is not None and first["stopped"] == first["alarm"] < STEPS
    assert first["holdout"] == len(first["golds"])


def test_what_cannot_be_run_is_refused_in_one_line(tmp_path: Path) -> None:
    for wrong, text in (
        ({"action": "rolback"}, "did you mean 'rollback'"),
        ({"every": 0}, "every=0"),
        ({"bounds": (1.0, 1.0)}, "bounds"),
        ({"level": 2.0}, "level"),
        ({"margin": 1.0}, "margin"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"temperature": -1.0}, "temperature"),
    ):
        with pytest.raises(SettingError, match=text):
            GoldGapGuard(gold, ROWS, **wrong)
    with pytest.raises(SettingError, match="give problems"):
        GoldGapGuard(gold)
    with pytest.raises(SettingError, match="a reward function, a Reward, or a task"):
        GoldGapGuard(0.5, ROWS)
    with pytest.raises(DataError, match="2 or more"):
        GoldGapGuard(gold, [{"question": "1"}, {"question": "2"}])
    guard = GoldGapGuard(gold, ROWS, **KNOBS)
    trainer(tmp_path, guard, max_steps=3, save_strategy="steps", save_steps=3).train()
    with pytest.raises(DataError, match="other problems"):
        trainer(tmp_path, GoldGapGuard(gold, ROWS[:40], **KNOBS)).train(resume_from_checkpoint=True)
