"""The offer of verl, and what the adapter stands on, held against the installed version."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
from surface import MODES, surface

from truegain.hosts.offers import offer
from truegain.hosts.verl_columns import MORE
from truegain.hosts.verl_config import Config, entries


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return surface()


def test_an_estimator_is_handed_what_the_offer_says_and_no_more(found: dict[str, Any]) -> None:
    assert found["handed to estimator"] == ["config", "index", "response_mask", "token_level_rewards"], (
        "verl hands estimators something new: `seen` in the offer of verl may grow"
    )
    seen = offer("verl").seen["credit"]
    assert seen <= {*offer("verl").columns}
    assert not seen & {"old_logp", "logp", "tokens", *(set(MORE.values()) - {"tokens"})}


def test_a_loss_is_handed_what_the_offer_says_and_no_more(found: dict[str, Any]) -> None:
    assert found["handed to loss"] == sorted(
        ["old_log_prob", "log_prob", "advantages", "response_mask", "loss_agg_mode", "config", "rollout_is_weights"]
    )
    assert offer("verl").seen["surrogate"] == {"mask", "turn", "advantage", "old_logp", "logp"}


def test_counts_of_the_whole_batch_reach_a_loss_under_the_names_of_agg_loss(found: dict[str, Any]) -> None:
    assert set(found["handed to global_batch_info"]) <= set(found["signature of agg_loss"])
    assert {"dp_size", "batch_num_tokens", "global_batch_size"} <= set(found["handed to global_batch_info"])


def test_the_v1_trainer_fetches_nothing_that_would_feed_more(found: dict[str, Any]) -> None:
    assert set(found["handed to v1 fields"]) == {
        "uid",
        "response_mask",
        "rm_scores",
        "rollout_log_probs",
        "old_log_probs",
        "ref_log_prob",
        "values",
    }


def test_every_setting_that_a_recipe_asks_for_is_one_of_verls(found: dict[str, Any]) -> None:
    fields = {*found["fields of ActorConfig"], *found["fields of AlgoConfig"]}
    asked = {ask.path.partition(".")[0] for entry in entries(Config()) for ask in entry.asks}
    assert asked <= fields
    assert "enable" in found["fields of FilterGroupsConfig"]
    assert found["ways to average"] == list(MODES)


def test_the_offer_is_of_the_version_that_is_tested() -> None:
    assert offer("verl").installed() == version("verl")
