"""The verl plugin: ``pip install truegain``, then ``algorithm.adv_estimator=truegain_dr_grpo``.

verl imports this module wherever it is imported itself, by the entry point ``verl.plugins``. It puts every credit
component and every recipe into verl's registry of advantage estimators, and every surrogate and recipe into that of
policy losses, under ``truegain_NAME``. What verl cannot feed is registered too, and raises the reason when it is used:
a run never trains something else in its place. Knobs: `truegain.hosts.verl_config`; traps: ``docs/verl.md``.

What is imported up here needs the standard library alone. verl swallows what a plugin raises, so everything that can
be broken in an environment is imported where its failure is recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from truegain.core.errors import WiringError
from truegain.hosts import verl_record
from truegain.hosts.verl_names import PLACES, registered, shipped
from truegain.hosts.verl_score import compute_score

try:
    from verl.trainer.ppo import core_algos  # pyright: ignore[reportMissingImports]
except Exception as error:
    why = f"truegain.hosts.verl needs verl and what its trainer imports ({error}): pip install 'truegain[verl]'"
    if "verl" in sys.modules:
        verl_record.write("failed", why)
    raise ImportError(why) from error

__all__ = ["compute_score", "install", "refuser"]

Function = Callable[..., Any]


def refuser(name: str, reason: str) -> Function:
    """What stands under a name that could not be made: it raises the reason."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise WiringError(f"{name}: {reason}")

    return refuse


def _put(kind: str, name: str, function: Function) -> None:
    """Register, in the place of what this module registered before, should it be imported anew."""
    if kind == "surrogate":
        core_algos.register_policy_loss(name)(function)
        return
    before = core_algos.ADV_ESTIMATOR_REGISTRY.get(name)
    if before is not None and before.__module__ in (__name__, "truegain.hosts.verl_functions"):
        del core_algos.ADV_ESTIMATOR_REGISTRY[name]
    core_algos.register_adv_est(name)(function)


def install() -> None:
    """Register everything, and keep how that went where `truegain doctor` shows it."""
    try:
        from truegain.hosts.verl_columns import Density
        from truegain.hosts.verl_config import entries, read
        from truegain.hosts.verl_functions import estimator, policy_loss

        config = read()
        found = list(entries(config))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}; see `truegain doctor`"
        verl_record.write("failed", reason, config=verl_record.config_path())
        for kind in PLACES:
            for name in shipped(kind):
                _put(kind, registered(name), refuser(registered(name), reason))
        return
    density = Density(config.dense_rewards)
    for entry in found:
        credit, of = entry.kind == "credit", (entry, config.facts)
        _put(entry.kind, entry.name, estimator(*of, density) if credit else policy_loss(*of, core_algos.agg_loss))
    faults = [f"{entry.name}: {entry.refused}" for entry in found if entry.fault]
    if faults:
        verl_record.write("failed", faults[0], config=verl_record.config_path())
    else:
        counts = {kind: sum(e.kind == kind and not e.refused for e in found) for kind in PLACES}
        verl_record.write("loaded", runs=counts, config=verl_record.config_path())


install()
