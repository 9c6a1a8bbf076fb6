"""Credit components: rewards -> an advantage for every token."""

from truegain.methods.credit._gae import gae as gae
from truegain.methods.credit._gae_returns import gae_returns as gae_returns
from truegain.methods.credit._greedy_baseline import greedy_baseline as greedy_baseline
from truegain.methods.credit._greedy_reward import greedy_reward as greedy_reward
from truegain.methods.credit._group_normalise import group_normalise as group_normalise
from truegain.methods.credit._leave_one_out import leave_one_out as leave_one_out
from truegain.methods.credit._reference_kl_to_go import reference_kl_to_go as reference_kl_to_go
from truegain.methods.credit._return_to_go import return_to_go as return_to_go
from truegain.methods.credit._whiten import whiten as whiten
