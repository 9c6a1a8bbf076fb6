"""RewardMATH: one right solution against nine wrong ones in the same style."""

from __future__ import annotations

from truegain.core.forms import Measure, Study
from truegain.core.system import system
from truegain.methods import evaluation


@system(
    "reward",
    paper="arXiv:2410.01729",
    cite="Kim et al. 2024, Evaluating robustness of reward models for mathematical reasoning",
    differs="the design of the benchmark on your own pairs, not its 483 problems; any number of wrong solutions, and "
    "intervals over problems; a model that abstains ranks last (source: a generative judge's unreadable rating is 1); "
    "steps of a process reward model are joined by `reward.aggregate_steps`",
)
def rewardmath(stored: bool = False) -> Study | Measure:
    """How robust a reward model is: whether the right solution scores above all of many wrong ones, and at which rank.

    Scores a file of pairs in TRL's columns (``--data``), those of one prompt being one problem, with the reward model
    or ensemble given as ``--model``. With ``stored`` it reads scores instead: lines of ``problem``, ``score`` and
    ``correct`` (``--records``).
    """
    return Measure(evaluation.one_to_many) if stored else Study(evaluation.one_to_many_study)
