"""The over-optimisation laboratory: the world is what it says, runs resume, and the page shows what was found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from truegain.cli.__main__ import main
from truegain.core.errors import SettingError
from truegain.lab import optimise, overopt
from truegain.lab.optimise import best_of_n, reinforce
from truegain.lab.overopt import QUICK, Setting, arms, summary
from truegain.lab.proxies import Proxies
from truegain.report.overopt import render_overopt, sentence
from truegain.tasks import rubric as rubric_room
from truegain.tasks.rubric import Rubric

SMALL = replace(
    QUICK, seeds=(0, 1), letters=4, tokens=4, pairs=64, epochs=1, members=2, pool=64, ns=(1, 2, 4, 8), steps=2,
    samples=8, look_every=2,
)  # fmt: skip


def test_gold_is_the_rubric_worked_out_by_hand_and_standardised_on_the_base_policy() -> None:
    world = Rubric(0, letters=3, tokens=4)
    texts = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 0]])
    v = world.worth.tolist()
    # Four mentions earn 15/16, two earn 3/4, one earns 1/2
    earned = [v[0] * 15 / 16, v[0] * 3 / 4 + v[1] / 2 + v[2] / 2]
    gold = world.gold(texts)
    mean, deviation = world._scale
    assert gold.tolist() == pytest.approx([(e - mean) / deviation for e in earned], rel=1e-4)
    own = world.gold(world.sample(world.base, 8000, torch.Generator().manual_seed(5)))
    assert float(own.mean()) == pytest.approx(0.0, abs=0.05) and float(own.std()) == pytest.approx(1.0, abs=0.05)


def test_the_kl_is_exact() -> None:
    world = Rubric(1, letters=3, tokens=5)
    policy = world.base + torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    texts = torch.cartesian_prod(*[torch.arange(3)] * 5)
    p, q = world.logp(policy.double(), texts).sum(1), world.base.double().log_softmax(1)
    q = Rubric.logp(world, q, texts).sum(1)
    assert float(p.exp().sum()) == pytest.approx(1.0)
    assert world.kl(policy) == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-6)
    assert world.kl(world.base) == 0.0


def test_a_quarter_of_the_labels_is_turned_round_and_nothing_else_is() -> None:
    world = Rubric(2)
    pairs = [world.pair("train", i) for i in range(1000)]
    flipped = [pair.meta["flipped"] for pair in pairs]
    assert sum(flipped) / 1000 == pytest.approx(0.25, abs=0.05)
    for pair in pairs[:200]:
        texts = torch.tensor([[ord(c) - ord("a") for c in text] for text in (pair.chosen, pair.rejected)])
        better = bool(world.gold(texts)[0] > world.gold(texts)[1])
        assert (
            better != pair.meta["flipped"]
            or pair.chosen == pair.rejected
            or sorted(pair.chosen) == sorted(pair.rejected)
        )
    assert Rubric(2).pair("train", 7) == pairs[7] and world.pair("dev", 7).chosen != pairs[7].chosen
    clean = Rubric(2, flip=0.0)
    assert not any(clean.pair("train", i).meta["flipped"] for i in range(50))


class Truth:
    """A reward model that is gold itself, under every member's name."""

    members = ()

    def __init__(self, world: Rubric) -> None:
        self.world = world

    def score(self, texts: torch.Tensor, members: int | None = None) -> torch.Tensor:
        return self.world.gold(texts)[:, None].repeat(1, 3 if members is None else members)


def test_optimising_the_truth_itself_raises_it_and_a_kl_penalty_holds_the_policy_back() -> None:
    world = Rubric(3, letters=6, tokens=6)
    proxies: Any = Truth(world)
    by_name = {arm.name: arm for arm in arms()}
    ends: dict[str, dict[str, list[float]]] = {}
    for name in ("single", "single, KL 0.3", "worst case", "single, chi2 0.03"):
        arm = by_name[name]
        ends[name] = reinforce(proxies, arm.form, members=arm.members, steps=20, samples=64, lr=0.1, look_every=10)
        assert ends[name]["gold"][-1] > 1.0 and ends[name]["kl"][0] == 0.0
        assert ends[name]["proxy"][-1] == pytest.approx(ends[name]["gold"][-1], abs=0.3)
    assert ends["single, KL 0.3"]["kl"][-1] < ends["single"]["kl"][-1]
    assert ends["single, chi2 0.03"]["kl"][-1] < ends["single"]["kl"][-1]
    assert ends["worst case"]["gold"] == pytest.approx(ends["single"]["gold"])  # equal members are one


def test_best_of_n_by_gold_is_the_best_there_is() -> None:
    gold = torch.randn(256, generator=torch.Generator().manual_seed(0))
    noisy = gold + torch.randn(256, generator=torch.Generator().manual_seed(1))
    best, other = best_of_n(gold, gold, (1, 16)), best_of_n(noisy, gold, (1, 16))
    assert best["gold"][0] == pytest.approx(other["gold"][0]) == pytest.approx(float(gold.mean()), abs=1e-6)
    assert best["gold"][1] > other["gold"][1] and best["kl"] == pytest.approx([0.0, math.log(16) - 15 / 16])


def test_members_are_on_the_scale_of_the_base_policy() -> None:
    world = Rubric(0, letters=4, tokens=4)
    shift, scale = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5])

    class Fixed:
        members = (1, 2)
        source = ""

    proxies = Proxies(world, Fixed(), shift, scale)  # type: ignore[arg-type]
    assert proxies.shift.tolist() == [1.0, -2.0]


# The whole, small


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Few arms and short looks: what is tested here does not depend on how many there are."""
    few = [arm for arm in arms() if arm.name in ("single", "mean, KL 0.1", "single, KL 0.1", "single, chi2 0.01")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overopt, "arms", lambda: few)
        patch.setattr(optimise, "LOOK_PROXY", 8)
        patch.setattr(rubric_room, "BLOCK", 2048)
        yield


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("lab") / "run"
    return out, list(overopt.run(SMALL, out))[-1]


def test_a_run_ends_with_a_summary_of_every_arm(found: tuple[Path, dict[str, Any]]) -> None:
    _, told = found
    assert told["kind"] == "summary" and list(told["rl"]) == [arm.name for arm in overopt.arms()]
    assert set(told["bon"]) == {"single", "mean", "worst case", "uncertainty", "median", "gold itself"}
    plain = next(row for row in told["rl_table"] if row["arm"] == "single")
    assert plain["end_gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    for row in (*told["rl_table"], *told["bon_table"]):
        assert row["fall"]["value"] >= 0 and row["end_gain"]["low"] <= row["end_gain"]["value"]
    json.dumps(told, allow_nan=False)


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(found: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, whole = found
    out, pieces = tmp_path / "run", list[str]()
    one = replace(SMALL, seeds=(0,))
    for line in overopt.run(one, out, lambda: "time is up" if len(pieces) > 3 else None):
        assert line["kind"] == "piece"
        pieces.append(line["what"])
    assert 0 < len(pieces) < 7
    rest = list(overopt.run(one, out))
    for kind in ("rl", "bon"):
        assert all(arm["seeds"][0] == whole[kind][name]["seeds"][0] for name, arm in rest[-1][kind].items())
    with pytest.raises(SettingError, match="another pairs"):
        next(overopt.run(replace(SMALL, pairs=65), out))


def test_the_page_says_what_happened_and_loads_nothing(found: tuple[Path, dict[str, Any]]) -> None:
    _, told = found
    page = render_overopt(told)
    assert page.count("<svg") > 8 and "<script" not in page and "http://" not in page and "https://" not in page
    for name in told["rl"]:
        assert name in page
    assert "Proxy" in page and "gold" in sentence(told)


def made_up(gold: list[list[float]]) -> dict[str, Any]:
    """A summary of two seeds whose single reward model gave these gold curves, all other arms none."""
    curve = {"kl": [0.0, 1.0, 4.0, 9.0], "proxy": [0.0, 1.0, 2.0, 3.0]}
    flat = [0.0, 0.5, 0.6, 0.7]
    rows = []
    for g in gold:
        rl = {arm.name: {**curve, "gold": flat} for arm in arms()} | {"single": {**curve, "gold": g}}
        bon = {name: {**curve, "gold": g, "n": [1, 2, 3, 4]} for name in ("single", "mean")}
        facts = dict.fromkeys(("accuracy", "rank_correlation_base", "rank_correlation_top", "difference_base",
                               "difference_top"), 0.5)  # fmt: skip
        rows.append({"rl": rl, "bon": bon, "facts": {**facts, "seconds": 1.0}})
    return summary(replace(Setting(), seeds=(0, 1)), rows)


def test_the_table_pairs_the_seeds_and_the_sentence_says_falls_only_where_the_interval_does() -> None:
    fell = made_up([[0.0, 1.0, 0.5, 0.1], [0.0, 1.2, 0.6, 0.3]])
    plain = next(row for row in fell["rl_table"] if row["arm"] == "single")
    # Falls of 0.9 and 0.9; the others end 0.6 and 0.4 higher
    assert plain["fall"]["value"] == pytest.approx(0.9) and plain["fall"]["low"] == pytest.approx(0.9)
    other = next(row for row in fell["rl_table"] if row["arm"] == "mean")
    assert other["end_gain"]["value"] == pytest.approx(0.5)
    assert other["end_gain"]["high"] == pytest.approx(0.5 + 12.706 * 0.1, abs=1e-3)  # t with 1 degree of freedom
    assert "falls by 0.90" in sentence(fell)
    unsure = made_up([[0.0, 0.5, 1.0, 1.0], [0.0, 0.5, 1.0, 0.9]])
    assert "moves by" in sentence(unsure) and np.isfinite(unsure["rl"]["single"]["law"]["alpha"])


def test_the_command_writes_results_and_page_and_says_how_much_each_remedy_gains(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(overopt, "QUICK", replace(SMALL, seeds=(0,)))
    out = tmp_path / "lab"
    assert main(["lab", "overopt", "--quick", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "single, chi2 0.01" in said and "gain" in said and (out / "overopt.html").is_file()
    assert json.loads((out / "results.json").read_text())["setting"]["members"] == 2
    assert main(["lab"]) == 2
    assert main(["lab", "overopt", "--vary", "colour", "--out", str(tmp_path / "x")]) == 2
    assert "pretraining or by order" in capsys.readouterr().err
