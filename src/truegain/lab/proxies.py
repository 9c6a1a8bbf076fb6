"""The proxies of the laboratory: small reward models fitted on a world's noisy pairs by the ordinary command's code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from truegain.core.settings import loop_with
from truegain.policy.policy import Policy
from truegain.policy.reward_model import RewardModels
from truegain.policy.tokenizer import character_tokenizer
from truegain.recipes.bradley_terry_rm import bradley_terry_rm
from truegain.tasks.rubric import Rubric
from truegain.train.reward_models import MemberPlan, fit_members


@dataclass(frozen=True)
class Proxies:
    """M reward models over a world's texts, each on the scale of the base policy: mean 0, deviation 1 there."""

    world: Rubric
    models: RewardModels
    shift: Tensor
    scale: Tensor

    def score(self, texts: Tensor, members: int | None = None) -> Tensor:
        """Standardised scores [count, M] of texts; of the first ``members`` only, if given."""
        chosen = RewardModels(self.models.members[:members], self.models.source)
        return (_scores(self.world, chosen, texts) - self.shift[:members]) / self.scale[:members]


def fit_proxies(
    world: Rubric, folder: Path, *, members: int, pairs: int, epochs: int, vary: str, stop: Callable[[], str | None]
) -> Iterator[dict[str, Any]]:
    """Fit the members into ``folder``; yield the lines of `fit_members`. What is there already is kept.

    ``vary`` says by what members differ: ``pretraining`` gives each a body of its own, ``order`` one body for all, so
    that head and data order differ alone. Bodies are untrained transformers of one layer.
    """
    bodies: list[str] = []
    for number in range(members if vary == "pretraining" else 1):
        place = folder / f"body-{number}"
        if not (place / "config.json").is_file():
            fresh_body(world.seed * 100 + number).save(place)
        bodies.append(str(place))
    form = loop_with(bradley_terry_rm(), prompts=64, lr=4e-3, save_every=0)
    steps = max(1, pairs * epochs // 64)
    plan = MemberPlan(form, tuple(bodies), folder / "members", members, world.seed * 100, pairs, 1000, steps)
    yield from fit_members(plan, world, stop)


def fresh_body(seed: int) -> Policy:
    """An untrained transformer: one layer of width 32 over the character tokenizer."""
    tokenizer: Any = character_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(seed)
    return Policy(LlamaForCausalLM(config), tokenizer, f"body of seed {seed}")


def load_proxies(world: Rubric, folder: Path) -> Proxies:
    """Load what `fit_proxies` wrote, and put each member on the base policy's scale."""
    models = RewardModels.load(folder / "members")
    rng = torch.Generator().manual_seed(world.seed * 1009 + 11)
    scores = _scores(world, models, world.sample(world.base, 2048, rng))
    return Proxies(world, models, scores.mean(dim=0), scores.std(dim=0))


def _scores(world: Rubric, models: RewardModels, texts: Tensor) -> Tensor:
    prompt, _ = models.tokens("", "")
    ids = torch.tensor([models.members[0][0].encode(chr(ord("a") + n))[0] for n in range(world.letters)])
    end = models.members[0][0].tokenizer.eos_token_id
    rows = [(*row, end) for row in ids[texts].tolist()]
    return models.score([prompt] * len(rows), rows)
