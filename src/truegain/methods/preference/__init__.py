"""Preference losses: what both completions of a pair get -> one loss per pair. Lower is better."""

from truegain.methods.preference._bradley_terry import bradley_terry as bradley_terry
from truegain.methods.preference._dpo import dpo as dpo
from truegain.methods.preference._simpo import simpo as simpo
