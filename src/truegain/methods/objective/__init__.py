"""Objective components: the loss of each token, and the weights that sum it. Lower is better."""

from truegain.methods.objective._adaptive_kl import adaptive_kl as adaptive_kl
from truegain.methods.objective._capped_ratio import capped_ratio as capped_ratio
from truegain.methods.objective._corrected_kl_to_reference import corrected_kl_to_reference as corrected_kl_to_reference
from truegain.methods.objective._entropy_bonus import entropy_bonus as entropy_bonus
from truegain.methods.objective._kl_to_reference import kl_to_reference as kl_to_reference
from truegain.methods.objective._limit_mean import limit_mean as limit_mean
from truegain.methods.objective._minibatches import minibatches as minibatches
from truegain.methods.objective._negative_logp import negative_logp as negative_logp
from truegain.methods.objective._off_policy_mask import off_policy_mask as off_policy_mask
from truegain.methods.objective._policy_gradient import policy_gradient as policy_gradient
from truegain.methods.objective._ppo_clip import ppo_clip as ppo_clip
from truegain.methods.objective._sequence_clip import sequence_clip as sequence_clip
from truegain.methods.objective._sequence_mean import sequence_mean as sequence_mean
from truegain.methods.objective._sequence_sum import sequence_sum as sequence_sum
from truegain.methods.objective._soft_gate import soft_gate as soft_gate
from truegain.methods.objective._token_mean import token_mean as token_mean
from truegain.methods.objective._token_sum import token_sum as token_sum
from truegain.methods.objective._truncated_importance import truncated_importance as truncated_importance
from truegain.methods.objective._value_clip import value_clip as value_clip
