"""Models: loading, saving, log-probs, entropy, scalar heads; the two embedded policies."""

from truegain.policy.heads import ScalarHead, token_values
from truegain.policy.logprobs import token_logp
from truegain.policy.policy import Policy

__all__ = ["Policy", "ScalarHead", "token_logp", "token_values"]
