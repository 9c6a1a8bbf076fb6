"""Objective components: the loss of each token, and the weights that sum it. Lower is better."""

from truegain.methods.objective._entropy_bonus import entropy_bonus as entropy_bonus
from truegain.methods.objective._kl_to_reference import kl_to_reference as kl_to_reference
from truegain.methods.objective._negative_logp import negative_logp as negative_logp
from truegain.methods.objective._ppo_clip import ppo_clip as ppo_clip
from truegain.methods.objective._sequence_mean import sequence_mean as sequence_mean
from truegain.methods.objective._sequence_sum import sequence_sum as sequence_sum
from truegain.methods.objective._token_mean import token_mean as token_mean
