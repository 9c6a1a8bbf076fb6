"""Samplers at work: members of that kind change logits before a draw, or hidden states as a drawn token is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from truegain.core.component import call, knobs_of, spec_of
from truegain.core.errors import SettingError, WiringError
from truegain.core.types import Sampling
from truegain.policy.decoder import Steer


class Samplers:
    """The samplers of one call of an engine, with what each row's steering remembers.

    A sampler with a knob ``layer`` steers: it is given what block ``layer`` (from 0) hands on for the token just read
    (``hidden`` [B, D]), that token's text (``text``, one string per row), ``peak`` [B], the largest probability, at
    temperature 1, of the distribution that the token was drawn from, and its own ``state`` (tensors by name, a row
    each; empty at the first token). It returns the new hidden states and the new state. Tokens that a request gives are
    not steered, and every request begins with an empty state. Other samplers take ``logits`` [B, V] (and ``history``
    [B, t], drawn so far) and return logits.
    """

    def __init__(self, members: Sequence[Any], decode: Callable[[Sequence[int]], str]) -> None:  # noqa: D107
        self._plain = [member for member in members if not steers(member)]
        self._steering = [member for member in members if steers(member)]
        self._layers = [int(knobs_of(member)["layer"]) for member in self._steering]
        self._states: list[Mapping[str, Tensor]] = [{} for _ in self._steering]
        self._decode, self._texts = decode, dict[int, str]()

    def logits(self, logits: Tensor, history: Tensor) -> Tensor:
        """The logits of the next draw, changed by every sampler without a layer, in order."""
        for member in self._plain:
            logits, _ = call(member, {"logits": logits, "history": history}, {})
        return logits

    def steer(self, tokens: Tensor, logits: Tensor) -> Steer | None:
        """What changes the hidden states of these tokens [B], drawn from these logits [B, V]; None for no steering."""
        if not self._steering:
            return None
        peak, text = logits.float().softmax(-1).amax(-1), [self._text(token) for token in tokens.tolist()]

        def changed(layer: int, hidden: Tensor) -> Tensor:
            for n, member in enumerate(self._steering):
                if self._layers[n] == layer:
                    given = {"hidden": hidden, "peak": peak, "text": text, "state": self._states[n]}
                    hidden, self._states[n] = member(**{name: given[name] for name in spec_of(member).inputs})
            return hidden

        return changed

    def select(self, rows: Tensor) -> None:
        """Keep what some rows remember, in ascending order."""
        self._states = [{name: value[rows] for name, value in state.items()} for state in self._states]

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._decode((token,))
        return self._texts[token]


def steers(member: Any) -> bool:
    """True for a sampler of hidden states."""
    return "layer" in spec_of(member).knobs


def samplers_for(sampling: Sampling, policy: Any, decoder: Any) -> Samplers | None:
    """The samplers of a call, None without any.

    Raises WiringError for a member that is no sampler, SettingError for a block that the model does not have.
    """
    if not sampling.samplers:
        return None
    for member in sampling.samplers:
        spec = spec_of(member)
        if spec.kind != "sampler":
            raise WiringError(f"sampling: {spec.full_name} is a {spec.kind}, not a sampler")
        if not steers(member):
            continue
        layer, name = knobs_of(member)["layer"], type(policy.model).__name__
        if not decoder.blocks:
            raise SettingError(f"{spec.full_name} steers hidden states, and {name} has none that can be reached")
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < decoder.blocks:
            raise SettingError(f"{spec.full_name}: layer must be 0 to {decoder.blocks - 1} of {name}, not {layer!r}")
    return Samplers(sampling.samplers, policy.decode)
