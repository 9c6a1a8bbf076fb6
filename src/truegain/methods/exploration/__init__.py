"""Exploration components: what to try, and which groups to sample again."""

from truegain.methods.exploration._dynamic_sampling import dynamic_sampling as dynamic_sampling
