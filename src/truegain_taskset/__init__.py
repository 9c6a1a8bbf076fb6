"""The taskset id under which verifiers finds ours: ``vf-eval truegain-taskset --env.taskset.spec sort,level=6``."""

from truegain.hosts.verifiers import TruegainTaskset

__all__ = ["TruegainTaskset"]
