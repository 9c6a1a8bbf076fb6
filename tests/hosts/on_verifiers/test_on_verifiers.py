"""Our rewards, tasks and traces in the installed verifiers: loaded by its own loaders, run by its own evaluation."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import contract
import pytest
import verifiers.v1 as vf
from verifiers.v1.cli.eval.runner import run_eval
from verifiers.v1.configs.cli.eval import EvalConfig
from verifiers.v1.utils.loaders import load_plugged_fn
from verifiers.v1.utils.trace_store import read_episodes, write_episode

from truegain.core.component import Spec
from truegain.core.errors import SettingError, WiringError
from truegain.core.types import Problem
from truegain.hosts._component import registry
from truegain.hosts.data import problems_of
from truegain.hosts.offers import OFFERS, refusal
from truegain.hosts.package import write_package
from truegain.hosts.rewards import Abstained, Reward
from truegain.hosts.verifiers import (
    TruegainTask,
    TruegainTaskset,
    component,
    plugged,
    read_traces,
    rollouts_of,
    to_taskset,
)

HERE = Path(__file__).parent
PLUG = "truegain.hosts.verifiers:"


class Provider:
    """An OpenAI endpoint on this machine: sorts the digits that it is shown, every third time wrong."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                provider.asked.append(body)
                text = str(body["messages"][-1]["content"])
                digits = sorted(text.partition("spaces: ")[2].partition("\n")[0].split())
                answer = " ".join(digits[::-1] if len(provider.asked) % 3 == 0 else digits)
                message = {"role": "assistant", "content": f"<answer>{answer}</answer>"}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
                head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
                given = json.dumps({**head, "choices": [choice], "usage": usage}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(given)))
                self.end_headers()
                self.wfile.write(given)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.server.shutdown()
    made.server.server_close()


def vf_eval(folder: Path, provider: Provider, *arguments: str) -> Path:
    """Run ``vf-eval`` and give its run's folder."""
    command = [sys.executable, "-c", "from verifiers.v1.cli.eval.main import main; main()", *arguments]
    command += ["--env.agent.harness.id", "plain_harness", "--env.agent.runtime.type", "subprocess"]
    command += ["-m", "m", "--client.base-url", provider.url, "--client.api-key-var", "NO_KEY"]
    command += ["--no-push", "--no-rich", "-o", "out", "--run.name", "run"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(folder)])}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out" / "run"


def evaluated(folder: Path, provider: Provider, taskset: dict[str, Any]) -> Path:
    """The same in this process, where verifiers is imported already."""
    agent = {"harness": {"id": "plain_harness"}, "runtime": {"type": "subprocess"}}
    config = EvalConfig.model_validate(
        {
            "env": {"taskset": taskset, "agent": agent},
            "model": "m",
            "client": {"type": "eval", "base_url": provider.url, "api_key_var": "NO_KEY"},
            "push": False,
            "rich": None,
            "output_dir": folder / "out",
            "run": {"name": "run"},
        }
    )
    asyncio.run(run_eval(config))
    return folder / "out" / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Path:
    """A run of our taskset with rewards of ours plugged in by its config."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "my_rewards.py").write_text(
        "def brief(completions, **columns):\n    return [1.0 / len(c[0]['content']) for c in completions]\n"
        "def moody(completions, **columns):\n    raise ValueError('not today')\n"
    )
    (folder / "eval.toml").write_text(
        '[env.taskset]\nid = "truegain-taskset"\nspec = "sort,level=4"\nsplit = "dev"\ncount = 6\n'
        f'[env.taskset.task.rewards.brief]\nfn = "{PLUG}my_rewards.py|brief"\nweight = 0.5\n'
        f'[env.taskset.task.metrics.exactly]\nfn = "{PLUG}metric.exact"\n'
        f'[env.taskset.task.metrics.moody]\nfn = "{PLUG}metric.my_rewards.py|moody"\n'
    )
    return vf_eval(folder, provider, "@", "eval.toml")


def test_what_we_lean_on_is_as_it_was_read() -> None:
    if os.environ.get("TRUEGAIN_CONTRACT") == "other":
        pytest.skip("another version: what changed is told in a line of its own")
    assert contract.changes(json.loads(contract.COMMITTED.read_text()), contract.snapshot()) == []


def test_an_evaluation_of_our_taskset_is_judged_by_our_checker_and_by_plugged_rewards(run: Path) -> None:
    episodes = read_episodes(run, vf.WireTrace)
    traces = [trace for episode in episodes for trace in episode.traces]
    assert [trace.errors for trace in traces] == [[]] * 6
    assert sorted(trace.rewards["checked"].score for trace in traces) == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    for trace in traces:
        assert trace.metrics["exactly"] == trace.rewards["checked"].score
        assert trace.rewards["brief"].score == pytest.approx(1.0 / len(trace.last_reply))
        assert trace.rewards["brief"].weight == 0.5
        assert "moody" not in trace.metrics
        assert trace.metrics["moody_abstained"] == 1.0
        assert "ValueError: not today" in trace.info["truegain_abstained"]["moody"]


def test_no_answer_key_and_no_record_is_shown_to_the_model(run: Path, provider: Provider) -> None:
    problems = {str(p.meta["content"]): p for p in problems_of("sort,level=4,chat=true", "dev", 6)}
    assert len(provider.asked) >= 6
    for body in provider.asked:
        told = json.dumps(body)
        assert "truegain" not in told
        shown = str(body["messages"][-1]["content"])
        content = shown.partition("spaces: ")[2].partition("\n")[0]
        if content in problems and str(problems[content].answer) != content:
            assert str(problems[content].answer) not in told


def test_a_run_is_read_back_as_rollouts_of_the_same_problems(run: Path) -> None:
    found = {rollout.problem.id: rollout for rollout in read_traces(run)}
    wanted = problems_of("sort,level=4,chat=true", "dev", 6)
    assert {problem.id: problem for problem in wanted} == {ident: one.problem for ident, one in found.items()}
    for rollout in found.values():
        parts = rollout.facts["rewards"]
        assert rollout.facts["score"] == pytest.approx(parts["checked"] + parts["brief"])
        assert rollout.text.startswith("<answer>")
        assert (rollout.stop, rollout.ids) == ("eos", ())


def test_an_abstaining_reward_is_an_error_of_the_trace_and_no_number(tmp_path: Path, provider: Provider) -> None:
    (tmp_path / "my_rewards.py").write_text("def dies(completions, **columns):\n    import os; os._exit(3)\n")
    plugged_in = {"dies": {"fn": f"{PLUG}{tmp_path}/my_rewards.py|dies;deadline=20"}}
    taskset = {"id": "truegain-taskset", "spec": "sort,level=4", "count": 1, "task": {"rewards": plugged_in}}
    folder = evaluated(tmp_path, provider, taskset)
    (trace,) = [trace for episode in read_episodes(folder, vf.WireTrace) for trace in episode.traces]
    assert not trace.ok
    assert trace.rewards.get("dies") is None
    assert "Abstained: dies: worker died (exit code 3)" in trace.errors[-1].message
    (rollout,) = read_traces(folder)
    assert "score" not in rollout.facts
    assert "worker died" in rollout.facts["errors"][-1]


def test_a_converted_package_runs_by_its_folders_name(
    tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = {"train": problems_of("sort,level=5,chat=true", "train", 3)}
    monkeypatch.syspath_prepend(str(write_package(splits, "sort,level=5", tmp_path / "my-sort")))
    folder = evaluated(tmp_path, provider, {"id": "my-sort"})
    traces = [trace for episode in read_episodes(folder, vf.WireTrace) for trace in episode.traces]
    assert {trace.task.key for trace in traces} == {p.id for p in splits["train"]}
    assert all(trace.rewards["checked"] is not None for trace in traces)


def verb(name: str, folder: Path, *arguments: str) -> str:
    """Run a command of verifiers and give what it printed."""
    command = [sys.executable, "-c", f"from verifiers.v1.cli.{name} import main; main()", *arguments, "--no-rich"]
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_saved_traces_are_scored_anew_without_a_runtime(tmp_path: Path, provider: Provider) -> None:
    plugged_in = {"same": {"fn": f"{PLUG}exact"}}
    taskset = {"id": "truegain-taskset", "spec": "sort,level=4", "count": 4, "task": {"rewards": plugged_in}}
    folder = evaluated(tmp_path, provider, taskset)
    verb("replay", tmp_path, str(folder), "--output-dir", str(tmp_path / "again"))
    before, after = ({r.problem.id: r.facts["rewards"] for r in read_traces(at)} for at in (folder, tmp_path / "again"))
    assert len(before) == 4
    assert after == before


def test_every_answer_key_of_a_taskset_is_valid(tmp_path: Path) -> None:
    told = verb("validate", tmp_path, "truegain-taskset", "--taskset.spec", "sort,level=4", "--taskset.count", "3",
                "--runtime.type", "subprocess")  # fmt: skip
    assert json.loads(told[told.index("{") :])["valid_rate"] == 1.0


def test_tasks_have_stable_keys_that_do_not_depend_on_their_place() -> None:
    first = [task.key for task in to_taskset("sort,level=4", "train", 5)]
    assert len(set(first)) == 5
    assert [task.key for task in to_taskset("sort,level=4", "train", 3)] == first[:3]
    assert [task.key for task in to_taskset("sort,level=4", "train", 5).skip(2)] == first[2:]


def test_the_taskset_is_found_by_its_id() -> None:
    config = vf.taskset_config_type("truegain-taskset")(id="truegain-taskset", spec="sort,level=3", count=2)
    made = vf.load_taskset(config)
    assert isinstance(made, TruegainTaskset)
    assert vf.task_type("truegain-taskset") is TruegainTask
    assert len(list(made)) == 2


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("", "needs a task: --env.taskset.spec"),
        ("calculator", "the task calculator has a tool that answers inside the completion"),
        ("bandit", "bandit is for the table policy"),
        ("sotr", "unknown task 'sotr'"),
    ],
)
def test_what_cannot_be_a_taskset_is_refused_in_a_sentence(spec: str, why: str) -> None:
    with pytest.raises(SettingError, match=why):
        list(TruegainTaskset(vf.taskset_config_type("truegain-taskset")(spec=spec, count=2)))


def test_validation_takes_the_answer_keys_for_right() -> None:
    (task,) = to_taskset("sort,level=4", "train", 1)
    assert asyncio.run(task.validate(None)) is True
    wrong = task.with_data(answer="9 9 9 9 9")
    assert asyncio.run(wrong.validate(None)) is False
    assert asyncio.run(task.with_data(answer=None).validate(None)) is None


def test_a_reward_is_plugged_into_anybodys_task() -> None:
    class Data(vf.TaskData):
        answer: str

    class Anybodys(vf.Task[Data]):
        """Somebody else's."""

    config = vf.TaskConfig(
        rewards={"right": {"fn": f"{PLUG}exact", "weight": 2.0}}, metrics={"same": {"fn": f"{PLUG}metric.exact"}}
    )
    task = Anybodys(Data(prompt="3+4?", answer="7"), config)
    trace = a_trace(task, "I get 7.")
    asyncio.run(task.score(trace))
    assert trace.reward == 2.0
    assert trace.metrics == {"same": 1.0}
    lacking = vf.Task(vf.TaskData(prompt="3+4?"), vf.TaskConfig(rewards={"right": {"fn": f"{PLUG}exact"}}))
    with pytest.raises(vf.TaskError, match="reward 'exact' needs the column 'answer'"):
        asyncio.run(lacking.score(a_trace(lacking, "7")))


@pytest.mark.parametrize(
    ("spelled", "why"),
    [
        ("exat", "the reward 'exat' cannot be loaded: unknown task 'exat'"),
        ("exact;deadlin=3", "'deadlin=3' is no setting; write ;KEY=VALUE with fact, deadline"),
        ("exact;deadline=x", "deadline cannot be 'x'"),
        ("no_rewards.py|fn", "no file 'no_rewards.py'"),
    ],
)
def test_a_reward_that_is_spelled_wrong_is_told_where_it_is_loaded(spelled: str, why: str) -> None:
    with pytest.raises(SettingError, match=why):
        load_plugged_fn("right", vf.RewardFunctionConfig(fn=PLUG + spelled), "reward")


def test_settings_behind_a_plugged_reward_are_its_own() -> None:
    made = plugged("metric.sort,level=3;fact=answered;deadline=2;workers=1;name=said")
    assert (made.metric, made.reward.fact, made.reward.deadline, made.name) == (True, "answered", 2.0, "said")
    with pytest.raises(WiringError, match="'content'"):
        asyncio.run(made(a_trace(vf.Task(vf.TaskData(prompt="x")), "y"), vf.TaskData(prompt="x")))


PAGE = (HERE.parents[2] / "docs" / "verifiers.md").read_text(encoding="utf-8")


def test_the_config_at_the_top_of_the_page_plugs_a_reward_and_a_metric(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    config = tomllib.loads(block)
    config["env"]["taskset"] |= {"id": "truegain-taskset", "spec": "sort,level=4", "count": 1}
    made = EvalConfig.model_validate(config).env.taskset
    (task,) = vf.load_taskset(made)
    assert [fn.__name__ for fn in task.hooks("reward")] == ["checked", "right"]
    assert [fn.__name__ for fn in task.hooks("metric")] == ["exactly"]


def test_what_the_page_says_can_be_plugged_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards.py").write_text("def score(completions, **columns):\n    return [1.0] * len(completions)\n")
    cells = [line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| `")]
    named = [name.replace("\\|", "|") for cell in cells for name in re.findall(r"`([^`]*)`", cell)]
    spelled = [name for name in named if not name.startswith(("fn =", "gym", "runs"))]
    assert len(spelled) == 7
    for one in spelled:
        assert callable(plugged(one))


def test_the_code_on_the_page_runs(run: Path) -> None:
    scope: dict[str, Any] = {}
    for block in re.findall(r"^```python[^\n]*\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "verifiers.md", "exec", dont_inherit=True), scope)
    scores = [one.facts["score"] for one in read_traces(run)]
    assert scope["mean_score"](run) == pytest.approx(sum(scores) / 6)


def token_trace(task: vf.Task, reply: str) -> vf.Trace:
    """A trace as a train client leaves it: three tokens of the prompt, five that were sampled, a limit of 8."""
    config = vf.AgentConfig(sampling={"max_tokens": 8})
    trace = a_trace(task, reply)
    trace.agent = vf.AgentInfo(config=config)
    trace.nodes[:] = [
        tokens(None, vf.UserMessage(content="x"), [1, 2, 3], 0),
        tokens(0, vf.AssistantMessage(content=reply), [4, 5, 6, 7, 8], 5),
    ]
    return trace


HELD = [spec for _, spec in sorted(registry().items()) if spec.kind in ("score", "reward")]


@pytest.mark.parametrize("spec", HELD, ids=lambda spec: spec.full_name)
def test_what_the_offer_says_of_a_component_is_what_happens(spec: Spec) -> None:
    why = refusal(spec, OFFERS["verifiers"])
    of = Reward.of("sort,level=4", workers=1)
    task = next(iter(to_taskset("sort,level=4", "train", 1)))
    trace = token_trace(task, f"<answer>{task.data.answer}</answer>")
    if why is not None:
        with pytest.raises(WiringError) as raised:
            component(spec.full_name, of=of)
        assert str(raised.value) == why.sentence
        return
    if "score" in spec.inputs:
        of = Reward.of(f"{HERE / 'plain_rewards.py'}:half")
    said = asyncio.run(component(spec.full_name, of=of)(trace, task.data))
    numbers = said.values() if isinstance(said, dict) else [said]
    assert all(isinstance(number, float) and math.isfinite(number) for number in numbers)


def test_components_give_the_numbers_that_they_give_in_our_loop() -> None:
    (task,) = to_taskset("sort,level=4", "train", 1)
    right = token_trace(task, f"<answer>{task.data.answer}</answer>")
    wrong = token_trace(task, "<answer>0 1 2 3</answer>")
    of = "of=sort,level=4"

    def said(spelled: str, trace: vf.Trace) -> Any:
        return asyncio.run(plugged(spelled)(trace, task.data))

    # outcome: right or wrong by the verdict; well_formed: 0.1 for one answer block; near_budget: five were sampled and
    # five is the budget, its peak; overlong: 5 of 8 tokens, the buffer is the last fifth, so nothing is taken off.
    assert said(f"reward.outcome;{of};right=2.0;wrong=-1.0", right) == 2.0
    assert said(f"reward.outcome;{of};right=2.0;wrong=-1.0", wrong) == -1.0
    assert said(f"reward.well_formed;{of}", wrong) == pytest.approx(0.1)
    assert said("length.near_budget;budget=5.0", right) == 1.0
    assert said("length.overlong_penalty", right) == 0.0
    assert said(f"objective.outcome_level;{of}", right) == 1.0
    assert said(f"objective.outcome_level;{of}", wrong) == 2.0
    assert said("length.count_reflections", token_trace(task, "<think>wait, but wait</think>3")) == 3.0


def test_a_component_of_tokens_abstains_on_a_trace_without_them() -> None:
    (task,) = to_taskset("sort,level=4", "train", 1)
    with pytest.raises(Abstained, match=r"near_budget: the trace holds no token ids; they need --client.type train"):
        asyncio.run(plugged("length.near_budget")(a_trace(task, "x"), task.data))
    left = a_trace(task, "x")
    assert asyncio.run(plugged("metric.length.near_budget")(left, task.data)) == {"near_budget_abstained": 1.0}


@pytest.mark.parametrize(
    ("spelled", "why"),
    [
        ("reward.outcome", "reward.outcome needs of=TASK, whose checker gives it; put it behind the name"),
        ("length.near_budget;budge=3", r"has no knob 'budge' \(did you mean 'budget'\?\)"),
        ("length.near_budget;budget=x", "budget cannot be 'x'"),
        ("length.near_budget;budget", "'budget' is no setting"),
    ],
)
def test_a_component_that_is_spelled_wrong_is_refused(spelled: str, why: str) -> None:
    with pytest.raises((SettingError, WiringError), match=why):
        plugged(spelled)


def a_trace(task: vf.Task, reply: str) -> vf.Trace:
    """A trace with one reply."""
    trace = vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key), agent=vf.AgentInfo(config=CONFIG)
    )
    trace.nodes.append(vf.MessageNode(message=vf.UserMessage(content="x")))
    trace.nodes.append(vf.MessageNode(parent=0, message=vf.AssistantMessage(content=reply), sampled=True))
    return trace


CONFIG = vf.AgentConfig()


def tokens(parent: int | None, message: Any, ids: list[int], chosen: int, **more: Any) -> vf.MessageNode:
    mask = [False] * (len(ids) - chosen) + [True] * chosen
    logprobs = [-0.123456 - n for n in range(chosen)]
    return vf.MessageNode(
        parent=parent, message=message, token_ids=ids, mask=mask, sampled=chosen > 0, logprobs=logprobs, **more
    )


def test_branches_are_cut_as_verifiers_cuts_them(tmp_path: Path) -> None:
    """Oracle: `Trace.branches` of the installed version, its ids, mask, log-probs, advantages, entropies."""
    user, tool = vf.UserMessage(content="u"), vf.ToolMessage(content="t", tool_call_id="c")
    said = vf.AssistantMessage(content="a")
    (task,) = to_taskset("sort,level=4", "train", 1)
    trace = a_trace(task, "x")
    trace.nodes[:] = [
        tokens(None, user, [1, 2], 0),
        tokens(0, said, [3, 4, 5], 2, advantages=[0.5, -0.5], entropies=[0.1, 0.2]),
        tokens(1, tool, [6], 0),
        tokens(2, said, [7, 8], 1, advantages=[1.0], entropies=[0.3]),
        tokens(1, said, [9], 1, reference_logprobs=[-3.0]),
        tokens(0, said, [10], 1, semantic_parents=[vf.ParentLink(node=1, type="compaction_attempt")]),
    ]
    trace.record_reward("checked", 1.0, 0.5)
    branches = [branch for branch in trace.branches if branch.trainable]
    made = rollouts_of(trace)
    assert len(made) == len(branches) == 2
    for rollout, branch in zip(made, branches, strict=True):
        cut = len(rollout.prompt_ids)
        assert [*rollout.prompt_ids, *rollout.ids] == branch.token_ids
        assert [False] * cut + list(rollout.mask) == branch.sampled_mask
        assert [0.0] * cut + list(rollout.engine_logp) == branch.logprobs
        assert [0.0] * cut + rollout.facts["advantage"] == branch.advantages
        assert [0.0] * cut + rollout.facts["entropy"] == branch.entropies
        assert rollout.problem == problems_of("sort,level=4,chat=true", "train", 1)[0]
        assert rollout.facts["score"] == 0.5
    assert [0.0] * len(made[1].prompt_ids) + made[1].facts["ref_logp"] == branches[1].reference_logprobs
    episode = vf.Episode(task=trace.task, traces=[trace])
    write_episode(tmp_path, episode)
    stored = list(read_traces(tmp_path))
    assert [one.ids for one in stored] == [one.ids for one in made] == [one.ids for one in rollouts_of(episode)]
    assert stored[0].engine_logp == pytest.approx(made[0].engine_logp, abs=1e-4)


def test_a_data_file_is_a_taskset_with_its_own_checker(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}+1?", "answer": str(n + 1)}) + "\n" for n in range(30)))
    made = list(to_taskset(f"{file},checker=math"))
    trace = a_trace(made[0], rf"it is \boxed{{{made[0].data.answer}.0}}")
    asyncio.run(made[0].score(trace))
    assert trace.reward == 1.0
    assert isinstance(rollouts_of(trace)[0].problem, Problem)
