"""ConMax: asking for shorter traces, what a reader makes of them, the reward, and the examples that come of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError, WiringError
from truegain.core.types import Problem, Request, Rollout
from truegain.methods.credit import group_normalise
from truegain.methods.length import compress_traces, confidence_kept, read_by_reasoner, rewrite_traces
from truegain.methods.length._read_by_reasoner import inner
from truegain.methods.length._rewriting import original, rewriting
from truegain.policy.policy import Policy
from truegain.rollout.engines import engine_for

NAN = float("nan")
LOGPS = st.floats(-20.0, 0.0)


def row(text: str, right: float = 1.0, name: str = "a", prompt: str = "2+2?", **facts: Any) -> Rollout:
    ids = tuple(text.encode())
    found = {"correct": right, **facts}
    return Rollout(Problem(name, prompt, "4"), (1,), ids, (0.0,) * len(ids), text, "eos", (), facts=found)


def reward(answer: list[float], trace: list[float], group: list[int], **knobs: Any) -> list[float]:
    columns = (torch.tensor(answer, dtype=torch.float64), torch.tensor(trace, dtype=torch.float64))
    return confidence_kept(*columns, torch.tensor(group, dtype=torch.long), **knobs).tolist()


def test_the_worked_example_of_the_catalog() -> None:
    # S_ans = (-.1 - .3) / 2 = -.2, S_think = (-.5 - 1 - .5 - 2) / 4 = -1; R = -.2 + .1 * -1 = -.3
    policy = SimpleNamespace(encode=lambda text: tuple(text.encode()), encode_prompt=lambda _: (1,), eos_ids=())
    scores = iter([[(-0.5, -1.0, -0.5, -2.0)], [(-0.1, -0.3)]])
    engine = SimpleNamespace(score=lambda _: next(scores))
    found = read_by_reasoner({"reasoner": SimpleNamespace(policy=policy, engine=engine)}, [row("abcd")])
    assert (float(found["read_answer"]), float(found["read_trace"])) == pytest.approx((-0.2, -1.0))
    assert reward([-0.2], [-1.0], [0]) == pytest.approx([-0.3])


@given(st.lists(st.tuples(LOGPS, LOGPS), min_size=1, max_size=6), st.floats(0.0, 2.0))
def test_the_reward_is_the_sum_and_without_the_trace_the_answer_alone(
    pairs: list[tuple[float, float]], beta: float
) -> None:
    answer, trace = [a for a, _ in pairs], [b for _, b in pairs]
    group = [0] * len(pairs)
    assert reward(answer, trace, group, beta=beta) == pytest.approx([a + beta * b for a, b in pairs])
    assert reward(answer, trace, group, beta=0.0) == pytest.approx(answer)
    assert reward(answer, [NAN] * len(pairs), group, beta=0.0) == pytest.approx(answer)
    assert all(value <= 0 for value in reward(answer, trace, group, beta=beta))


def test_an_empty_trace_gets_the_smallest_reward_of_its_group_and_0_where_there_is_none() -> None:
    found = reward([-0.1, -0.5, -0.2, -0.3], [NAN, -1.0, -2.0, NAN], [0, 0, 0, 1])
    assert found == pytest.approx([-0.6, -0.6, -0.4, 0.0])
    assert reward([NAN, -0.5], [-1.0, -1.0], [0, 0]) == pytest.approx([-0.6, -0.6])
    assert reward([], [], []) == []
    with pytest.raises(SettingError, match="beta"):
        reward([-0.1], [-0.1], [0], beta=-0.1)


def test_a_group_of_equal_rewards_gives_no_advantage() -> None:
    equal = torch.tensor(reward([-0.2] * 3, [-1.0] * 3, [0] * 3))
    assert not group_normalise(equal, torch.zeros(3, dtype=torch.long), torch.ones(3, 2, dtype=torch.bool)).any()


def test_the_reader_sees_the_question_alone_and_the_answer_behind_the_trace() -> None:
    asked: list[Request] = []

    def score(requests: Sequence[Request]) -> list[tuple[float, ...]]:
        asked.extend(requests)
        return [tuple(-1.0 for _ in r.suffix) for r in requests]

    policy = SimpleNamespace(
        encode=lambda text: tuple(text.encode()), encode_prompt=lambda p: tuple(p.encode()), eos_ids=(0,)
    )
    problem = rewriting(Problem("a", "2+2?", "4"), "long {prompt} {trace}", "{prompt}|{trace}|shorter")
    assert problem.prompt == "2+2?|long {prompt} {trace}|shorter" and original(problem).prompt == "2+2?"
    said = Rollout(problem, (9,), (*b"<think>zz</think>", 0), (), "", "eos", ())
    read_by_reasoner({"reasoner": SimpleNamespace(policy=policy, engine=SimpleNamespace(score=score))}, [said])
    first, second = asked
    assert (bytes(first.trunk), bytes(first.suffix)) == (b"2+2?<think>", b"zz")
    assert (bytes(second.trunk), bytes(second.suffix)) == (b"2+2?<think>zz</think><answer>", b"4</answer>")
    assert inner(policy, said, "<think>", "</think>") == tuple(b"zz")
    # An answer that the compressor writes behind the thought is none of the thought: the reader does not see it.
    for text, wanted in ((b"zz</think><answer>4", b"zz"), (b"</think>4", b""), (b"zz</thi", b"zz</thi")):
        assert inner(policy, replace(said, ids=tuple(text)), "<think>", "</think>") == tuple(wanted)


def test_on_the_embedded_model_reading_is_the_mean_log_prob_by_its_own_forward_and_padding_does_not_matter() -> None:
    policy = Policy.load("tiny")
    reader = {"reasoner": SimpleNamespace(policy=policy, engine=engine_for(policy))}
    texts = ["a=3\nb=7", "b=7\nc=2\nd=1\ncheck a=3 ok", ""]
    rows = [
        Rollout(Problem("a", "chain a=3 b=a+4 think\n", "7"), (1,), policy.encode(t), (), t, "eos", ()) for t in texts
    ]
    together = read_by_reasoner(reader, rows)
    for n, one in enumerate(rows):
        alone = read_by_reasoner(reader, [one])
        start = (*policy.encode_prompt(one.problem.prompt), *policy.encode("<think>"))
        given_ = (*start, *one.ids, *policy.encode("</think><answer>"))
        answer = policy.encode("7</answer>")
        with torch.no_grad():
            logp = policy.model(input_ids=torch.tensor([[*given_, *answer]])).logits[0].log_softmax(-1)

        def mean(first: int, ids: tuple[int, ...], logp: torch.Tensor = logp) -> float:
            return sum(float(logp[first + t - 1, token]) for t, token in enumerate(ids)) / len(ids)

        wanted = mean(len(given_), answer)
        for found in (float(alone["read_answer"][0]), float(together["read_answer"][n])):
            assert found == pytest.approx(wanted, abs=1e-4)
        if one.ids:
            assert float(together["read_trace"][n]) == pytest.approx(mean(len(start), one.ids), abs=1e-4)
        else:
            assert together["read_trace"][n].isnan()


class Loop:
    """Draws by role: what it was asked is kept."""

    round = 0

    def __init__(self, right: Sequence[str] = ("a", "b")) -> None:
        self.right, self.asked = right, list[tuple[str, str, int]]()

    def again(self, problems: Any, samples: int, *, role: str = "policy", temperature: Any = None) -> list[Rollout]:
        self.asked += [(p.id, role, samples) for p in problems]
        if role == "policy":
            return [row("ab", 0.0, p.id, p.prompt) for p in problems for _ in range(samples)]
        return [
            row(f"<think>aabb{n}</think>4", float(p.id in self.right and n > 0), p.id)
            for p in problems
            for n in range(samples)
        ]

    def fork(self, places: Any, samples: int, *, role: str) -> list[Rollout]:
        assert role == "reasoner"
        return [row(bytes(r.ids).decode() + "4", float(n > 0), r.problem.id) for r, _ in places for n in range(samples)]


ROLES = {
    name: SimpleNamespace(
        policy=SimpleNamespace(encode=lambda text: tuple(text.encode()), encode_prompt=lambda _: (1,), eos_ids=())
    )
    for name in ("policy", "reasoner")
}


def test_the_step_is_about_the_first_right_trace_of_each_problem_and_the_policys_own_draw_is_dropped() -> None:
    loop = Loop()
    rows = [row("x", 0.0, name) for name in ("a", "a", "b", "c")]
    found = rewrite_traces(ROLES, loop, rows, candidates=3, attempts=2, template="{prompt}>{trace}<")
    assert loop.asked == [(n, "reasoner", 2) for n in "abc"] + [(n, "policy", 3) for n in "ab"]
    assert [r.problem.prompt for r in found.add] == ["2+2?>aabb1<"] * 6 and list(found.drop) == [0, 1, 2, 3]
    loop.round = 1
    assert rewrite_traces(ROLES, loop, rows).add == ()


def test_where_nothing_is_solved_no_rows_are_left() -> None:
    found = rewrite_traces(ROLES, Loop(right=()), [row("x", 0.0)])
    assert found.add == [] and list(found.drop) == [0]


def test_examples_are_finished_short_traces_in_answer_to_the_problem_itself() -> None:
    problems = [Problem(name, "2+2?", "4") for name in ("a", "c")]
    found = compress_traces(ROLES, Loop(), problems, attempts=2, finishes=2)
    assert [(r.problem.id, r.text) for r in found] == [("a", "<think>ab</think>4")]
    # aabb1 is five, ab two.
    assert found[0].facts["saved"] == pytest.approx(0.6) and found[0].mask == (True,) * len(found[0].ids)
    assert compress_traces(ROLES, Loop(), problems, attempts=2, finishes=1) == []
    assert compress_traces(ROLES, Loop(right=()), problems) == []


def test_knobs_and_roles_that_cannot_be_are_refused() -> None:
    with pytest.raises(SettingError, match="candidates=1"):
        rewrite_traces(ROLES, Loop(), [], candidates=1)
    with pytest.raises(SettingError, match="trace"):
        rewriting(Problem("a", "q"), "t", "{prompt}")
    with pytest.raises(SettingError, match="finishes=0"):
        compress_traces(ROLES, Loop(), [], finishes=0)
    for asks in (
        lambda roles: rewrite_traces(roles, Loop(), []),
        lambda roles: compress_traces(roles, Loop(), []),
        lambda roles: read_by_reasoner(roles, []),
    ):
        with pytest.raises(WiringError, match="role 'reasoner'"):
            asks({"policy": None})


def test_chat_messages_are_asked_in_the_last_one() -> None:
    chat = ({"role": "system", "content": "s"}, {"role": "user", "content": "q"})
    found = rewriting(Problem("a", chat), "t", "{prompt}: {trace}")
    assert found.prompt == (chat[0], {"role": "user", "content": "q: t"}) and original(found).prompt == chat
