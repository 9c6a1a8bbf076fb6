"""Labels, second verifiers, best-of-n against a reward, and how often a sound reward is called unfit by chance."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from audit_runs import QUICK, InProcess, audited, verdicts
from broken_rewards import right

from truegain.audit import Evidence, Rules, Second, problems_of, read_evidence
from truegain.audit.agreement import agreement, optimised, turn
from truegain.audit.subject import Said
from truegain.audit.trials import Scale
from truegain.audit.verdicts import at_least, judge
from truegain.core.errors import DataError, SettingError
from truegain.core.types import Problem
from truegain.tasks import make

SCALE = Scale(1.0, 0.0, 0.5, True)


def evidence(golds: list[list[float]]) -> Evidence:
    """Completions of problems, with these labels."""
    rows = [(Problem(f"p{i}", "q", "a"), f"t{i}-{j}") for i, row in enumerate(golds) for j in range(len(row))]
    return Evidence(rows, [g for row in golds for g in row], "labels")


def said(values: list[list[float]]) -> list[Said]:
    return [Said(v) for row in values for v in row]


def test_the_rates_of_error_by_labels_are_what_was_put_in() -> None:
    golds, scores = [[1.0, 1.0, 0.0, 0.0]] * 80, [[1.0, 0.0, 1.0, 0.0]] * 20 + [[1.0, 1.0, 0.0, 0.0]] * 60
    found = {c["id"]: c for c in agreement(evidence(golds), said(scores), SCALE, Rules(), required=True)}
    # 20 of 80 problems have one of two wrong answers paid, and one of two right ones refused: 12.5 % each
    assert found["false right"]["rate"]["value"] == pytest.approx(0.125)
    assert found["false wrong"]["rate"]["value"] == pytest.approx(0.125)
    clean = agreement(evidence(golds), said(golds), SCALE, Rules(), required=True)
    assert [c["verdict"] for c in clean] == ["fit", "fit"]


def test_a_completion_without_a_label_or_a_score_is_left_out() -> None:
    given = replace(evidence([[1.0, 0.0]] * 80), gold=[None, 0.0] * 80)
    found = {c["id"]: c for c in agreement(given, [Said(None, "none"), Said(0.0)] * 80, SCALE, QUICK, required=True)}
    assert found["false wrong"]["verdict"] == "cannot tell"
    assert found["false right"]["verdict"] == "fit"


def test_gold_that_turns_is_found_at_its_n_and_gold_that_rises_is_not() -> None:
    rng = np.random.default_rng(0)
    golds, proxies = [], []
    for _ in range(60):
        gold = (rng.random(16) < 0.5).astype(float)
        hack = rng.random(16) < 0.15  # what the reward likes best is wrong
        golds.append(np.where(hack, 0.0, gold).tolist())
        proxies.append(np.where(hack, 2.0, gold + 0.01 * rng.random(16)).tolist())
    check, curve = optimised(evidence(golds), said(proxies), SCALE, QUICK)
    assert check["verdict"] == "unfit"
    assert curve is not None
    assert curve["turns"] in (4, 8, 16)
    assert curve["fall"]["high"] < 0
    honest, other = optimised(evidence(golds), said(golds), SCALE, QUICK)
    assert honest["verdict"] == "fit"
    assert other is not None
    assert other["turns"] is None
    assert other["gold"][-1]["value"] > other["gold"][0]["value"]


def test_best_of_n_needs_two_problems_with_two_completions() -> None:
    check, curve = optimised(evidence([[1.0]] * 5), said([[1.0]] * 5), SCALE, QUICK)
    assert (check["verdict"], curve) == ("not checked", None)


def test_a_reward_that_is_gold_with_noise_never_turns() -> None:
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(200):
        means = [rng.random(40) < 0.5 for _ in range(5)]
        false += turn([1, 2, 4, 8, 16], [m.astype(float) for m in means])[0] is not None
    assert false <= 1


def test_the_exact_test_of_a_rate_has_the_size_that_it_states() -> None:
    rules = Rules()
    for n in (4, 12, 40, 100, 400):
        worst = min(k for k in range(n + 2) if at_least(k, n, rules.tolerated) <= rules.alarm)
        assert judge([1.0] * worst + [0.0] * (n - worst), rules).verdict == "unfit"
        assert judge([1.0] * (worst - 1) + [0.0] * (n - worst + 1), rules).verdict != "unfit"
    # an oracle: 3 or more of 4 at 2 %: 4 * 0.02^3 * 0.98 + 0.02^4
    assert at_least(3, 4, 0.02) == pytest.approx(4 * 0.02**3 * 0.98 + 0.02**4)


def test_the_exact_test_holds_for_as_many_problems_as_a_labelled_file_has() -> None:
    # An oracle in whole numbers: at a share of 1/50 the tail is sum C(n, k) 49^(n - k) / 50^n.
    for count, of in ((60, 2000), (70, 2000), (0, 3000), (3000, 3000)):
        tail = sum(math.comb(of, k) * 49 ** (of - k) for k in range(count, of + 1))
        assert at_least(count, of, 0.02) == pytest.approx(float(Fraction(tail, 50**of)), rel=1e-9)
    assert judge([1.0] * 200 + [0.0] * 1800, Rules()).verdict == "unfit"
    assert judge([1.0] + [0.0] * 1999, Rules()).verdict == "fit"
    assert (at_least(0, 5, 0.0), at_least(1, 5, 0.0), at_least(5, 5, 1.0)) == (1.0, 0.0, 1.0)


def test_many_n_over_few_problems_are_not_called_a_turn_by_chance() -> None:
    # Twelve n are 66 pairs. At a coverage of 0.999 for each of them 11 of these 300 curves would be called a turn.
    rng, ns = np.random.default_rng(0), [2**k for k in range(12)]
    curves = [[(rng.random(20) < 0.5).astype(float) for _ in ns] for _ in range(300)]
    assert sum(turn(ns, curve)[0] is not None for curve in curves) <= 2


def test_a_sound_reward_with_small_errors_is_unfit_in_at_most_one_of_200_seeds() -> None:
    """All rates of an audit at once, each at half of what is tolerated, judged as the audit judges them."""
    unfit = [judge([1.0] * k + [0.0] * (100 - k), Rules()).verdict == "unfit" for k in range(101)]
    alarms = 0
    for seed in range(200):
        broken = (np.random.default_rng(seed).random((110, 100)) < 0.01).sum(axis=1)
        alarms += any(unfit[count] for count in broken)
    assert alarms <= 1


def test_a_whole_audit_of_a_sound_reward_raises_no_alarm() -> None:
    for seed in range(2):
        rng = random.Random(seed)
        wrong = {f"{i}": rng.random() < 0.005 for i in range(100_000)}

        def reward(rows, wrong=wrong):
            # a fixed half per cent of completions, by their hash, is judged the other way round
            flipped = [wrong[str(sum(map(ord, p.id + t)) % 100_000)] for p, t in rows]
            return [abs(right(t, p.answer) - f) for (p, t), f in zip(rows, flipped, strict=True)]

        found = audited(InProcess(reward), "add", problems=100, rules=Rules(), seed=seed)
        assert found["verdict"] != "unfit", found["sentence"]


def test_rows_of_a_labelled_file_belong_to_a_problem_or_are_one(tmp_path: Path) -> None:
    problems = problems_of(make("add"), 5, 0)
    path = tmp_path / "labelled.jsonl"
    rows = [
        {"problem": problems[0].id, "completion": "a", "label": True},
        {"prompt": problems[1].prompt, "completions": ["b", "c"], "label": ["right", 0.2]},
        {"prompt": "new", "answer": 7, "completion": [{"role": "assistant", "content": "d"}], "label": "0", "level": 3},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_evidence(path, problems, labelled=True)
    assert [p.id for p, _ in found.rows[:3]] == [problems[0].id, problems[1].id, problems[1].id]
    assert found.gold == [1.0, 1.0, 0.0, 0.0]
    assert (found.rows[3][0].answer, found.rows[3][0].meta["level"], found.rows[3][1]) == ("7", 3, "d")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1", "label": 1}, "no column 'completion'"),
        ({"completion": "x", "answer": "1"}, "line 1: no column 'label'"),
        ({"completion": "x", "label": "maybe"}, "label 'maybe' is neither"),
        ({"completions": ["x", "y"], "label": [1]}, "1 labels for 2 completions"),
        ({"completion": 3, "label": 1}, "a completion is a int"),
    ],
)
def test_a_labelled_file_that_cannot_be_used_is_told_by_its_line(tmp_path: Path, row: dict, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message):
        read_evidence(path, [], labelled=True)


def test_the_exact_verifier_judges_the_marked_answer_and_a_second_opinion_clears_what_is_right() -> None:
    second = Second("exact", is_task=False)
    problem = Problem("p", "q", "1/2")
    rows = [(problem, t) for t in ("<answer>0.5</answer>", "so 3", "1/2")]
    assert second.judge(rows) == [1.0, 0.0, 1.0]
    assert Second("exact", is_task=False).judge([(Problem("p", "q"), "x")]) == [None]
    with pytest.raises(SettingError, match="did you mean 'exact'"):
        from truegain.audit.evidence import check_second

        check_second("exat")


def test_a_labelled_file_and_drawn_completions_go_through_the_whole_audit(tmp_path: Path) -> None:
    problems = problems_of(make("add"), 40, 0)
    rows = [(p, f"<answer>{a}</answer>") for p in problems for a in (p.answer, "1", "2", p.answer)]
    labelled = Evidence(rows, [1.0, 0.0, 0.0, 1.0] * 40, "labels")
    found = audited(
        InProcess(lambda asked: [right(t, p.answer) for p, t in asked]),
        "add",
        labelled=labelled,
        rules=replace(QUICK, false_right=0.1),
        agree=True,
    )
    assert (found["verdict"], verdicts(found)["false right"], found["best_of_n"]["n"]) == ("fit", "fit", [1, 2, 4])
