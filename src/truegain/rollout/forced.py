"""Log-probs of given tokens: requests that share a trunk in one forward under a tree mask, or each one apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from truegain.core.types import Request
from truegain.policy.decoder import head, hidden_states
from truegain.rollout.plan import padded

Logp = tuple[float, ...]
# Beyond this many tokens a tree is cut in two: attention costs the square of its length, a trunk read twice does not
TREE_TOKENS = 1024
# A pass over more tokens is no faster, and its activations take memory
PASS_TOKENS = 4096


def score_trees(model: Any, requests: Sequence[Request], limit: int) -> list[Logp]:
    """Log-prob at temperature 1 of every suffix token. A tree is a trunk and its suffixes, in one row.

    A suffix token sees ``trunk[:cut]`` and the suffix before it, at positions that go on from the cut. Trees are
    padded and run together while their masks and logits stay below ``limit`` bytes, and below `PASS_TOKENS` tokens.
    """
    result: list[Logp] = [()] * len(requests)
    for trees in _batches(_trees(requests), requests, limit, model.config.vocab_size):
        _score_batch(model, requests, trees, result)
    return result


def _trees(requests: Sequence[Request]) -> Iterator[list[int]]:
    """Places of the requests of each tree."""
    same: dict[tuple[int, ...], list[int]] = {}
    for place, request in enumerate(requests):
        if request.suffix:
            same.setdefault(request.trunk, []).append(place)
    for trunk, places in same.items():
        tree: list[int] = []
        size = len(trunk)
        for place in places:
            if tree and size + len(requests[place].suffix) > max(TREE_TOKENS, 2 * len(trunk)):
                yield tree
                tree, size = [], len(trunk)
            tree.append(place)
            size += len(requests[place].suffix)
        yield tree


def _batches(
    trees: Iterator[list[int]], requests: Sequence[Request], limit: int, vocabulary: int
) -> Iterator[list[list[int]]]:
    def length(tree: list[int]) -> int:
        return len(requests[tree[0]].trunk) + sum(len(requests[place].suffix) for place in tree)

    batch: list[list[int]] = []
    for tree in sorted(trees, key=length):
        tokens = (len(batch) + 1) * length(tree)
        # the mask, and three float copies of the logits
        if batch and (tokens > PASS_TOKENS or tokens * (4 * length(tree) + 12 * vocabulary) > limit):
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def _score_batch(model: Any, requests: Sequence[Request], trees: list[list[int]], result: list[Logp]) -> None:
    device = next(model.parameters()).device
    rows, places = [], []
    spans: list[tuple[int, int, int, int]] = []  # row, cut, begin of the suffix, its length
    order: list[int] = []
    for row, tree in enumerate(trees):
        trunk = requests[tree[0]].trunk
        tokens, positions = list(trunk), list(range(len(trunk)))
        for place in tree:
            request = requests[place]
            cut = len(trunk) if request.cut is None else request.cut
            spans.append((row, cut, len(tokens), len(request.suffix)))
            order.append(place)
            tokens += request.suffix
            positions += range(cut, cut + len(request.suffix))
        rows.append(tokens)
        places.append(positions)
    ids, position = padded(rows, device), padded(places, device)
    hidden = hidden_states(model, ids, positions=position, mask=_tree_mask(trees, requests, spans, ids))
    line = [row for row, _, _, count in spans for _ in range(count)]
    before = [cut - 1 if i == 0 else begin + i - 1 for _, cut, begin, count in spans for i in range(count)]
    target = [begin + i for _, _, begin, count in spans for i in range(count)]
    logits = head(model, hidden[line, before]).float()
    values = logits.log_softmax(-1).gather(-1, ids[line, target][:, None])[:, 0].tolist()
    at = 0
    for place, (_, _, _, count) in zip(order, spans, strict=True):
        result[place] = tuple(values[at : at + count])
        at += count


def _tree_mask(
    trees: list[list[int]], requests: Sequence[Request], spans: list[tuple[int, int, int, int]], ids: Tensor
) -> Tensor:
    """[N, 1, L, L], true where the row's token may look at the column's."""
    size = ids.shape[1]
    mask = torch.eye(size, dtype=torch.bool, device=ids.device).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        trunk = len(requests[tree[0]].trunk)
        mask[row, :trunk, :trunk] = mask.new_ones(trunk, trunk).tril_()
    for row, cut, begin, count in spans:
        mask[row, begin : begin + count, :cut] = True
        mask[row, begin : begin + count, begin : begin + count] = mask.new_ones(count, count).tril_()
    return mask[:, None]


def score_apart(model: Any, requests: Sequence[Request], limit: int) -> list[Logp]:
    """The same for any causal model, through its own forward: every request is a right-padded row of its own.

    Nothing looks ahead, so the padding is inert. Rows run together while their logits stay below ``limit`` bytes.
    """
    device = next(model.parameters()).device
    vocabulary = model.config.get_text_config().vocab_size
    result: list[Logp] = [()] * len(requests)
    rows = {place: request.given for place, request in enumerate(requests) if request.suffix}
    order = sorted(rows, key=lambda place: len(rows[place]))
    while order:
        count = max(1, limit // (12 * len(rows[order[-1]]) * vocabulary))
        chosen, order = order[-count:], order[:-count]
        ids = padded([rows[place] for place in chosen], device)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        scores = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].tolist()
        for place, row in zip(chosen, scores, strict=True):
            end = len(rows[place]) - 1
            result[place] = tuple(row[end - len(requests[place].suffix) : end])
    return result
