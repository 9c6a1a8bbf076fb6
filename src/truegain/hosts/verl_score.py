"""verl's reward function, from anything that `Reward.of` reads. Nothing here imports verl::

    reward.custom_reward_function.path=pkg://truegain.hosts.verl reward.custom_reward_function.name=compute_score

with, in the file that ``TRUEGAIN_VERL_CONFIG`` names (or the same keys below ``reward_kwargs``)::

    [compute_score]
    reward = "math"      # or a task, a function as rewards.py:brief, the folder of a reward model
    abstain = "drop"     # or a number, the score of a completion that could not be judged

verl has no abstention: a score is a number. ``drop`` gives NaN, which our estimators leave out of a group's statistics
and give advantage 0. The row stays in verl's batch: its tokens count where a loss is averaged, so that the other rows
weigh less than in our own loop, and KL and entropy terms train on it. To verl's own estimators and to its means of
scores it is NaN; with these name a number.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from truegain.core.errors import SettingError, nearest

if TYPE_CHECKING:  # verl imports the plugin in every process, and few of them score
    from truegain.hosts.rewards import VerlReward

KEYS = ("reward", "abstain", "fact", "deadline", "workers", "memory_mb")

_LOCK = threading.Lock()
_MADE: dict[tuple[tuple[str, Any], ...], VerlReward] = {}


def made(settings: Mapping[str, Any]) -> VerlReward:
    """The reward of these settings, one in each process. Raises SettingError for an incomplete or unknown one."""
    from truegain.hosts.rewards import Reward

    for name in settings:
        if name not in KEYS:
            hint = nearest(name, list(KEYS))
            raise SettingError(f"compute_score: unknown key {name!r}{hint}; it has {', '.join(KEYS)}")
    if "reward" not in settings:
        raise SettingError('compute_score: reward is missing, such as reward = "math" or reward = "rewards.py:brief"')
    abstain = settings.get("abstain")
    if abstain != "drop" and (isinstance(abstain, bool) or not isinstance(abstain, int | float)):
        raise SettingError(
            'compute_score: say what a completion counts that cannot be judged: abstain = "drop" keeps it out of its '
            "group's statistics and gives it advantage 0 under the estimators of truegain (verl's averages still count "
            "its tokens), and is NaN to verl's own; abstain = 0.0 is a wrong answer"
        )
    more = {name: value for name, value in settings.items() if name not in ("reward", "abstain")}
    key = tuple(sorted(settings.items()))
    with _LOCK:
        if key not in _MADE:
            worth = math.nan if abstain == "drop" else float(abstain)
            _MADE[key] = Reward.of(settings["reward"], **more).as_verl(abstained=worth)
        return _MADE[key]


def compute_score(
    data_source: Any, solution_str: str, ground_truth: Any, extra_info: Any = None, **more: Any
) -> dict[str, float]:
    """Score one completion, in a worker process with a deadline: ``score`` and ``truegain_abstained``, 0.0 or 1.0.

    The keys are the same for every sample. Of ``more``, settings win over the file's; the rest goes to the function.
    """
    from truegain.hosts.verl_config import read

    own = {name: value for name, value in more.items() if name in KEYS}
    rest = {name: value for name, value in more.items() if name not in KEYS}
    reward = made({**(read().score or {}), **own})
    return reward(data_source, solution_str, ground_truth, extra_info, **rest)
