"""Reward components: columns -> one named reward per rollout. Higher is better."""

from truegain.methods.reward._blend_study import blend_study as blend_study
from truegain.methods.reward._carry import carry as carry
from truegain.methods.reward._confidence_pairs import confidence_pairs as confidence_pairs
from truegain.methods.reward._discount_likely import discount_likely as discount_likely
from truegain.methods.reward._extreme_ranks import extreme_ranks as extreme_ranks
from truegain.methods.reward._judged_steps import judged_steps as judged_steps
from truegain.methods.reward._known_reference import known_reference as known_reference
from truegain.methods.reward._log_sigmoid import log_sigmoid as log_sigmoid
from truegain.methods.reward._malformed import malformed as malformed
from truegain.methods.reward._match_calls import match_calls as match_calls
from truegain.methods.reward._multipliers import multipliers as multipliers
from truegain.methods.reward._nonzero_reward import nonzero_reward as nonzero_reward
from truegain.methods.reward._outcome import outcome as outcome
from truegain.methods.reward._random_reward import random_reward as random_reward
from truegain.methods.reward._reference_kl import reference_kl as reference_kl
from truegain.methods.reward._reference_quantile import reference_quantile as reference_quantile
from truegain.methods.reward._reward_sureness import reward_sureness as reward_sureness
from truegain.methods.reward._search_thresholds import search_thresholds as search_thresholds
from truegain.methods.reward._stated_confidence import stated_confidence as stated_confidence
from truegain.methods.reward._steps_if_unsolved import steps_if_unsolved as steps_if_unsolved
from truegain.methods.reward._turn_discount import turn_discount as turn_discount
from truegain.methods.reward._turn_sum import turn_sum as turn_sum
from truegain.methods.reward._user_score import user_score as user_score
from truegain.methods.reward._well_formed import well_formed as well_formed
