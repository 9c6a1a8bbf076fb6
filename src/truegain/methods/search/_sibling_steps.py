from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.probing import step_cuts
from truegain.core.types import Pair, Problem, Rollout


@dataclass
class _Node:
    """The first ``cut`` tokens of ``row``, of which the policy's own end at ``own``; values are sums over visits."""

    row: Rollout
    cut: int
    own: int
    depth: int
    parent: _Node | None = None
    children: list[_Node] = field(default_factory=list["_Node"])
    visits: int = 0
    total: float = 0.0

    @property
    def value(self) -> float:
        return self.total / self.visits


@component("search", cite=("arXiv:2601.21912", "github.com/lilinwz/ProRAG"))
def sibling_steps(
    roles: Mapping[str, Any],
    draw: Any,
    problems: Sequence[Problem],
    *,
    simulations: int = 8,
    width: int = 4,
    depth: int = 10,
    curiosity: float = 2.5,
    gamma: float = 0.99,
    margin: float = 0.0,
    fact: str = "correct",
) -> tuple[list[Pair], dict[str, float]]:
    """Grow a tree of steps over each problem; two steps that go on from one place, one worth more, make a pair.

    Monte Carlo tree search. A node is a completion up to a step's end, a tool's answer included, and ``depth`` bounds
    its steps. A simulation goes from the root to the child of the largest

        Q(child) + curiosity / width * sqrt(N(node)) / (1 + N(child))

    until a node without children, lets the policy write ``width`` completions from there, makes a child of each first
    step (equal ones are one), and adds what each completion's end earned, ``fact``, times gamma per step in between, to
    all nodes on its way. A simulation that reaches an end adds that end's value again. Pairs have meta ``prompt_ids``,
    ``chosen_ids`` and ``rejected_ids``, the tokens up to the end of what the policy wrote of the step, and ``ahead``,
    by how much the values differ: more than ``margin``. Rows without a verdict are left out.

    Cost: at most simulations * width completions a problem. Logs ``nodes``, ``pairs``, per problem. Raises SettingError
    for simulations, width or depth below 1, WiringError for a form without the segment ``step``.
    Source: ProRAG 2026, its search (200 simulations, width 5, depth 10, c_puct 2.5, gamma 0.99, uniform prior).

    >>> from types import SimpleNamespace as Some
    >>> import torch
    >>> from truegain.core.types import Turn
    >>> def row(ids, right):
    ...     said = (Turn("policy", 0, 2),)
    ...     return Rollout(Problem("a", "q"), (1,), ids, (0.0,) * 2, "xy", "eos", said, facts={"correct": right})
    >>> loop = Some(again=lambda problems, n: [row((5, 6), 1.0), row((7, 8), 0.0)],
    ...             segments=lambda rows, name: torch.tensor([[0, 1]] * len(rows)))
    >>> roles = {"policy": Some(policy=Some(decode=str))}
    >>> pairs, _ = sibling_steps(roles, loop, [Problem("a", "q")], simulations=1, width=2)
    >>> [(p.meta["chosen_ids"], p.meta["rejected_ids"], p.meta["ahead"]) for p in pairs]
    [([5], [7], 0.99)]
    """
    if min(simulations, width, depth) < 1:
        raise SettingError(f"sibling_steps: simulations={simulations}, width={width} and depth={depth} must be >= 1")
    if not problems:
        return [], {}
    decode = roles["policy"].policy.decode
    grow = _Growth(draw, decode, depth, gamma, fact)
    begun: list[Rollout] = draw.again(problems, width)
    trees = [_Node(begun[n * width], 0, 0, 0) for n in range(len(problems))]
    grow.expand([(trees[n // width], row) for n, row in enumerate(begun)])
    for _ in range(simulations - 1):
        leaves = [_leaf(tree, curiosity / width) for tree in trees]
        open_leaves = [leaf for leaf in leaves if leaf.cut < len(leaf.row.ids) and leaf.depth < depth]
        for leaf in leaves:
            if leaf not in open_leaves and leaf.visits:
                _add(leaf, leaf.value, gamma)
        rows: list[Rollout] = draw.fork([(leaf.row, leaf.cut) for leaf in open_leaves], width) if open_leaves else []
        grow.expand([(open_leaves[n // width], row) for n, row in enumerate(rows)])
    nodes = [node for tree in trees for node in _all(tree)]
    pairs = [pair for node in nodes for pair in _pairs(node, decode, margin)]
    return pairs, {"nodes": len(nodes) / len(problems), "pairs": len(pairs) / len(problems)}


@dataclass(frozen=True)
class _Growth:
    """How completions become nodes."""

    draw: Any
    decode: Any
    depth: int
    gamma: float
    fact: str

    def expand(self, drawn: Sequence[tuple[_Node, Rollout]]) -> None:
        """Add to each node the first step of a completion that goes on from it, with what the completion earned."""
        judged = [(node, row) for node, row in drawn if self.fact in row.facts and "abstained" not in row.facts]
        if not judged:
            return
        rows = [row for _, row in judged]
        step: Tensor = self.draw.segments(rows, "step")
        ids = cast("list[list[int]]", cast(Any, step).tolist())
        for (node, row), cuts, steps in zip(judged, step_cuts(step, rows, self.decode, ()), ids, strict=True):
            ends = sorted({cut for cut in cuts.values() if cut > node.cut})
            if not ends:
                continue
            own = max(t for t in range(node.cut, ends[0]) if steps[t] >= 0) + 1
            child = _child(node, row, ends[0], own)
            _add(child, self.gamma ** (len(ends) - 1) * float(row.facts[self.fact]), self.gamma)


def _child(node: _Node, row: Rollout, cut: int, own: int) -> _Node:
    """The child that this step is, if it was written before."""
    for other in node.children:
        if other.row.ids[: other.cut] == row.ids[:cut]:
            return other
    node.children.append(_Node(row, cut, own, node.depth + 1, node))
    return node.children[-1]


def _add(node: _Node, value: float, gamma: float) -> None:
    at: _Node | None = node
    while at is not None:
        at.visits, at.total = at.visits + 1, at.total + value
        at, value = at.parent, gamma * value


def _leaf(node: _Node, weight: float) -> _Node:
    while node.children:
        root = math.sqrt(node.visits)
        # the first of equals, so that a search is a pure function of its draws
        node = max(node.children, key=lambda child: child.value + weight * root / (1 + child.visits))
    return node


def _all(node: _Node) -> list[_Node]:
    return [node, *(found for child in node.children for found in _all(child))]


def _pairs(node: _Node, decode: Any, margin: float) -> list[Pair]:
    found: list[Pair] = []
    for better in node.children:
        for worse in node.children:
            ahead = better.value - worse.value
            if ahead > margin:
                chosen, rejected = list(better.row.ids[: better.own]), list(worse.row.ids[: worse.own])
                facts = {"prompt_ids": list(better.row.trained_prompt), "ahead": ahead}
                facts |= {"chosen_ids": chosen, "rejected_ids": rejected}
                problem = better.row.problem
                found.append(Pair(problem.id, problem.prompt, decode(chosen), decode(rejected), facts))
    return found
