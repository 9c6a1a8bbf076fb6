"""Models of checkers: how wrong they can be, what that does to training and to resampling, and what to do about it."""

from truegain.methods.verifier._appeals import appeals as appeals
from truegain.methods.verifier._complete_prompts import complete_prompts as complete_prompts
from truegain.methods.verifier._false_reject_rate import false_reject_rate as false_reject_rate
from truegain.methods.verifier._find_common_mistake import find_common_mistake as find_common_mistake
from truegain.methods.verifier._forward_correction import forward_correction as forward_correction
from truegain.methods.verifier._noisy_checker import noisy_checker as noisy_checker
from truegain.methods.verifier._resampling import best_attempts as best_attempts
from truegain.methods.verifier._resampling import resampling_accuracy as resampling_accuracy
from truegain.methods.verifier._resampling import resampling_ceiling as resampling_ceiling
from truegain.methods.verifier._resampling import resampling_reward as resampling_reward
from truegain.methods.verifier._resampling import resampling_study as resampling_study
from truegain.methods.verifier._rouge_l import rouge_l as rouge_l
from truegain.methods.verifier._unbiased_by_prompt import unbiased_by_prompt as unbiased_by_prompt
from truegain.methods.verifier._unbiased_verdict import unbiased_verdict as unbiased_verdict
