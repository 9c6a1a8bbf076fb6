"""One file per published system: a composition, nothing else. Importing this package registers them all."""

from truegain.recipes.grpo import grpo as grpo
from truegain.recipes.sft import sft as sft
