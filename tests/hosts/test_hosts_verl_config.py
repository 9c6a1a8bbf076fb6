"""What the verl plugin registers, its file of knobs, the settings of verl that recipes ask for. Needs no verl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from truegain.cli import doctor
from truegain.core.component import knobs_of, spec_of
from truegain.core.errors import DataError, SettingError
from truegain.core.forms import members
from truegain.hosts import verl_record
from truegain.hosts.offers import form_of, offer, refusals
from truegain.hosts.verl_config import Config, entries, read
from truegain.hosts.verl_names import VARIABLE, registered, shipped
from truegain.hosts.verl_settings import ACTOR, ALGORITHM, Entry, check


def config(tmp_path: Path, text: str) -> Config:
    place = tmp_path / "verl.toml"
    place.write_text(text)
    return read(place)


def entry(of: Config, kind: str, name: str) -> Entry:
    (found,) = [one for one in entries(of) if (one.kind, one.name) == (kind, registered(name))]
    return found


def knobs(found: Entry, kind: str, component: str) -> dict[str, Any]:
    assert found.form is not None, found.refused
    (member,) = [m for m in members(getattr(found.form.terms[0], kind)) if spec_of(m).name == component]
    return knobs_of(member)


def test_every_component_and_recipe_has_a_name_of_its_own_in_each_registry() -> None:
    for kind in ("credit", "surrogate"):
        names = [one.name for one in entries(Config()) if one.kind == kind]
        assert len(names) == len(set(names))
        assert {registered(name) for name in shipped(kind)} >= set(names)


def test_what_cannot_run_has_its_reason_and_what_can_has_none() -> None:
    for one in entries(Config()):
        assert (one.form is None) <= bool(one.refused), one.name
        assert not one.fault
    assert entry(Config(), "credit", "whiten").refused.endswith('[whiten] with = ["group_normalise"]')
    assert "needs column 'old_logp'" in entry(Config(), "credit", "ace").refused
    assert "is 3 forms in order" in entry(Config(), "credit", "da-dler").refused
    assert "terms" in {one.missing for one in refusals(form_of("hdpo-metis", "verl"), offer("verl"))}


def test_a_table_sets_a_components_knobs_and_what_runs_before_it(tmp_path: Path) -> None:
    text = '[group_normalise]\nstd = "none"\n[whiten]\nwith = ["group_normalise"]\nper = "row"\n'
    whiten = entry(config(tmp_path, text), "credit", "whiten")
    assert whiten.form is not None
    assert [spec_of(m).name for m in members(whiten.form.terms[0].credit)] == ["group_normalise", "whiten"]
    assert knobs(whiten, "credit", "group_normalise")["std"] == "none"
    assert knobs(whiten, "credit", "whiten")["per"] == "row"


def test_a_table_adds_rewards_to_verls_own(tmp_path: Path) -> None:
    text = 'max_tokens = 64\n[leave_one_out]\nrewards = ["overlong_penalty"]\n[overlong_penalty]\nfactor = 0.5\n'
    found = entry(config(tmp_path, text), "credit", "leave_one_out")
    assert found.form is not None
    assert [spec_of(m).name for m in members(found.form.reward)] == ["user_score", "overlong_penalty"]
    assert knobs_of(members(found.form.reward)[1])["factor"] == 0.5


def test_a_recipe_takes_its_knobs_and_any_setting_of_its_form_but_not_what_verl_schedules(tmp_path: Path) -> None:
    found = entry(config(tmp_path, "[dapo]\nclip_high = 0.3\n[dapo.ppo_clip]\ndual = 3.0\n"), "surrogate", "dapo")
    assert knobs(found, "surrogate", "ppo_clip")["clip_high"] == 0.3
    assert knobs(found, "surrogate", "ppo_clip")["dual"] == 3.0
    for text in ("[gspo]\nminibatches = 8\n", "[gspo]\nlr = 1e-6\n"):
        assert "is verl's to set" in entry(config(tmp_path, text), "surrogate", "gspo").refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[grop]\nclip = 0.1\n", "'grop' is no recipe, reward, credit or surrogate (did you mean 'grpo'?)"),
        ("grpo = 3\n", "grpo is a table"),
        ("max_tokens = 0\n", "max_tokens cannot be 0"),
        ("dense_rewards = 1\n", "dense_rewards cannot be 1"),
        ("dense_reward = true\n", "(did you mean 'dense_rewards'?)"),
        ("max_tokens = 1.5\n", "max_tokens cannot be 1.5"),
    ],
)
def test_an_unknown_table_is_refused_with_the_nearest(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        config(tmp_path, text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind", "name", "said"),
    [
        ("[grpo]\nclipp = 0.1\n", "surrogate", "grpo", "(did you mean 'clip"),
        ("[ppo_clip]\nclip_hihg = 0.1\n", "surrogate", "ppo_clip", "clip_high"),
        ('[whiten]\nwith = ["group_normalize"]\n', "credit", "whiten", "(did you mean 'group_normalise'?)"),
        ('[whiten]\nwith = "group_normalise"\n', "credit", "whiten", "with is a list of names"),
        ('[group_normalise]\nstd = "nought"\n', "credit", "group_normalise", "std"),
        ('[ppo_clip]\nrewards = ["user_score"]\n', "surrogate", "ppo_clip", "rewards belong to an estimator"),
    ],
)
def test_a_wrong_knob_is_refused_where_it_is_used_and_is_a_fault_of_the_file(
    tmp_path: Path, text: str, kind: str, name: str, said: str
) -> None:
    found = entry(config(tmp_path, text), kind, name)
    assert said in found.refused
    assert str(tmp_path / "verl.toml") in found.refused
    assert found.fault


def test_a_file_that_is_not_there_or_not_toml_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none.toml"))
    with pytest.raises(DataError, match="TRUEGAIN_VERL_CONFIG names a TOML file"):
        read()
    with pytest.raises(DataError, match="is not TOML"):
        config(tmp_path, "[dapo\n")
    monkeypatch.delenv(VARIABLE)
    assert read() == Config()


@dataclass
class Actor:
    """What of verl's ActorConfig a recipe may ask about; a mapping's ``get`` beside attributes, as verl has it."""

    values: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)


def test_a_recipe_asks_for_its_own_way_to_average_and_says_what_to_write() -> None:
    dapo = entry(Config(), "surrogate", "dapo")
    check("dapo", dapo.asks, ACTOR, Actor({"loss_agg_mode": "token-mean"}))
    with pytest.raises(SettingError) as caught:
        check("dapo", dapo.asks, ACTOR, Actor({"loss_agg_mode": "seq-mean-token-mean"}))
    assert "asks for actor_rollout_ref.actor.loss_agg_mode=token-mean" in str(caught.value)
    with pytest.raises(SettingError, match=r"algorithm\.filter_groups\.enable=True"):
        check("dapo", dapo.asks, ALGORITHM, {"filter_groups": None})
    check("dapo", dapo.asks, ALGORITHM, {"filter_groups": {"enable": True}})


def test_dr_grpo_asks_for_a_constant_and_knows_it_where_max_tokens_is_stated() -> None:
    mode = {"loss_agg_mode": "seq-mean-token-sum-norm"}
    free, stated = (entry(one, "surrogate", "dr-grpo") for one in (Config(), Config(max_tokens=512)))
    check("dr-grpo", free.asks, ACTOR, Actor({**mode, "loss_scale_factor": 7}))
    check("dr-grpo", stated.asks, ACTOR, Actor({**mode, "loss_scale_factor": 512}))
    for asks, factor in ((free.asks, None), (stated.asks, 7)):
        with pytest.raises(SettingError, match="loss_scale_factor"):
            check("dr-grpo", asks, ACTOR, Actor({**mode, "loss_scale_factor": factor}))


def test_a_penalty_to_the_reference_has_to_be_verls_own_with_the_same_numbers(tmp_path: Path) -> None:
    good = {"loss_agg_mode": "seq-mean-token-mean", "use_kl_loss": True, "kl_loss_coef": 0.04}
    found = entry(config(tmp_path, "[grpo]\nbeta = 0.04\n"), "surrogate", "grpo")
    assert found.form is not None
    assert [spec_of(m).name for m in members(found.form.terms[0].surrogate)] == ["ppo_clip"]
    for name in ("low_var_kl", "k3"):
        check("grpo", found.asks, ACTOR, Actor({**good, "kl_loss_type": name}))
    for wrong in ({"use_kl_loss": False}, {"kl_loss_coef": 0.001}, {"kl_loss_type": "kl"}):
        with pytest.raises(SettingError, match=rf"actor\.{next(iter(wrong))}="):
            check("grpo", found.asks, ACTOR, Actor({**good, "kl_loss_type": "k3", **wrong}))
    assert not [ask for ask in entry(Config(), "surrogate", "grpo").asks if "kl" in ask.path]


def test_the_last_load_is_kept_and_the_doctor_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUEGAIN_STATE", str(tmp_path / "state"))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert verl_record.read() == {}
    verl_record.write("failed", "SettingError: 'grop' is no recipe")
    (found,) = doctor._verl()
    assert (found.name, found.state) == ("verl plugin", "note")
    assert "'grop' is no recipe" in found.value
    assert str(tmp_path / "state" / "verl.json") in found.mend
    kept = json.loads(verl_record.place().read_text())
    kept["failed"]["time"] = "2020-01-01T00:00:00+00:00"
    verl_record.place().write_text(json.dumps(kept))
    verl_record.write("loaded", config="knobs.toml")
    (found,) = doctor._verl()
    assert found.state == "ok"
    assert "knobs from knobs.toml" in found.value
    assert "a load failed at 2020-01-01" in found.value


def test_a_record_that_is_none_or_cannot_be_written_does_not_stop_verl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRUEGAIN_STATE", str(tmp_path / "file"))
    verl_record.write("loaded")
    monkeypatch.setenv("TRUEGAIN_STATE", str(tmp_path))
    for text in ("", "[]", '{"loaded": 3}', "\\xff"):
        verl_record.place().write_text(text)
        assert verl_record.read() == {}
    assert list(doctor._verl()) == []


def test_a_file_may_state_that_rewards_are_dense(tmp_path: Path) -> None:
    assert config(tmp_path, "dense_rewards = true\n").dense_rewards
    assert not config(tmp_path, "dense_rewards = false\n").dense_rewards
    assert not Config().dense_rewards


STAND_IN = """
import sys
sys.path.insert(0, sys.argv[1])
sys.modules[sys.argv[2]] = None  # as where a package is broken
import truegain.hosts.verl
from verl.trainer.ppo import core_algos
from truegain.core.errors import WiringError
for held in (core_algos.ADV_ESTIMATOR_REGISTRY, core_algos.losses):
    try:
        held["truegain_dr_grpo"]()
    except WiringError as error:
        print(error)
"""

REGISTRIES = """
ADV_ESTIMATOR_REGISTRY, losses = {}, {}
register_adv_est = lambda name: lambda function: ADV_ESTIMATOR_REGISTRY.setdefault(name, function)
register_policy_loss = lambda name: lambda function: losses.setdefault(name, function)
"""


@pytest.mark.parametrize("broken", ["pydantic", "jaxtyping", "torch"])
def test_a_broken_package_is_recorded_and_raised_at_every_name(tmp_path: Path, broken: str) -> None:
    place = tmp_path / "verl" / "trainer" / "ppo"
    place.mkdir(parents=True)
    (place / "core_algos.py").write_text(REGISTRIES)
    given = {**os.environ, "TRUEGAIN_STATE": str(tmp_path)}
    command = [sys.executable, "-c", STAND_IN, str(tmp_path), broken]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
    told = done.stdout.splitlines()
    assert len(told) == 2
    assert all(line.startswith("truegain_dr_grpo: ") and broken in line for line in told)
    assert broken in json.loads((tmp_path / "verl.json").read_text())["failed"]["error"]


def test_the_page_lists_every_recipe_that_runs_with_what_it_asks_for() -> None:
    page = (Path(__file__).parents[2] / "docs" / "verl.md").read_text(encoding="utf-8")
    rows: list[str] = []
    for one in entries(Config()):
        if one.kind != "credit" or not one.recipe or one.form is None or one.refused:
            continue
        asks = [(ask, f"{ask.path}={ask.values[0] if ask.values else 'N'}") for ask in one.asks]
        told = [f"`{text}`" if ask.where == ACTOR else f"`{ask.where}.{text}`" for ask, text in asks]
        rows.append(f"| {one.recipe} | `{one.name}` | {', '.join(told)} |")
    assert [line for line in page.splitlines() if line.startswith("| ") and "`truegain_" in line] == rows


def test_the_files_of_knobs_on_the_page_are_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "verl.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        found = config(tmp_path, block)
        assert not [one.refused for one in entries(found) if one.fault]
