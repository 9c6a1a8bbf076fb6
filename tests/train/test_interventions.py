"""InT: corrections spliced into failed rollouts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

import truegain.recipes  # noqa: F401  (fills the table of systems)
from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import Decode, Fit, Loop, Train
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.core.types import Problem, Rollout, Turn
from truegain.methods import credit, exploration
from truegain.policy.policy import Policy
from truegain.tasks import make
from truegain.train.chain import Chain, check
from truegain.train.drawing import Draw
from truegain.train.setup import Setup

# Three lines; the second is wrong (3+4 is 7), and everything after it follows from the slip.
PROBLEM = Problem(
    "p", "chain a=3 b=a+4 c=b+1 think\n", "8", {"task": "chain", "style": "trace", "content": "a=3 b=a+4 c=b+1"}
)
WRONG = "<think>a=3\nb=3+4=8\nc=8+1=9</think><answer>9</answer>"
RIGHT = "b=3+4=7\n"


class Scripted:
    """A loop whose policy writes given texts from a cut, in turn, and whose continuations are right in given shares."""

    def __init__(self, writes: list[str], right: list[float], rows: list[Rollout]) -> None:
        self.policy = Policy.load("table")
        form = Decode(segment={"step": credit.by_step}, loop=Loop())
        self.setup = Setup(form, self.policy, make("chain,style=trace"), None)  # pyright: ignore
        self.writes, self.right, self.rows, self.asked = list(writes), list(right), rows, list[Any]()
        self.name = "test"

    def rewards(self, rollouts: Any, first: bool = False) -> list[float]:
        return [float(r.facts["correct"]) for r in rollouts]

    def segments(self, rollouts: Any, name: str) -> Any:
        return Draw.segments(self, rollouts, name)  # pyright: ignore

    def fork(self, places: Any, samples: int, **how: Any) -> list[Rollout]:
        if "max_tokens" in how:  # proposals
            self.asked.append(places)
            out: list[Rollout] = []
            for parent, cut in places:
                for n in range(samples):
                    ids = (*parent.ids[:cut], *self.policy.encode(self.writes[n]))
                    said = (Turn("policy", 0, len(ids)),)
                    made = replace(parent, ids=ids, engine_logp=(0.0,) * len(ids), turns=said, key=n, facts={})
                    out.append(replace(made, text=self.policy.decode(ids), stop="length"))
            return out
        shares = self.right
        return [
            replace(parent, facts={"correct": float(n < round(shares[i] * samples))})
            for i, (parent, _) in enumerate(places)
            for n in range(samples)
        ]

    def again(self, problems: Any, samples: int) -> list[Rollout]:
        self.asked += list(problems)
        texts = iter(self.writes)
        return [rollout(p, next(texts)) for p in problems]


def rollout(problem: Problem = PROBLEM, text: str = WRONG, correct: float = 0.0, key: int = 5) -> Rollout:
    policy = Policy.load("table")
    ids = policy.encode(text)
    said = (Turn("policy", 0, len(ids)),)
    prompt, facts = policy.encode_prompt(problem.prompt), {"correct": correct}
    logp = (-0.5,) * len(ids)
    return Rollout(problem, prompt, ids, logp, policy.decode(ids), "eos", said, facts=facts, key=key)


def splice(loop: Scripted, **knobs: Any) -> tuple[list[Rollout], dict[str, float]]:
    roles = {"policy": SimpleNamespace(policy=loop.policy)}
    settings = {"proposals": len(loop.writes), "continuations": 4, **knobs}
    return exploration.splice_corrections(roles, loop, loop.rows, **settings)


def test_a_correction_is_the_rollouts_own_prefix_then_the_right_step_and_nothing_behind_it() -> None:
    before = rollout()
    loop = Scripted(["b=3+4=5\nc", RIGHT + "c=7+1"], [0.5], [before])
    (made,), logs = splice(loop)
    cut = made.facts["prefix_tokens"]
    assert made.text == "<think>a=3\n" + RIGHT
    assert made.ids[:cut] == before.ids[:cut] and loop.policy.decode(made.ids[:cut]) == "<think>a=3\n"
    assert made.facts == {"intervention_step": 1, "prefix_tokens": cut, "continuation_correct": 0.5}
    assert logs == {"failed": 1.0, "proposed": 1.0, "kept": 1.0, "length_share": pytest.approx(8 / len(before.ids))}
    assert all(made.mask) and len(made.engine_logp) == len(made.ids)


def test_a_correction_from_which_nobody_gets_on_is_rejected() -> None:
    assert splice(Scripted([RIGHT + "c"], [0.0], [rollout()]))[0] == []
    assert splice(Scripted([RIGHT + "c"], [0.25], [rollout()]), least=2)[0] == []
    assert len(splice(Scripted([RIGHT + "c"], [0.5], [rollout()]), least=2)[0]) == 1


def test_a_step_that_the_judge_calls_wrong_or_that_does_not_end_is_no_correction() -> None:
    assert splice(Scripted(["b=3+4=6\nc"], [1.0], [rollout()]))[0] == []
    assert splice(Scripted(["b=3+4=7"], [1.0], [rollout()]))[0] == []


def test_right_rollouts_and_those_without_a_wrong_step_are_left_out() -> None:
    right = rollout(text="<think>a=3\nb=3+4=7\nc=7+1=8</think><answer>8</answer>", correct=1.0)
    # the lines are right and the checker was not pleased: no error found, so the sample is dropped
    lost = rollout(text="<think>a=3\nb=3+4=7\nc=7+1=8</think>", correct=0.0)
    loop = Scripted([RIGHT + "c"], [], [right, lost])
    assert splice(loop)[0] == [] and loop.asked == [[]]


def test_of_a_problem_the_correction_that_is_continued_best_is_kept() -> None:
    rows = [rollout(key=1), rollout(key=2)]
    (made,), _ = splice(Scripted([RIGHT + "c"], [0.25, 0.75], rows))
    assert made.facts["continuation_correct"] == 0.75
    assert len(splice(Scripted([RIGHT + "c"], [0.25, 0.75], rows), per_problem=2)[0]) == 2


def test_a_masked_prefix_is_read_and_not_learned() -> None:
    (made,), _ = splice(Scripted([RIGHT + "c"], [1.0], [rollout()]), mask_prefix=True)
    cut = made.facts["prefix_tokens"]
    assert made.mask == (False,) * cut + (True,) * (len(made.ids) - cut)


def test_the_model_itself_is_shown_its_steps_and_the_reference_and_what_cannot_be_read_is_dropped() -> None:
    problem = replace(PROBLEM, meta={**PROBLEM.meta, "trace": "a=3 then b=7 then c=8"})
    answer = "step two. <step>1</step><intervention>b=3+4=7</intervention>"
    loop = Scripted([answer], [1.0], [rollout(problem)])
    (made,), _ = splice(loop, judge="policy")
    assert made.text == "<think>a=3\nb=3+4=7\n"
    (asked,) = loop.asked
    assert "a=3 then b=7 then c=8" in asked.prompt and "1: b=3+4=8" in asked.prompt
    for text in ("no idea", "<step>9</step><intervention>x</intervention>", "<step>1</step>"):
        assert splice(Scripted([text], [1.0], [rollout(problem)]), judge="policy")[0] == []


def test_bad_knobs_and_tasks_without_a_judge_are_refused() -> None:
    with pytest.raises(SettingError, match="proposals=0"):
        splice(Scripted([], [], []), proposals=0)
    unjudged = rollout(Problem("q", "x", "8", {}))
    with pytest.raises(WiringError, match="judges no steps"):
        splice(Scripted([RIGHT], [1.0], [unjudged]))
    bare = Scripted([RIGHT], [1.0], [rollout()])
    bare.setup = replace(bare.setup, form=Decode())  # pyright: ignore
    with pytest.raises(WiringError, match="segment="):
        splice(bare)


def test_the_recipe_is_a_search_a_fit_and_a_run_and_every_form_can_be_fed(tmp_path: Any) -> None:
    forms = build("int", mask_prefix=True)
    assert [type(form) for form in forms] == [Decode, Fit, Train]
    check(Chain(forms, "int", tmp_path / "x", "tiny", "chain,style=trace"))


@pytest.mark.slow
def test_all_three_forms_run_on_the_embedded_model(tmp_path: Any) -> None:
    from truegain.train.chain import execute
    from truegain.train.launch import StopSignal

    search, fit, online = build("int", continuations=4)
    forms = (
        loop_with(search, steps=2, prompts=8, samples=2),
        loop_with(fit, steps=2, prompts=4),
        loop_with(online, steps=2, prompts=4, samples=4, eval_every=0),
    )
    options = {"sizes": {"dev": 2, "test": 2, "samples": 1}}
    chain = Chain(forms, "int", tmp_path / "run", "tiny", "chain,style=trace,level=8", 0, options=options)
    left = [event for event in execute(chain, StopSignal()) if event["kind"] == "left"]
    assert [event["form"] for event in left] == ["Decode", "Fit", "Train"]
    from truegain.train.dataset import read_dataset

    rows = read_dataset(tmp_path / "run" / "1-decode" / "dataset.jsonl", "completion", "continuation_correct")
    assert all(row["continuation_correct"] > 0 and "<answer>" not in row["completion"] for row in rows)
