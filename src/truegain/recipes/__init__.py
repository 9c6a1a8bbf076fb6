"""One file per published system: a composition, nothing else. Importing this package registers them all."""

from truegain.recipes.ace import ace as ace
from truegain.recipes.adora import adora as adora
from truegain.recipes.bradley_terry_rm import bradley_terry_rm as bradley_terry_rm
from truegain.recipes.cispo import cispo as cispo
from truegain.recipes.constrained_rlhf import constrained_rlhf as constrained_rlhf
from truegain.recipes.dapo import dapo as dapo
from truegain.recipes.dco_limit_confidence import dco_limit_confidence as dco_limit_confidence
from truegain.recipes.direct_behaviour_specification import (
    direct_behaviour_specification as direct_behaviour_specification,
)
from truegain.recipes.dler import dler as dler
from truegain.recipes.dr_grpo import dr_grpo as dr_grpo
from truegain.recipes.drpo import drpo as drpo
from truegain.recipes.empg import empg as empg
from truegain.recipes.grpo import grpo as grpo
from truegain.recipes.grpo_guard import grpo_guard as grpo_guard
from truegain.recipes.gspo import gspo as gspo
from truegain.recipes.hdpo_metis import hdpo_metis as hdpo_metis
from truegain.recipes.igpo import igpo as igpo
from truegain.recipes.kl_estimators import kl_estimators as kl_estimators
from truegain.recipes.lite_ppo import lite_ppo as lite_ppo
from truegain.recipes.lsc_transform import lsc_transform as lsc_transform
from truegain.recipes.matchtir import matchtir as matchtir
from truegain.recipes.mhpo import mhpo as mhpo
from truegain.recipes.nsr_wreinforce import nsr_wreinforce as nsr_wreinforce
from truegain.recipes.one_shot_rlvr import one_shot_rlvr as one_shot_rlvr
from truegain.recipes.p2s import p2s as p2s
from truegain.recipes.pav import pav as pav
from truegain.recipes.pf_ppo import pf_ppo as pf_ppo
from truegain.recipes.ppo import ppo as ppo
from truegain.recipes.prof import prof as prof
from truegain.recipes.pure import pure as pure
from truegain.recipes.r3l import r3l as r3l
from truegain.recipes.reinforce import reinforce as reinforce
from truegain.recipes.reinforce_pp import reinforce_pp as reinforce_pp
from truegain.recipes.reinforce_pp_baseline import reinforce_pp_baseline as reinforce_pp_baseline
from truegain.recipes.remax import remax as remax
from truegain.recipes.riskpo import riskpo as riskpo
from truegain.recipes.rloo import rloo as rloo
from truegain.recipes.safe import safe as safe
from truegain.recipes.salt import salt as salt
from truegain.recipes.sapo import sapo as sapo
from truegain.recipes.seeupo import seeupo as seeupo
from truegain.recipes.sft import sft as sft
from truegain.recipes.spae import spae as spae
from truegain.recipes.tp_grpo import tp_grpo as tp_grpo
from truegain.recipes.trpa import trpa as trpa
from truegain.recipes.unlikeliness_reward import unlikeliness_reward as unlikeliness_reward
from truegain.recipes.v0_5 import v0_5 as v0_5
from truegain.recipes.verpo import verpo as verpo
