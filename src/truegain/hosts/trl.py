"""TRL's `GRPOTrainer` with a recipe in the place of its advantage and its loss: any recipe that TRL's columns feed.

    trainer = TruegainGRPOTrainer(model=..., reward_funcs=..., args=..., train_dataset=..., recipe="gspo")

Three of TRL's methods are wrapped, none is copied. `_calculate_rewards` shows what was drawn and judged; after
`_generate_and_score_completions` the stages up to the credit run over the rows of all processes, and each row carries
its number through TRL's shuffling and cutting; `_compute_loss` takes the row's share of the sum. Weights are those of
the whole optimiser step (`_prepare_inputs`), so neither the micro-batch nor the number of processes changes it.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from truegain.core import arithmetic
from truegain.core.arithmetic import Logs, merge
from truegain.core.columns import COLUMNS
from truegain.core.draws import draw_key
from truegain.core.forms import Train
from truegain.core.kl import kl_estimate
from truegain.hosts import _trl_settings as settings
from truegain.hosts._trl_rows import ColumnFunction, Drawn, Given, columns_of
from truegain.hosts.guard import GoldGapGuard
from truegain.hosts.offers import OFFERS, check, form_of
from truegain.hosts.rounds import Round, begin_round, gathered
from truegain.policy.policy import Policy

try:
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]
except ImportError as error:
    raise ImportError(f"truegain.hosts.trl needs TRL: pip install 'truegain[trl]' ({error})") from error

__all__ = ["TruegainGRPOTrainer"]

_log = logging.getLogger(__name__)
ROW = "truegain_row"
# Our columns of a process's own rows, by TRL's names.
_OWN = {"old_logp": "old_per_token_logps", "ref_logp": "ref_per_token_logps", "engine_logp": "sampling_per_token_logps"}


class TruegainGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` that trains by a truegain recipe.

    ``recipe`` is a recipe's name or a `Train` form. A reward function that is called ``correct``, or after another
    column of `truegain.hosts.offers.BY_FUNCTION`, fills that column, which the recipe has to read; the weighted sum of
    the others is ``score``, which takes the place of the checker's verdict where no function is called ``correct``.
    ``columns`` fills further ones: ``columns={"step_reward": f}``, ``f(prompts=, completions=, completion_ids=, steps=,
    **dataset columns)`` with one entry per completion, a number or a list of them, None to abstain; ``steps`` are the
    texts of the recipe's steps. A row of which a function says nothing is in no group statistic and in no loss.

    What GRPOConfig says of sampling, optimiser and length of the run holds; what the recipe says of rewards, advantages
    and the loss does. Raises WiringError for a recipe that TRL cannot feed, SettingError where the two contradict.
    """

    model: Any
    args: Any
    accelerator: Any
    lr_scheduler: Any
    num_generations_eval: Any
    _buffered_inputs: Any
    _tokenizer: Any

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: Any = None,
        *more: Any,
        recipe: str | Train = "grpo",
        columns: Mapping[str, ColumnFunction] | None = None,
        **named: Any,
    ) -> None:
        """Check recipe and settings, then build TRL's trainer."""
        form = form_of(recipe, "trl")
        settings.check_columns_given(columns or {})
        check(form, OFFERS["trl"], frozenset(columns or {}))
        args = GRPOConfig() if args is None else copy.copy(args)
        settings.check_settings(form, args)
        beta = args.beta
        if settings.has_reference(form):
            args.beta = args.beta or 1.0  # TRL loads a reference, and asks it, where this is not 0; it weighs nothing
        super().__init__(model, reward_funcs, args, *more, **named)
        self.args.beta = beta
        names, weights = tuple(self.reward_func_names), tuple(self.reward_weights.tolist())
        self._given = Given(names, weights, dict(columns or {}))
        form = settings.fitted(form, self._given)
        settings.check_columns(form, OFFERS["trl"], self._given, self.use_vllm or self.rollout_func is not None)
        self.form = settings.without_stand_ins(form, OFFERS["trl"])
        self._rounds: dict[str, Round] = {}
        self._seen: dict[str, Logs] = {"train": Logs(), "eval": Logs()}
        self._drawn: Drawn | None = None
        self._meet_guards()

    def add_callback(self, callback: Any) -> None:
        """As the trainer's own; a guard is handed the trainer."""
        super().add_callback(callback)
        self._meet_guards()

    def _meet_guards(self) -> None:
        """Hand the trainer to its guards, so that what they log reaches its trackers."""
        for callback in self.callback_handler.callbacks:
            # A guard that was met by an earlier trainer goes with the one that it is given to now.
            if isinstance(callback, GoldGapGuard) and isinstance(callback.trainer, TruegainGRPOTrainer | None):
                callback.trainer = self

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        count, first = len(prompts), self.accelerator.process_index * len(prompts)
        rows = range(first, first + count)
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        self._drawn = Drawn(
            inputs=inputs,
            prompts=prompts,
            completions=completions,
            ids=completion_ids_list,
            rewards=rewards[first : first + count],
            rows=rows,
            keys=[draw_key(self.args.seed, self._mode, self.state.global_step, "", 0, row) for row in rows],
            truncated=[not ids or ids[-1] not in ends for ids in completion_ids_list],
            samples=self.num_generations if self._mode == "train" else self.num_generations_eval,
        )
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self._rounds.pop(self._mode, None)
        out = super()._generate_and_score_completions(inputs)
        assert self._drawn is not None
        out[ROW] = torch.tensor(self._drawn.rows, device=self.accelerator.device)
        if arithmetic.needs_old_pass(self.form) and "old_per_token_logps" not in out:
            out["old_per_token_logps"] = self._log_probs(self.model, out, grad=False)[0]
        if self._mode not in self._rounds:
            self._begin_round(out)
            self._log_advantages()
        round_ = self._rounds[self._mode]
        width = out["completion_ids"].shape[1]
        advantages = round_.drawn_advantages()[out[ROW]][:, :width]
        out["advantages"] = torch.nn.functional.pad(advantages, (0, width - advantages.shape[1]))
        if self._mode == "eval":
            round_.begin(torch.arange(len(round_.place), device=round_.place.device))
        self._drawn = None
        return out

    def _transform_advantages(self, advantages: Tensor) -> Tensor:
        """The hook that TRL is to call before it logs advantages and cuts them by process (trl#7298).

        Where the recipe needs nothing but what is known by then, what TRL logs is ours already.
        """
        needed = gathered(self.form) - self._given.columns - {"reward", "reward_parts", "advantage", "keep"}
        known = {"tokens", "mask", "group", "key", "role", "truncated"}
        if self._drawn is None or needed - known or self.tools or self.mask_truncated_completions or self.rollout_func:
            return advantages
        self._begin_round({})
        return self._rounds[self._mode].row_advantages().to(advantages)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        inputs = super()._prepare_inputs(generation_batch)
        steps, made = self.args.gradient_accumulation_steps, self.args.steps_per_generation
        if self._mode == "train" and self._step % steps == 0:
            parts = [self._buffered_inputs[(self._step + n) % made][ROW] for n in range(steps)]
            self._rounds["train"].facts["step_size"] = self._rate()
            self._rounds["train"].begin(self.accelerator.gather(torch.cat(parts)))
        return inputs

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        mode, processes = self._mode, self.accelerator.num_processes
        logp, entropy, aux = self._log_probs(model, inputs, grad=True)
        current = {"logp": logp, "entropy": entropy}
        current |= {"old_logp": logp.detach(), **_own(inputs)}
        share, logs = self._rounds[mode].loss(inputs[ROW], current, inputs.get("importance_sampling_ratio"))
        mask = _mask(inputs)
        # Processes average their gradients, and the step's loss is a sum over all of them. A process without a row in
        # the step still takes part in that.
        loss = share * processes + logp.masked_fill(~mask, 0.0).sum() * 0.0
        steps = self.args.gradient_accumulation_steps if mode == "train" else 1
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * aux / steps
            logs["aux_loss"] = (float(aux.detach()), 1.0)
        logs["policy_loss"] = (float(share.detach()), 1.0 / (steps * processes))
        logs["entropy"] = (float(entropy.detach()[mask].sum()), float(mask.sum()))
        if "ref_logp" in current and "kl" not in logs:
            kl = kl_estimate(logp.detach(), current["ref_logp"], "k3", float("inf"), float("inf"), "trl")[mask]
            logs["kl"] = (float(kl.sum()), float(kl.numel()))
        self._seen[mode] = merge(self._seen[mode], logs)
        if mode == "eval" or (self._step + 1) % steps == 0:
            self._log_step()
        return loss

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _log_probs(self, model: Any, inputs: Mapping[str, Any], *, grad: bool) -> tuple[Tensor, Tensor, Any]:
        """Log-probs and entropies [rows,T] of the completions, and a mixture-of-experts model's loss of its router."""
        named = inspect.signature(self._get_per_token_logps_and_entropies).parameters
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            return self._get_per_token_logps_and_entropies(
                model,
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                inputs["completion_ids"].shape[1],
                batch_size=None if grad else self.args.per_device_train_batch_size,
                compute_entropy=True,
                compute_aux_loss=grad and self.aux_loss_enabled,
                **{name: value for name, value in inputs.items() if name in named},
            )

    def _begin_round(self, out: Mapping[str, Any]) -> None:
        """Run the stages up to the credit over the rows of all processes."""
        assert self._drawn is not None
        drawn = self._drawn
        drawn.tool, drawn.logp = (out[n].cpu() if n in out else None for n in ("tool_mask", "sampling_per_token_logps"))
        decode = Policy(None, self._tokenizer, "trl").decode
        columns, silent = columns_of(self.form, drawn, self._given, decode)
        abstained = torch.tensor([bool(why) for why in silent])
        if bool(abstained.all()):
            _log.warning("step %d: no row of this process is trained on: %s", self.state.global_step, silent[0])
        width = columns["tokens"].shape[1]
        columns |= {name: value[:, :width] for name, value in _own(out).items()}
        if out:
            columns["mask"] = _mask(out)[:, :width]
        needed = sorted(gathered(self.form) & set(columns))
        everyone = {name: self._everyone(columns[name], _padding(name)) for name in needed}
        round_, logs = begin_round(self.form, everyone, self._everyone(abstained, 0), self._facts())
        self._rounds[self._mode] = round_
        self._log({name: value / count for name, (value, count) in logs.items() if count})

    def _everyone(self, values: Tensor, padding: float) -> Tensor:
        """The rows of all processes, as wide as the widest."""
        kind = values.dtype
        values = values.to(self.accelerator.device)
        values = values.to(torch.uint8) if kind == torch.bool else values.contiguous()
        if values.dim() > 1:
            values = self.accelerator.pad_across_processes(values, dim=1, pad_index=padding)
        return self.accelerator.gather(values).to(kind)

    def _facts(self) -> dict[str, Any]:
        done = self.state.global_step
        facts = {"progress": done / max(self.state.max_steps, 1), "step_index": done, "step_size": self._rate()}
        return {**facts, "max_tokens": self.max_completion_length}

    def _rate(self) -> float:
        return self.args.learning_rate if self.lr_scheduler is None else float(self.lr_scheduler.get_last_lr()[0])

    def _log(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._metrics[self._mode][name].append(value)

    def _log_step(self) -> None:
        """Log what the components and the passes of an optimiser step said, over all micro-batches and processes."""
        seen: list[Any] = [self._seen[self._mode]] * self.accelerator.num_processes
        if len(seen) > 1:
            torch.distributed.all_gather_object(seen, self._seen[self._mode])
        logs = merge(self._rounds[self._mode].logs, *seen)
        self._log({name: value / count for name, (value, count) in logs.items() if count})
        self._seen[self._mode] = Logs()

    def _log_advantages(self) -> None:
        """Put ours into the table of completions, where TRL has put its own."""
        ours, logged = self._rounds[self._mode].row_advantages().tolist(), self._logs["advantages"]
        for _ in range(min(len(ours), len(logged))):
            logged.pop()
        logged.extend(ours)


def _own(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """What TRL's batch holds of our `rounds.OWN` columns. Where an engine could not say, the learner's stands in."""
    found = {ours: inputs[theirs].detach().float() for ours, theirs in _OWN.items() if theirs in inputs}
    if "engine_logp" in found:
        said = found["engine_logp"]
        found["engine_logp"] = torch.where(said.isnan(), found.get("old_logp", torch.zeros_like(said)), said)
    return found


def _mask(inputs: Mapping[str, Any]) -> Tensor:
    """True on the tokens that the policy chose and that count."""
    tool = inputs.get("tool_mask")
    return (inputs["completion_mask"] if tool is None else inputs["completion_mask"] * tool).bool()


def _padding(column: str) -> float:
    """What stands beyond a process's own width."""
    if column in ("step", "turn", "part"):
        return -1
    return 0 if COLUMNS[column].shape.startswith("B,T") else float("nan")
