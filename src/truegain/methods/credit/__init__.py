"""Credit components: rewards -> an advantage for every token."""

from truegain.methods.credit._greedy_reward import greedy_reward as greedy_reward
from truegain.methods.credit._group_normalise import group_normalise as group_normalise
