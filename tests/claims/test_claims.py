"""Claims: the interval alone decides, no seed drops out, and records come back as they were written."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from truegain.claims import CLAIMS, Claim, read_records, run, write_record
from truegain.claims.claim import record_of, verdict_of
from truegain.core.errors import DataError, RunError, SettingError
from truegain.core.system import SYSTEMS
from truegain.train import folder

EFFECTS = (0.3, 0.35, 0.4, 0.45, 0.5)
# Mean 0.4, deviation sqrt(0.025 / 4) = 0.0790569, standard error 0.0353553, t with 4 degrees of freedom 2.776445:
LOW, HIGH = 0.4 - 2.776445 * 0.0353553, 0.4 + 2.776445 * 0.0353553


def claim(**more: Any) -> Claim:
    def one_seed(seed: int) -> Mapping[str, float]:
        return {"ours": 0.5 + EFFECTS[seed % 5], "theirs": 0.5}

    given: dict[str, Any] = {"threshold": 0.2, **more}
    return Claim(
        name="toy", system="grpo", states="Ours beats theirs.", unit="accuracy", one_seed=one_seed,
        effect=lambda arms: arms["ours"] - arms["theirs"], **given,
    )  # fmt: skip


def rows_of(effects: tuple[float, ...]) -> list[dict[str, Any]]:
    return [{"seed": seed, "arms": {}, "effect": effect} for seed, effect in enumerate(effects)]


def test_every_seed_is_run_and_the_record_holds_their_numbers_and_the_interval() -> None:
    *rows, record = run(claim())
    took = [row.pop("seconds") for row in rows]
    assert [row["seed"] for row in rows] == [0, 1, 2, 3, 4] and record["rows"] == rows
    assert record["seconds"] == round(sum(took), 1)
    assert rows[1]["arms"] == {"ours": 0.85, "theirs": 0.5} and rows[1]["effect"] == pytest.approx(0.35)
    assert record["effect"]["mean"] == pytest.approx(0.4)
    assert (record["effect"]["low"], record["effect"]["high"]) == pytest.approx((LOW, HIGH), abs=1e-6)
    assert (record["verdict"], record["seeds"], record["threshold"], record["margin"]) == ("reproduced", 5, 0.2, None)
    system = SYSTEMS["grpo"]
    assert (record["paper"], record["differs"], record["system"]) == (system.paper, system.differs, "grpo")
    assert {"python", "truegain", "torch", "transformers"} <= record["versions"].keys()
    assert record["seconds"] >= 0
    json.dumps(record, allow_nan=False)


def test_seeds_that_were_run_before_are_not_run_again_and_the_record_is_the_same() -> None:
    *rows, whole = run(claim())
    had = [{name: value for name, value in row.items() if name != "seconds"} for row in (rows[3], rows[0])]
    *more, record = run(claim(), had, 2.5)
    assert [row["seed"] for row in more] == [1, 2, 4]
    assert {**record, "seconds": 0} == {**whole, "seconds": 0} and record["seconds"] >= 2.5


@pytest.mark.parametrize(("threshold", "verdict"), [(LOW - 1e-4, "reproduced"), (LOW + 1e-4, "not reproduced")])
def test_reproduced_means_that_the_whole_interval_lies_above_the_threshold(threshold: float, verdict: str) -> None:
    # All five seeds are above either threshold, and so is the mean: only the low end decides.
    assert record_of(claim(threshold=threshold), rows_of(EFFECTS), 1.0)["verdict"] == verdict


def test_four_seeds_of_five_are_not_enough() -> None:
    record = record_of(claim(threshold=0.0), rows_of((0.4, 0.5, 0.4, 0.5, -0.4)), 1.0)
    assert record["effect"]["mean"] > 0.2 and record["verdict"] == "not reproduced"


def test_a_tie_is_reproduced_only_when_the_interval_lies_within_the_margin_on_both_sides() -> None:
    tie = claim(threshold=None, margin=0.1)
    assert verdict_of(tie, -0.09, 0.09) == "reproduced"
    for low, high in ((-0.1, 0.05), (-0.05, 0.1), (-0.2, 0.2), (0.11, 0.12), (-0.12, -0.11), (math.nan, math.nan)):
        assert verdict_of(tie, low, high) == "not reproduced"
    assert verdict_of(claim(threshold=0.0), math.nan, math.nan) == "not reproduced"
    assert verdict_of(claim(threshold=0.1), 0.1, 0.2) == "not reproduced"


@pytest.mark.parametrize("effects", [(0.3, 0.3, math.nan, 0.3, 0.3), (0.3, 0.3, math.inf, 0.3, 0.3), (0.3,) * 4])
def test_a_seed_without_a_number_gives_no_verdict_and_does_not_drop_out(effects: tuple[float, ...]) -> None:
    with pytest.raises(RunError, match=r"claim toy: .*so there is no verdict"):
        record_of(claim(), rows_of(effects), 1.0)


def test_a_claim_needs_five_seeds_and_exactly_one_criterion() -> None:
    with pytest.raises(SettingError, match="4 seeds are too few; at least 5"):
        claim(seeds=4)
    for criteria in ({"threshold": None}, {"margin": 0.1}):
        with pytest.raises(SettingError, match="a threshold or an equivalence margin"):
            claim(**criteria)
    assert len(list(run(claim(seeds=7)))) == 8


def test_a_claim_about_an_unknown_system_is_refused_before_a_seed_is_run() -> None:
    with pytest.raises(SettingError, match=r"no system 'gropo' \(did you mean 'grpo'\?\)"):
        next(run(replace(claim(), system="gropo", one_seed=lambda seed: pytest.fail("a seed was run"))))


def test_a_record_comes_back_as_it_was_written_and_a_new_one_replaces_it(tmp_path: Path) -> None:
    record = record_of(claim(), rows_of(EFFECTS), 1.25)
    path = write_record(record, tmp_path / "records")
    assert path == tmp_path / "records" / "toy.json"
    assert read_records(tmp_path / "records") == {"toy": record}
    write_record({**record, "verdict": "not reproduced"}, tmp_path / "records")
    assert read_records(tmp_path / "records")["toy"]["verdict"] == "not reproduced"
    assert [file.name for file in (tmp_path / "records").iterdir()] == ["toy.json"]
    assert read_records(tmp_path / "none") == {}


@pytest.mark.parametrize("data", [b"{", b"", b"[1]", b'"x"', b"\xff\xfe{}", b'{"name": "toy"} more'])
def test_a_damaged_record_is_named_with_the_command_that_mends_it(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "toy.json").write_bytes(data)
    with pytest.raises(DataError, match=r"toy\.json is not (a )?JSON.*`truegain claims run toy` again") as caught:
        read_records(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of(claim(), rows_of(EFFECTS), 1.0)
    write_record(record, tmp_path)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        write_record({**record, "verdict": "not reproduced"}, tmp_path)
    assert read_records(tmp_path) == {"toy": record} and len(list(tmp_path.iterdir())) == 1


def test_the_shipped_claims_are_about_registered_systems_and_their_records_are_of_them() -> None:
    assert CLAIMS and all(name == claim.name and claim.system in SYSTEMS for name, claim in CLAIMS.items())
    for name, record in read_records().items():
        made = CLAIMS[name]
        assert record["states"] == made.states and record["seeds"] == made.seeds
        assert (record["threshold"], record["margin"]) == (made.threshold, made.margin), "changed after it was run"
        assert record["verdict"] == verdict_of(made, record["effect"]["low"], record["effect"]["high"])


@pytest.mark.slow
def test_the_claim_about_grpo_is_reproduced() -> None:
    *_, record = run(CLAIMS["grpo"])
    assert record["verdict"] == "reproduced"
    assert record["seconds"] < 600
