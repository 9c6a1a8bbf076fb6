"""Reward models as one: a folder with a head, or an ensemble's folder, that judges prompts with completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from truegain.core.errors import DataError
from truegain.core.types import Message
from truegain.policy.heads import ScalarHead, at_last, members_of, token_values
from truegain.policy.policy import Policy

Ids = tuple[int, ...]
HEAD = "head.safetensors"


@dataclass(frozen=True, eq=False)
class RewardModels:
    """M reward models that read the same tokens. What a role that fills ``model_reward`` says, without a loop."""

    members: tuple[tuple[Policy, ScalarHead], ...]
    source: str

    @staticmethod
    def load(source: str | Path, *, dtype: str = "float32", device: str = "cpu") -> RewardModels:
        """Load what `truegain fit reward-model` wrote: the ensemble's folder, or one member's.

        Raises DataError if there is no head, or the members read different tokens.
        """
        places = members_of(source) or [Path(source)]
        found: list[tuple[Policy, ScalarHead]] = []
        for place in places:
            head = ScalarHead.load(place / HEAD).to(device)
            found.append((Policy.load(place, dtype=dtype, device=device), head.requires_grad_(False)))
        vocabulary = found[0][0].tokenizer.get_vocab()
        if any(policy.tokenizer.get_vocab() != vocabulary for policy, _ in found):
            raise DataError(f"{source}: its members have different vocabularies; an ensemble reads one kind of tokens")
        return RewardModels(tuple(found), str(source))

    def tokens(self, prompt: str | Sequence[Message], completion: str, *, ended: bool = True) -> tuple[Ids, Ids]:
        """Token ids of a prompt and a completion, the end mark after it if it ``ended``."""
        policy = self.members[0][0]
        mark = policy.tokenizer.eos_token_id
        end = () if mark is None or not ended else (int(mark),)
        return policy.encode_prompt(prompt), (*policy.encode(completion), *end)

    def score(self, prompts: Sequence[Ids], completions: Sequence[Ids], *, micro_tokens: int = 16384) -> Tensor:
        """Rewards [B, M] of completions at their last token, in float32 on the CPU; 0 for an empty completion."""
        out = torch.zeros(len(completions), len(self.members))
        order = sorted(range(len(completions)), key=lambda i: len(prompts[i]) + len(completions[i]))
        while order:
            width = len(prompts[order[-1]]) + len(completions[order[-1]])
            part, order = _longest(order, max(1, micro_tokens // max(width, 1)))
            lengths = torch.tensor([len(completions[i]) for i in part])
            tokens = torch.zeros(len(part), max(int(lengths.max()), 1), dtype=torch.long)
            for row, i in enumerate(part):
                tokens[row, : lengths[row]] = torch.tensor(completions[i], dtype=torch.long)
            chosen = [prompts[i] for i in part]
            for m, (policy, head) in enumerate(self.members):
                values = token_values(policy, head, chosen, tokens, lengths, after=True, grad=False).cpu()
                out[torch.tensor(part), m] = at_last(values, lengths).float()
        return out


def _longest(order: list[int], count: int) -> tuple[list[int], list[int]]:
    return order[-count:], order[:-count]
