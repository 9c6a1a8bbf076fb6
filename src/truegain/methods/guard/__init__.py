"""Guards: what watches a run while it is optimised, and says when what is wanted no longer follows."""

from truegain.methods.guard._gap_evidence import gap_evidence as gap_evidence
from truegain.methods.guard._gold_gap import GapLook as GapLook
from truegain.methods.guard._gold_gap import GoldGap as GoldGap
from truegain.methods.guard._gold_gap import gold_gap as gold_gap
from truegain.methods.guard._gold_gap import judge_look as judge_look
from truegain.methods.guard._gold_gap_of_means import gold_gap_of_means as gold_gap_of_means
from truegain.methods.guard._mean_evidence import mean_evidence as mean_evidence
from truegain.methods.guard._spent_level import spent_level as spent_level
