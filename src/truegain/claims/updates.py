"""Updates on columns that a claim makes itself: a form's credit, weights and loss, without a model or a loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from truegain.core import arithmetic
from truegain.core.arithmetic import OptimiserStep
from truegain.core.batch import Batch
from truegain.core.forms import Stage, Train
from truegain.core.settings import with_setting


def one_term(form: Train, **stages: Stage) -> Train:
    """The form with stages of its only term replaced."""
    (term,) = form.terms
    return replace(form, terms=(replace(term, **stages),))


def steered(form: Train, out: Mapping[str, Any]) -> Train:
    """The form with what a fold sets for the next step."""
    for path, value in out.items():
        form = cast(Train, with_setting(form, path, value))
    return form


def step_on(form: Train, batch: Batch, max_tokens: int = 1, **more: Any) -> OptimiserStep:
    """Credit and weights of all rows as one optimiser step; the form's plan is left aside. ``more`` are loop facts."""
    facts = {"progress": 0.0, "step_index": 0, "max_tokens": max_tokens, **more}
    advantages, _ = arithmetic.credit_stage(form, batch, facts)
    (step,), _ = arithmetic.plan_stage(replace(form, plan=()), batch, advantages, facts)
    return step


def loss_on(form: Train, step: OptimiserStep, logp: Tensor) -> Tensor:
    """The scalar loss of the step under the current log-probs [B,T]."""
    facts = {"progress": 0.0, "step_index": 0, "max_tokens": logp.shape[1]}
    return arithmetic.loss_of(form, step, torch.arange(len(logp)), {"logp": logp}, facts)[0]
