"""The dictionary of columns: one line and one name for every fact that may stand in a `Batch`.

Letters: B rollouts, T completion tokens, S steps, U turns, M models, K named rewards, H hidden units, C candidates
(`loop.candidates` tokens of the vocabulary). Column t speaks of completion
token t given the tokens before it. Prompts are not part of T: a rollout carries its prompt, and hosts (TRL, verl) lay
out their columns the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from truegain.core.errors import WiringError, nearest

Kind = Literal["float", "int", "bool"]


@dataclass(frozen=True)
class Column:
    """One column: its letters, the kind of its numbers, what it means and who provides it."""

    name: str
    shape: str
    kind: Kind
    meaning: str
    provider: str

    def line(self) -> str:
        """One line for listings and error messages."""
        return f"{self.name}[{self.shape}] {self.kind}: {self.meaning} (from {self.provider})"


_ROWS: tuple[tuple[str, str, Kind, str, str], ...] = (
    ("tokens", "B,T", "int", "completion token ids, 0 in the padding", "the engine"),
    ("mask", "B,T", "bool", "true exactly where the policy chose the token", "the engine"),
    ("group", "B", "int", "which rows answer the same problem; groups may be ragged", "the engine"),
    ("key", "B", "int", "a number of the row's own, which decided its draws", "the engine"),
    ("role", "B", "int", "which role wrote the row, by order of the form's roles", "the engine"),
    ("step", "B,T", "int", "reasoning step of each token, -1 outside", "a segment component"),
    ("turn", "B,T", "int", "turn of each token, -1 outside", "the engine, from the environment"),
    ("part", "B,T", "int", "part of each token (thought, answer, ...), -1 outside", "a segment component"),
    ("cut", "B", "int", "completion tokens shared with a forked row's parent, else -1", "a resampler"),
    ("engine_logp", "B,T", "float", "what the sampler reported, under the prompt it saw", "the engine"),
    (
        "old_logp",
        "B,T",
        "float",
        "the learner's before the update, under the prompt trained on",
        "the learner",
    ),
    ("logp", "B,T", "float", "the current log-prob; carries gradient", "the learner"),
    ("ref_logp", "B,T", "float", "log-prob under the reference model", "a role that fills it"),
    ("rm_logp", "B,T", "float", "log-prob under a language model that is a reward model", "a role that fills it"),
    ("rm_ref_logp", "B,T", "float", "log-prob under what that model was trained from", "a role that fills it"),
    (
        "entropy",
        "B,T",
        "float",
        "entropy of the current distribution, nats; carries gradient",
        "the learner",
    ),
    ("value", "B,T", "float", "the critic's current prediction; carries gradient", "a role with a head"),
    ("old_value", "B,T", "float", "the critic's prediction before the update", "a role with a head"),
    (
        "old_values",
        "B,T,M",
        "float",
        "each critic's prediction before the update, in the order of the form's roles",
        "roles that fill `value`",
    ),
    ("correct", "B", "float", "the exact checker's verdict, 0 or 1", "the task's checker"),
    ("confidence", "B", "float", "how sure the completion says it is, 0 to 1", "a score component or a task"),
    ("answered", "B", "float", "1 when the completion holds one well-formed answer", "the task's checker"),
    ("tool_calls", "B", "float", "how many tool calls the completion made", "a task with tools"),
    ("tool_errors", "B", "float", "how many of them failed", "a task with tools"),
    ("tool_cost", "B", "float", "what its tool calls cost, in units of reward", "a task with tools"),
    ("keep", "B", "float", "1 for rows that selection kept", "the select stage"),
    ("truncated", "B", "bool", "the completion ended at the token limit", "the engine"),
    (
        "false_accept",
        "B",
        "float",
        "chance that the row's checker accepts a wrong answer",
        "a score component or the data",
    ),
    (
        "false_reject",
        "B",
        "float",
        "chance that the row's checker rejects a right answer",
        "a score component or the data",
    ),
    ("appeal", "B", "float", "a second verifier's verdict, NaN where it was not asked", "a probe"),
    ("common_mistake", "B", "float", "1 where the row gives the commonest wrong answer of its problem", "a probe"),
    ("level", "B", "float", "rank of the completion by rule, 1 the best", "a score component or a task"),
    ("reflections", "B", "float", "how many reflection words the completion's thought holds", "a score component"),
    ("conciseness", "B", "float", "how concise the completion is, 0 to 1", "a score component or a probe"),
    ("score", "B", "float", "what a reward function, or a checker with partial credit, gave", "a reward function"),
    ("reward", "B", "float", "sum of the named rewards", "the reward stage"),
    ("greedy_reward", "B", "float", "reward of the greedy completion of the row's prompt", "a probe"),
    ("reward_parts", "B,K", "float", "the named rewards, in the order of the reward stage", "the reward stage"),
    ("reference_reward", "B,K", "float", "what each named reward is measured against, per prompt", "a probe"),
    ("model_reward", "B,M", "float", "scalar reward of each reward model", "a role with a head"),
    ("step_reward", "B,S", "float", "reward of each step, NaN past the last one", "a process reward model or a task"),
    ("turn_reward", "B,U", "float", "reward of each turn, NaN past the last one", "a task with turns"),
    ("test_pass", "B,K", "float", "which unit tests the completion passed", "a task with tests"),
    ("probe_correct", "B,S", "float", "share of right answers when forced to answer after each step", "a probe"),
    ("probe_confidence", "B,S", "float", "confidence of the answer forced after each step", "a probe"),
    ("has_answer", "B,S", "float", "1 where the step states or reaches the reference answer, else 0", "a probe"),
    ("answer_logp", "B,S", "float", "log-prob of the reference answer forced after each step", "a probe"),
    ("read_answer", "B", "float", "mean log-prob of the reference answer to a reader of question and row", "a probe"),
    ("read_trace", "B", "float", "mean log-prob of the row to a reader of the question alone", "a probe"),
    ("internal_redundancy", "B", "float", "how alike neighbouring parts before the first right answer are", "a probe"),
    ("external_redundancy", "B", "float", "share of the thought after its first right answer", "a probe"),
    (
        "shift",
        "B,U",
        "float",
        "mean log-ratio made by each earlier step of a renewing plan, else NaN",
        "a plan that renews",
    ),
    (
        "hidden",
        "B,T,H",
        "float",
        "last hidden state before each token; the unembedding turns it into the logits behind `logp`",
        "the learner",
    ),
    ("top_ids", "B,T,C", "int", "the likeliest tokens, the one that stands there among them", "the learner"),
    ("top_logp", "B,T,C", "float", "log-probs of `top_ids` under the current policy", "the learner"),
    ("state", "B,T", "int", "state id of a table environment, -1 outside", "a table task"),
    ("action", "B,T", "int", "action id of a table environment, -1 outside", "a table task"),
    ("prior_value", "B,T", "float", "value of the state known before training", "a table task"),
    ("advantage", "B,T", "float", "what the term's credit gave; zero gives no gradient", "the term's credit"),
    ("target", "B,T", "float", "what the term's credit gave, as the target of a head", "the term's credit"),
)

COLUMNS: dict[str, Column] = {
    name: Column(name, shape, kind, meaning, who) for name, shape, kind, meaning, who in _ROWS
}

FACTS: dict[str, str] = {
    "progress": "share of the run that is done, 0 to 1",
    "step_index": "number of the current optimisation step, from 0",
    "max_tokens": "the completion's token limit",
    "step_size": "learning rate of the current optimiser step",
    "head_moments": "Adam's `Moments` of the policy's unembedding; None before its first step or where it is frozen",
}
"""Loop facts: keyword-only parameters with these names are filled by the loop, not by the user."""

GRADIENT = frozenset({"logp", "entropy", "value"})
"""Columns that come with the current forward pass; only surrogates may name them."""

COSTLY = frozenset({"hidden", "top_ids", "top_logp"})
"""Columns of many numbers per token, made for the rows of one optimiser step, and only when a weight names them."""


def column(name: str) -> Column:
    """Look a column up. Raises WiringError naming the nearest legal one.

    >>> column("mask").shape
    'B,T'
    """
    if name not in COLUMNS:
        raise WiringError(f"unknown column {name!r}{nearest(name, set(COLUMNS))}; see truegain.core.columns")
    return COLUMNS[name]
