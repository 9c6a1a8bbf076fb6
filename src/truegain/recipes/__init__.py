"""One file per published system: a composition, nothing else. Importing this package registers them all."""

from truegain.recipes.cispo import cispo as cispo
from truegain.recipes.dapo import dapo as dapo
from truegain.recipes.dr_grpo import dr_grpo as dr_grpo
from truegain.recipes.grpo import grpo as grpo
from truegain.recipes.gspo import gspo as gspo
from truegain.recipes.ppo import ppo as ppo
from truegain.recipes.reinforce import reinforce as reinforce
from truegain.recipes.reinforce_pp import reinforce_pp as reinforce_pp
from truegain.recipes.reinforce_pp_baseline import reinforce_pp_baseline as reinforce_pp_baseline
from truegain.recipes.remax import remax as remax
from truegain.recipes.rloo import rloo as rloo
from truegain.recipes.sapo import sapo as sapo
from truegain.recipes.sft import sft as sft
