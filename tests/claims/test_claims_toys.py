"""The toy reasoners that claims of the length room train: their odds are what they say."""

from __future__ import annotations

import pytest
import torch

from truegain.claims.chains import FILLER, GUESSES, KINDS, KNOWS, NEED, STOP, WORK, chance_of, draw, start
from truegain.claims.stops import lengths_of, logp_of, mask_of


def test_the_log_probs_of_all_lengths_are_a_distribution() -> None:
    go_on = torch.randn(1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = torch.arange(1, 7)
    chance = logp_of(go_on.expand(6, 6), lengths).masked_fill(~mask_of(lengths, 6), 0.0).sum(1).exp()
    assert float(chance.sum()) == pytest.approx(1.0)


def test_drawn_lengths_come_as_often_as_their_log_probs_say() -> None:
    go_on = torch.tensor([[1.0, -0.5, 2.0, 0.0]])
    found = lengths_of(go_on.expand(40_000, 4), torch.Generator().manual_seed(0))
    lengths = torch.arange(1, 5)
    chance = logp_of(go_on.expand(4, 4), lengths).masked_fill(~mask_of(lengths, 4), 0.0).sum(1).exp()
    shares = torch.bincount(found, minlength=5)[1:] / len(found)
    assert torch.allclose(shares, chance, atol=0.01)


def test_a_chain_counts_its_useful_steps_and_is_known_once_they_suffice() -> None:
    kind = torch.arange(KINDS).repeat_interleave(500)
    drawn = draw(start(), kind, 60, torch.Generator().manual_seed(0))
    assert set(drawn.action[drawn.mask].tolist()) == {WORK, FILLER, STOP}
    for row in range(0, len(kind), 271):
        done = 0
        for t in range(int(drawn.mask[row].sum())):
            assert int(drawn.done[row, t]) == min(done, int(NEED[-1]))
            done += int(drawn.action[row, t] == WORK)
    assert drawn.logp(start()).masked_fill(drawn.mask, 0.0).abs().sum() == 0
    need = NEED[kind]
    assert torch.equal(chance_of(need, kind), torch.full((len(kind),), KNOWS))
    assert torch.equal(chance_of(need - 1, kind), torch.full((len(kind),), GUESSES))
    own = torch.linspace(0.4, 0.9, KINDS)
    assert torch.allclose(chance_of(need[:, None].repeat(1, 2), kind, own)[:, 1], own[kind])
