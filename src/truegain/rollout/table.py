"""The table policy as a decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from truegain.policy.decoder import Steer
from truegain.rollout.plan import Plan


class TableDecoder:
    """`truegain.rollout.loop.Decoder` whose state is the last tokens of each row, as many as choose a table row."""

    def __init__(self, model: Any) -> None:  # noqa: D107
        self.model, self.order = model, max(int(model.config.order), 1)
        self.device, self.vocabulary = next(model.parameters()).device, int(model.config.vocab_size)

    def cost(self, rows: int, trunks: int, given: tuple[int, int], room: int) -> int:
        """Bytes of the state of so many rows."""
        return 8 * rows * (self.order + room)

    def start(self, plan: Plan, room: int) -> tuple[list[Tensor], Tensor]:
        """See `truegain.rollout.loop.Decoder`. Short beginnings are filled up as the policy itself does, with bos."""
        bos = getattr(self.model.config, "bos_token_id", None) or 0
        rows = [plan.given(row)[-self.order :] for row in range(len(plan.of))]
        window = torch.tensor([[bos] * (self.order - len(row)) + list(row) for row in rows], device=self.device)
        return [window], self._logits(window)

    blocks = 0

    def step(self, state: list[Tensor], tokens: Tensor, steer: Steer | None = None) -> Tensor:
        """See `truegain.rollout.loop.Decoder`."""
        state[0] = torch.cat((state[0][:, 1:], tokens[:, None]), 1)
        return self._logits(state[0])

    def select(self, state: list[Tensor], rows: Tensor) -> list[Tensor]:
        """See `truegain.rollout.loop.Decoder`."""
        return [state[0][rows]]

    def _logits(self, window: Tensor) -> Tensor:
        return self.model(input_ids=window).logits[:, -1]
