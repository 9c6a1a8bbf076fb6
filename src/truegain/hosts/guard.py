"""The gold-gap guard inside TRL's trainers and every other transformers trainer.

One line more: ``callbacks=[GoldGapGuard(gold=my_checker, problems=dev_rows)]``. At intervals the trainer's own model
completes problems that it is not trained on, ``gold`` scores them, and `truegain.methods.guard.gold_gap` tests whether
gold has fallen below what it was. It audits what has happened; it does not foretell.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from truegain.core.errors import DataError, SettingError, nearest
from truegain.hosts._looking import Decoding, Generate, complete, gold_scores, problem_rows
from truegain.hosts.follow import HOW
from truegain.methods.evaluation import Reusable, thresholdout
from truegain.methods.guard import GapLook, judge_look, spent_level

log = logging.getLogger("truegain")
ACTIONS = ("log", "pause", "stop", "rollback")
STATE = "gold_gap_guard.json"
FEW = 1000
"""Below so many problems a reusable hold-out is warned of."""


class GoldGapGuard(TrainerCallback):
    """Looks at gold while a model is trained, and acts when it has fallen; see docs/guard.md.

    ``gold`` is a reward function as TRL calls it (keywords, a list of numbers or None), a
    `truegain.hosts.rewards.Reward`, or a task. ``problems`` are
    rows with a ``prompt`` (a data set, a list), never trained on; with a task, how many of its dev split (128). A look
    is taken before the first step and every ``every`` optimiser steps. ``proxy`` is the logged metric that is
    optimised.

    On an alarm ``action`` does one of:

    - ``log``: nothing but saying so.
    - ``stop``: training stops.
    - ``pause``: a checkpoint is saved and training stops. Resuming is the answer that goes on: later looks are then
      held against those from the alarm on.
    - ``rollback``: training stops, and when it has ended the weights of the best checkpoint by gold are put back into
      the model. Optimiser, schedule and ``global_step`` stay those of the alarm, and nothing is deleted: to train on
      from the best checkpoint, resume from it.

    Every look that is the best so far is saved as a checkpoint (``save_best``), and noted as ``best_global_step`` in
    the trainer's state unless the run chooses by a metric of its own; so ``save_total_limit`` does not delete it.

    ``level`` bounds the probability of a false alarm over all looks of a run; ``horizon`` and ``margin`` are those of
    `truegain.methods.guard.gold_gap`. ``bounds`` are gold's least and largest value. ``reusable`` names a file in which
    a hold-out's budget is kept from run to run: gold is then reported, and the best checkpoint chosen, through
    Thresholdout on two halves of the problems (`truegain.methods.evaluation.thresholdout`), and neither the evidence
    nor the size of a fall is logged. That covers these two only: the alarm is of the scores themselves, and so is the
    guard's own file, from which a run is resumed; whoever reads it has asked the hold-out. It suits 2000 problems and
    more. ``generate(model,
    tokenizer, rows, seed) -> texts`` takes the place of ``model.generate``. With ``trainer`` the metrics reach its
    trackers; without, its log history and the guard's own file.

    Raises SettingError and DataError for what cannot be run, before training.
    """

    def __init__(
        self,
        gold: Any,
        problems: int | Iterable[Any] | None = None,
        *,
        every: int = 20,
        action: str = "log",
        proxy: str = "reward",
        level: float = 0.05,
        horizon: int = 20,
        margin: float = 0.0,
        bounds: tuple[float, float] = (0.0, 1.0),
        max_tokens: int = 256,
        temperature: float = 1.0,
        batch_size: int = 32,
        seed: int = 0,
        save_best: bool = True,
        reusable: str | Path | None = None,
        generate: Generate | None = None,
        trainer: Trainer | None = None,
    ) -> None:
        """See the class."""
        if action not in ACTIONS:
            raise SettingError(f"gold-gap guard: action {action!r}{nearest(action, set(ACTIONS))}; one of {ACTIONS}")
        if every < 1 or not bounds[0] < bounds[1] or not -1 < margin < 1:
            raise SettingError(f"gold-gap guard: every={every} is 1 or more, bounds={bounds} rise, -1 < margin < 1")
        if not callable(gold) and not hasattr(gold, "problem") and not hasattr(gold, "as_trl"):
            raise SettingError("gold-gap guard: gold is a reward function, a Reward, or a task such as parse('sort')")
        spent_level(1, level=level, horizon=horizon)
        gold = getattr(gold, "as_trl", lambda: gold)()
        self.gold, self.rows, self.every, self.action = gold, problem_rows(gold, problems), every, action
        self.proxy, self.bounds, self.seed, self.save_best = proxy, bounds, seed, save_best
        self.knobs: dict[str, Any] = {"level": level, "horizon": horizon, "margin": margin}
        self.how = Decoding(max_tokens, temperature, batch_size)
        self.reusable = None if reusable is None else Path(reusable)
        self.generate, self.trainer = generate, trainer
        self.looks: list[GapLook] = []
        self.scores = np.empty((0, len(self.rows)))
        self.since = self.spent = 0
        self.acted = False
        self._heard: list[float] = []
        self._worn = False

    @property
    def alarm(self) -> GapLook | None:
        """The first look that raised an alarm, of those that nobody has answered by going on."""
        return next((look for look in self.looks[self.since + 1 :] if look.alarm), None)

    @property
    def best(self) -> int | None:
        """The step of the look with the most gold."""
        return self.looks[-1].best if self.looks else None

    # What the trainer calls

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Take up the looks of the run that is resumed, or begin with a look at the model as it is."""
        if self.generate is None and (args.deepspeed or args.fsdp):
            raise SettingError(
                "gold-gap guard: under DeepSpeed or FSDP no process has the whole model; give generate=, such as a "
                "call to the vLLM server that samples for training"
            )
        self.how = replace(self.how, template=getattr(args, "chat_template_kwargs", None) or {})
        if self.reusable is not None and len(self.rows) < FEW and args.process_index == 0:
            log.warning(
                "gold-gap guard: reusable with %d problems: its noise suits 2000 and more, and with fewer chance alone "
                "uses its budget up", len(self.rows),
            )  # fmt: skip
        self._resume(Path(str(args.output_dir)), state)
        if not self.looks or self.looks[-1].step < state.global_step - state.global_step % self.every:
            self._look(args, state, control, given, first=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Look, every so many steps."""
        if state.global_step % self.every == 0:
            self._look(args, state, control, given)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **given: Any
    ) -> None:
        """Hear what the proxy is."""
        value = (logs or {}).get(self.proxy)
        if isinstance(value, int | float) and math.isfinite(value):
            self._heard.append(float(value))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Leave a log that `truegain guard` and `truegain doctor` read; roll back, if that was to be done."""
        if args.process_index == 0:
            state.save_to_json(str(Path(str(args.output_dir)) / "trainer_state.json"))
        alarm = self.alarm
        if self.action != "rollback" or alarm is None or not self.acted:
            return
        place = _place(args, alarm.best)
        if not place.is_dir():
            log.warning("gold-gap guard: %s is gone, so nothing is rolled back; the weights are the last ones", place)
            return
        _restore(given["model"], place)
        log.warning("gold-gap guard: the model has the weights of %s again; optimiser and step were left", place)

    # A look

    def _look(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        given: Mapping[str, Any],
        first: bool = False,
    ) -> None:
        step = state.global_step
        scores = self._scored(given["model"], given["processing_class"], step, first)
        proxy = float(np.mean(self._heard)) if self._heard else math.nan
        if len(self.looks) == 1 and math.isnan(self.looks[0].proxy) and self._heard:
            # The first line is of what was drawn before the first step (of the first few, with logging_steps above 1).
            self.looks[0] = replace(self.looks[0], proxy=self._heard[0])
        self._heard.clear()
        look = judge_look(
            self.looks, step, scores, proxy, self.scores[self.since :], **self.knobs,
            told=self._told(scores, args), spent=self.spent,
        )  # fmt: skip
        self.looks.append(look)
        self.scores = np.concatenate([self.scores, scores[None]])
        if look.best == step and not math.isnan(look.gold):
            self._note_best(args, state, control, look, given, first)
        if look.alarm:
            self._act(look, control)
        self._write(args, state, control, look)

    def _scored(self, model: Any, tokenizer: Any, step: int, first: bool) -> np.ndarray:
        """Gold of every problem; each process completes its share, and all of them have all scores."""
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        world = _processes()
        rank = dist.get_rank() if world > 1 else 0
        rows, seed = self.rows[rank::world], (self.seed * 1_000_003 + step) * 1009 + rank
        if self.generate is not None:
            texts = list(self.generate(model, tokenizer, rows, seed))
        else:
            texts = complete(model, tokenizer, rows, self.how, seed)
        why = ""
        try:
            scores = gold_scores(self.gold, rows, texts, self.bounds)
        except DataError as error:
            scores, why = np.full(len(rows), math.nan), str(error)
        shares: list[Any] = [(scores, why)]
        if world > 1:
            shares = [None] * world
            dist.all_gather_object(shares, (scores, why))
        whole = np.empty(len(self.rows))
        for n, (share, _) in enumerate(shares):
            whole[n::world] = share
        whys = [one for _, one in shares if one]
        if first and not whys and np.isnan(whole).all():
            whys = [f"gold-gap guard: gold gave no score to any of the {len(whole)} problems at the first look"]
        if first and whys:
            # In every process, so that none waits for the others.
            raise DataError(whys[0])
        if why:
            log.warning("%s; the look counts as abstained", why)
        return whole

    def _told(self, scores: np.ndarray, args: TrainingArguments) -> float | None:
        """Gold as the reusable hold-out answers it: NaN when its budget is used up. None where there is none."""
        if self.reusable is None:
            return None
        answer: list[float] = [math.nan]
        halves = [part[~np.isnan(part)] for part in (scores[0::2], scores[1::2])]
        if args.process_index == 0 and all(len(part) for part in halves):
            kept = _read(self.reusable)
            state = Reusable(**kept) if kept else Reusable.begin(seed=secrets.randbits(62))
            state, said = thresholdout(state, float(halves[0].mean()), float(halves[1].mean()))
            _write(self.reusable, asdict(state))
            answer = [math.nan if said is None else said]
            if said is None and not self._worn:
                self._worn = True
                log.warning(
                    "gold-gap guard: the budget of %s is used up: gold is answered no more, and the best checkpoint "
                    "stays what it is; alarms go on", self.reusable,
                )  # fmt: skip
        if _processes() > 1:
            dist.broadcast_object_list(answer)
        return answer[0]

    def _note_best(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        look: GapLook,
        given: Mapping[str, Any],
        first: bool,
    ) -> None:
        """Have the best look's model saved, and kept."""
        if look.step == 0 and self.action == "rollback" and args.should_save:
            # There is no optimiser to save yet: only what rolling back to the start needs.
            given["model"].save_pretrained(_place(args, 0))
        if first or not self.save_best:
            return
        control.should_save = True
        if args.metric_for_best_model is None:
            state.best_global_step, state.best_metric = look.step, look.gold
            state.best_model_checkpoint = str(_place(args, look.step))

    def _act(self, look: GapLook, control: TrainerControl) -> None:
        then = {"log": "training goes on", "rollback": f"training stops and rolls back to step {look.best}"}
        again = len(self.looks) > 1 and self.looks[-2].alarm
        what = then.get(self.action, f"training is to {self.action}")
        shown = look if self.reusable is None else replace(look, low=0.0)
        log.log(logging.INFO if again else logging.WARNING, "gold-gap guard: %s; %s", said(shown), what)
        if self.action == "log":
            return
        self.acted = control.should_training_stop = True
        control.should_save = control.should_save or self.action == "pause"

    # Its memory

    def _write(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, look: GapLook) -> None:
        metrics = metrics_of(look)
        if self.reusable is not None:
            # Of the scores themselves, which the hold-out is not to tell.
            del metrics["truegain/gold_evidence"]
        if self.trainer is not None:
            # Not the trainer's own log(): TRL's hands out and clears what it has gathered since the last line. And a
            # line takes back that the step is to be logged.
            due = control.should_log
            Trainer.log(self.trainer, dict(metrics))
            control.should_log = due
        else:
            state.log_history.append({**metrics, "step": look.step})
        if args.process_index == 0:
            kept = {"looks": [asdict(one) for one in self.looks], "scores": self.scores.tolist(), **self.knobs}
            more = {"since": self.since, "spent": self.spent, "acted": self.acted, "action": self.action}
            _write(Path(str(args.output_dir)) / STATE, {"format": 1, "problems": self._ids(), **kept, **more})

    def _ids(self) -> list[str]:
        return [json.dumps(row["prompt"], sort_keys=True, default=str)[:200] for row in self.rows]

    def _resume(self, folder: Path, state: TrainerState) -> None:
        """Take up what was looked at until the step; what comes after it will be looked at again."""
        step = state.global_step
        self.looks, self.since, self.spent, self.acted, self._heard = [], 0, 0, False, []
        self.scores = np.empty((0, len(self.rows)))
        kept = _read(folder / STATE) if step > 0 else None
        if kept is None:
            return
        if kept["problems"] != self._ids():
            raise DataError(f"{folder / STATE} is of other problems: give those that the run began with")
        looks = [_look_of(one) for one in kept["looks"]]
        self.looks = [look for look in looks if look.step <= step]
        scores = [[math.nan if v is None else v for v in row] for row in kept["scores"][: len(self.looks)]]
        self.scores = np.array(scores, dtype=float).reshape(len(self.looks), len(self.rows))
        self.since, self.spent = min(kept["since"], len(self.looks)), kept["spent"]
        heard = [line for line in state.log_history if self.looks and line["step"] >= self.looks[-1].step]
        self._heard = [float(line[self.proxy]) for line in heard if self.proxy in line]
        if kept["acted"]:
            # Somebody goes on after an alarm: looks that are undone have used their share, and the fall is known.
            self.spent += len(looks) - len(self.looks)
            self.since = max([self.since, *(n for n, look in enumerate(self.looks) if look.alarm)])


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _place(args: TrainingArguments, step: int) -> Path:
    """Where the weights of a look are. Those of the start are no checkpoint that training could resume from."""
    return Path(str(args.output_dir)) / (f"checkpoint-{step}" if step else "gold-gap-guard-start")


def _look_of(kept: Mapping[str, Any]) -> GapLook:
    known: dict[str, Any] = {key: math.nan if value is None else value for key, value in kept.items()}
    return GapLook(**known)


def said(look: GapLook) -> str:
    """An alarm in a sentence.

    >>> said(GapLook(40, 0.4, 0.9, 20, 0.25, 8.0, 6.2, 0.03, True, "divergence"))
    'at step 40 gold is 0.400, 0.250 below step 20 (at least 0.030 below what it was), while the proxy rose'
    """
    least = f" (at least {look.low:.3f} below what it was)" if look.low else ""
    place = "has fallen" if math.isnan(look.gap) else f"is {look.gold:.3f}, {look.gap:.3f} below step {look.best}"
    return f"at step {look.step} gold {place}{least}, {HOW[look.kind]}"


def metrics_of(look: GapLook) -> dict[str, float]:
    """What is logged of a look: gold, how far it lies below the best look, and the evidence against what is needed."""
    return {
        "truegain/gold": look.gold,
        "truegain/gold_gap": look.gap,
        "truegain/gold_evidence": look.evidence / look.needed,
        "truegain/gold_best_step": float(look.best),
        "truegain/gold_alarm": float(look.alarm),
    }


def _restore(model: Any, place: Path) -> None:
    """Put a checkpoint's weights into the model: the adapter's where it has one, else all."""
    if hasattr(model, "peft_config"):
        model.load_adapter(str(place), model.active_adapter, is_trainable=True)
        return
    saved = type(model).from_pretrained(place, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); restore it, or remove it to begin without a past") from error


def _write(path: Path, kept: Any) -> None:
    """Replace the file at once; NaN is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.tmp")
    temp.write_text(json.dumps(_plain(kept), allow_nan=False) + "\n")
    temp.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
