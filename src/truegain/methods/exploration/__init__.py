"""Exploration components: what to try, and which groups to sample again."""

from truegain.methods.exploration._accuracy_variance import accuracy_variance as accuracy_variance
from truegain.methods.exploration._buy_by_risk import buy_by_risk as buy_by_risk
from truegain.methods.exploration._dosed_sampling import dosed_sampling as dosed_sampling
from truegain.methods.exploration._dynamic_sampling import dynamic_sampling as dynamic_sampling
from truegain.methods.exploration._gain_after_saturation import gain_after_saturation as gain_after_saturation
from truegain.methods.exploration._known_prior import known_prior as known_prior
from truegain.methods.exploration._process_consistent import process_consistent as process_consistent
from truegain.methods.exploration._reflect_retry import reflect_retry as reflect_retry
from truegain.methods.exploration._replicate import replicate as replicate
from truegain.methods.exploration._running_reward import running_reward as running_reward
from truegain.methods.exploration._splice_corrections import splice_corrections as splice_corrections
