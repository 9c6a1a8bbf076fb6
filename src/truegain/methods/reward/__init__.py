"""Reward components: columns -> one named reward per rollout. Higher is better."""

from truegain.methods.reward._outcome import outcome as outcome
from truegain.methods.reward._random_reward import random_reward as random_reward
from truegain.methods.reward._reference_kl import reference_kl as reference_kl
from truegain.methods.reward._user_score import user_score as user_score
