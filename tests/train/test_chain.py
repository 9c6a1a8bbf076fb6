"""Systems of several forms: what each is given, what it leaves, and what is not run twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from train_runs import llama

from truegain.core.component import REGISTRY, component
from truegain.core.errors import DataError, RunError, SettingError, WiringError
from truegain.core.forms import Decode, Fit, Loop, Measure, Role, Study, Train, Watch
from truegain.core.settings import loop_with
from truegain.core.types import Pair, Problem, Rollout, Tree, Turn
from truegain.methods import evaluation
from truegain.methods.length import selective_merge
from truegain.policy.policy import Policy
from truegain.recipes.bradley_terry_rm import bradley_terry_rm
from truegain.recipes.grpo import grpo
from truegain.recipes.sft import sft
from truegain.train import dataset
from truegain.train.chain import Chain, check, execute
from truegain.train.folder import read_lines
from truegain.train.launch import StopSignal
from truegain.train.stages.records import arrays
from truegain.train.stages.stage import put

SIZES = {"dev": 2, "test": 2, "samples": 1}


@component("search", cite="truegain")
def only_right(rollouts: Sequence[Rollout], *, least: float = 0.5) -> list[Rollout]:
    """Keep right completions."""
    return [r for r in rollouts if r.facts.get("correct", 0.0) >= least]


@component("search", cite="truegain")
def best_and_worst(draw: Any, problems: Sequence[Problem], *, samples: int = 2) -> list[Pair]:
    """Two completions of each problem as a pair."""
    drawn = draw.again(problems, samples)
    pairs = [drawn[i : i + 2] for i in range(0, len(drawn), samples)]
    return [Pair(a.problem.id, a.problem.prompt, a.text, b.text, {"margin": 1.0}) for a, b in pairs]


@component("sampler", cite="truegain")
def never(logits: Tensor, history: Tensor, *, token: int = 0) -> Tensor:
    """Forbid a token as the first one."""
    if history.shape[1]:
        return logits
    out = logits.clone()
    out[:, token] = float("-inf")
    return out


for _own in ("only_right", "best_and_worst", "never"):
    del REGISTRY[next(name for name in REGISTRY if name.endswith(f".{_own}"))]


def small(form: Any, **loop: Any) -> Any:
    return loop_with(form, **{"steps": 2, "prompts": 4, "samples": 2, **loop})


def chain(out: Path, *forms: Any, **more: Any) -> Chain:
    given = {"model": "table", "task": "sort,level=2", "options": {"sizes": SIZES}, "seed": 0, **more}
    return Chain(forms, "test", out, **given)


def run(what: Chain) -> list[dict[str, Any]]:
    return list(execute(what, StopSignal()))


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def changed(a: str | Path, b: str | Path) -> bool:
    before, after = Policy.load(a).weights(), Policy.load(b).weights()
    return any(not value.equal(after[name]) for name, value in before.items())


def test_each_form_goes_on_from_the_folder_of_the_one_before(tmp_path: Path) -> None:
    out = tmp_path / "run"
    online = small(grpo(), eval_every=0, lr=0.1, steps=3, max_tokens=1)
    first = Decode(loop=Loop(steps=2, prompts=4, samples=2, max_tokens=1))
    events = run(chain(out, first, small(sft(), lr=0.1, prompts=8), online, task="bandit,level=10"))
    assert [p.name for p in sorted(out.glob("[0-9]*"))] == ["1-decode", "2-fit", "3-train"]
    found = rows(out / "1-decode" / "dataset.jsonl")
    assert len(found) == 2 * 4 * 2
    assert {"prompt", "completion", "prompt_ids", "completion_ids", "completion_mask", "correct"} <= found[0].keys()
    assert "step" not in found[0]
    assert changed("table", out / "2-fit" / "model") and changed(out / "2-fit" / "model", out / "3-train" / "model")
    settings = json.loads((out / "3-train" / "settings.json").read_text())
    assert settings["model"] == str(out / "2-fit" / "model")
    assert [e["stage"] for e in events if e["kind"] == "left"] == ["1-decode", "2-fit", "3-train"]
    # the last Train alone is judged
    assert (out / "3-train" / "evals" / "records.jsonl").is_file()


def test_a_train_that_another_follows_leaves_the_test_split_closed(tmp_path: Path) -> None:
    online = small(grpo(), eval_every=0, lr=0.1, steps=1)
    run(chain(tmp_path / "run", online, online))
    assert not (tmp_path / "run" / "1-train" / "evals").exists()
    assert (tmp_path / "run" / "2-train" / "evals" / "records.jsonl").is_file()


def test_a_fit_learns_exactly_the_tokens_that_were_drawn(tmp_path: Path) -> None:
    run(chain(tmp_path / "run", Decode(loop=Loop(steps=1, prompts=2, samples=1))))
    policy = Policy.load("table")
    (first, _) = rows(tmp_path / "run" / "1-decode" / "dataset.jsonl")
    example = dataset.example_of(policy, first)
    assert example.completion == tuple(first["completion_ids"]) and example.prompt == tuple(first["prompt_ids"])
    # by text alone, the end mark is added and the tool's part is not learned
    given = {"prompt": "who boss of ann think\n", "completion": "<tool>boss ann</tool><result>bob</result>"}
    told = dataset.example_of(policy, given)
    assert told.completion[-1] == policy.tokenizer.eos_token_id and not all(told.mask)
    short = dataset.example_of(policy, first, room=len(example.prompt) + 1)
    assert len(short.completion) == 1
    with pytest.raises(DataError, match="its prompt has"):
        dataset.example_of(policy, first, room=1)


def test_every_epoch_sees_every_row_once_in_an_order_of_its_own() -> None:
    place = dataset.in_order(5, seed=3)
    first, second = [place(i) for i in range(5)], [place(i) for i in range(5, 10)]
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4] and first != second
    assert [dataset.in_order(5, seed=3)(i) for i in range(5)] == first


def test_what_is_done_is_not_run_again_and_what_is_not_goes_on(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    forms = (Decode(loop=Loop(steps=3, prompts=2, samples=1)), small(sft(), lr=0.1, steps=4, save_every=1))
    run(chain(whole, *forms))
    for lines in (3, 6, 9):  # dropped in the middle of a search, at its end, in the middle of the fit
        with closing(execute(chain(cut, *forms), StopSignal())) as going:  # pyright: ignore
            for _ in range(lines):
                next(going, None)
    events = run(chain(cut, *forms))
    assert events[0]["kept"] is True
    for name in ("1-decode/dataset.jsonl", "2-fit/model/model.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    before = {p: p.stat().st_mtime_ns for p in cut.rglob("*") if p.is_file() and p.name != ".lock"}
    assert all(e["kept"] for e in run(chain(cut, *forms)) if e["kind"] == "stage")
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


def test_rows_of_a_search_step_that_was_not_finished_do_not_count(tmp_path: Path) -> None:
    out, form = tmp_path / "run", Decode(loop=Loop(steps=2, prompts=2, samples=1))
    with closing(execute(chain(out, form), StopSignal())) as going:  # pyright: ignore
        for _ in range(3):  # stage, begin, step 1
            next(going)
    with (out / "1-decode" / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, "row": {"prompt": "stray", "completion": "x"}}) + "\n{torn")
    run(chain(out, form))
    found = rows(out / "1-decode" / "dataset.jsonl")
    assert len(found) == 4 and all(row["prompt"] != "stray" for row in found)


def test_a_stop_ends_a_form_after_its_step_and_the_next_form_does_not_begin(tmp_path: Path) -> None:
    out, stop = tmp_path / "run", StopSignal(ends=0.0)
    form = Decode(loop=Loop(steps=2, prompts=2, samples=1))
    list(execute(chain(out, form, small(sft())), stop))
    assert not (out / "1-decode" / "stage.json").exists() and not (out / "2-fit").exists()


def test_searches_run_in_order_and_pairs_become_rows_of_chosen_and_rejected(tmp_path: Path) -> None:
    loop = Loop(steps=1, prompts=3, samples=2)
    run(
        chain(
            tmp_path / "a", Decode(search=(partial(only_right, least=0.0), partial(only_right, least=-1.0)), loop=loop)
        )
    )
    assert len(rows(tmp_path / "a" / "1-decode" / "dataset.jsonl")) == 6
    run(chain(tmp_path / "b", Decode(search=best_and_worst, loop=loop)))
    (row, *_) = rows(tmp_path / "b" / "1-decode" / "dataset.jsonl")
    assert {"prompt", "chosen", "rejected", "margin"} <= row.keys() and "completion" not in row


def test_a_fit_on_pairs_leaves_its_head_as_a_role_and_not_as_the_policy(tmp_path: Path) -> None:
    from truegain.policy.heads import ScalarHead

    out, tiny = tmp_path / "run", str(llama(tmp_path / "llama"))
    forms = (
        Decode(search=best_and_worst, loop=Loop(steps=1, prompts=4, samples=2, max_tokens=4)),
        loop_with(bradley_terry_rm(), steps=2, prompts=4, save_every=1),
        small(sft(), steps=1),
    )
    # the last form learns from the last data set, which here holds pairs: refused when it is read
    with pytest.raises(DataError, match="has no 'completion'"):
        run(chain(out, *forms, model=tiny, task="bandit,level=10"))
    left = json.loads((out / "2-fit" / "stage.json").read_text())
    assert left["policy"] is None and left["roles"] == {"reward_model": "model"}
    assert isinstance(ScalarHead.load(out / "2-fit" / "model" / "head.safetensors"), ScalarHead)


def test_a_search_that_finds_nothing_is_an_error_that_names_the_mend(tmp_path: Path) -> None:
    form = Decode(search=partial(only_right, least=2.0), loop=Loop(steps=1, prompts=2, samples=1))
    with pytest.raises(RunError, match=r"kept nothing of 2 problems.*--set 1\.loop\.steps"):
        run(chain(tmp_path / "run", form))


def test_a_tree_gives_the_nodes_that_nothing_goes_on_from() -> None:
    said = (Turn("policy", 0, 1),)
    nodes = [Rollout(Problem("p", "p"), (1,), (n,), (0.0,), str(n), "eos", said) for n in range(3)]
    tree = Tree(nodes, (-1, 0, 0), (0.5, 0.0, 1.0), (2, 1, 1))
    assert [r.text for r in tree.rollouts()] == ["1", "2"]
    assert dataset.found_by("x", tree) == tree.rollouts()
    with pytest.raises(WiringError, match="x must return a Tree"):
        dataset.found_by("x", {"a": 1})


def test_samplers_steer_the_engine_and_read_what_was_drawn_so_far(tmp_path: Path) -> None:
    loop = Loop(steps=1, prompts=8, samples=4)
    run(chain(tmp_path / "plain", Decode(loop=loop)))
    plain = rows(tmp_path / "plain" / "1-decode" / "dataset.jsonl")
    firsts = [row["completion_ids"][0] for row in plain]
    token = max(set(firsts), key=firsts.count)
    run(chain(tmp_path / "steered", Decode(sampler=partial(never, token=token), loop=loop)))
    steered = rows(tmp_path / "steered" / "1-decode" / "dataset.jsonl")
    assert all(row["completion_ids"][0] != token for row in steered)
    # rows that did not begin with it keep their draws: a row hangs on its own number alone
    assert (
        any(a == b for a, b in zip(plain, steered, strict=True) if a["completion_ids"][0] != token)
        or len(set(firsts)) == 1
    )


def test_a_study_is_handed_what_it_names_and_its_weights_become_the_model(tmp_path: Path) -> None:
    def merged(base: Mapping[str, Tensor], trained: Mapping[str, Tensor], *, keep: float = 1.0) -> dict[str, Any]:
        return {"weights": selective_merge(base, trained, keep=keep, scale=1.0), "kept": torch.tensor([keep])}

    out = tmp_path / "run"
    run(chain(out, small(sft(), lr=0.1), Study(partial(merged, keep=0.0)), small(sft(), lr=0.1)))
    assert json.loads((out / "2-study" / "record.json").read_text())["kept"] == [0.0]
    # nothing kept: the model that the chain began with, and the next form goes on from it
    assert changed("table", out / "1-fit" / "model") and not changed("table", out / "2-study" / "model")
    assert changed("table", out / "3-fit" / "model")


def test_a_study_keeps_its_own_seed_unless_the_user_gives_one(tmp_path: Path) -> None:
    def seeded(*, seed: int = 7) -> dict[str, int]:
        return {"seed": seed}

    for seed, told in ((None, 7), (3, 3)):
        out = tmp_path / str(seed)
        run(chain(out, Study(seeded), task="", seed=seed))
        assert json.loads((out / "1-study" / "record.json").read_text())["seed"] == told


def test_a_measure_reads_records_and_a_watch_reads_logs(tmp_path: Path) -> None:
    records, log = tmp_path / "records.jsonl", tmp_path / "log.jsonl"
    # two problems, one right in 1 of 2 samples, one in 2 of 2: pass@1 is 1/2 and 1
    lines = [("a", 1.0), ("a", 0.0), ("b", 1.0), ("b", 1.0)]
    records.write_text("".join(json.dumps({"problem": p, "gold": g}) + "\n" for p, g in lines))
    run(chain(tmp_path / "m", Measure(evaluation.pass_at_k), task="", records=(records,)))
    record = json.loads((tmp_path / "m" / "1-measure" / "record.json").read_text())
    assert record["evaluation.pass_at_k"] == [0.5, 1.0]
    log.write_text("".join(json.dumps({"kind": "step", "step": n, "kl": 0.5}) + "\n" for n in (1, 2)))
    from truegain.methods.objective import adaptive_kl

    watched = Watch(fold=adaptive_kl)
    with pytest.raises(WiringError, match="--records FILE"):
        check(chain(tmp_path / "w", watched, task=""))
    with pytest.raises(DataError, match="no file"):
        check(chain(tmp_path / "w", watched, task="", records=(tmp_path / "none",)))


def test_records_of_unequal_numbers_of_samples_are_padded_with_nan() -> None:
    found = arrays([{"problem": "a", "gold": 1.0}, {"problem": "b", "gold": None}, {"problem": "a", "gold": 0.0}])
    assert found["n"].tolist() == [2, 0] and found["c"].tolist() == [1.0, 0.0]
    assert found["x"].shape == (2, 2)


def test_a_form_that_cannot_be_fed_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"p{i}", "answer": "1"}) + "\n" for i in range(30)))
    role = {"steps": Role(source="chain", fills="step_reward", head=True)}
    wrong: list[tuple[Chain, type[Exception], str]] = [
        (chain(out, small(sft()), task=""), SettingError, "test needs --task"),
        (chain(out, small(sft()), task=str(data)), WiringError, "a Fit needs examples"),
        (
            chain(out, small(sft()), replace(grpo(), roles=role)),
            WiringError,
            "form 2 of test, Train: no form before it",
        ),
        (chain(out, Study(lambda what: {})), WiringError, "the study asks for 'what'"),
        (chain(out, small(sft()), dtype="float16"), SettingError, "float16"),
    ]
    for what, kind, message in wrong:
        with pytest.raises(kind, match=message):
            run(what)
    assert not out.exists()


def test_a_fit_learns_a_given_file_without_a_task(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i}+1=", "completion": f"{i + 1}"}) + "\n" for i in range(4)))
    run(chain(tmp_path / "run", small(sft(), lr=0.1), task="", data=file))
    assert changed("table", tmp_path / "run" / "1-fit" / "model")
    with pytest.raises(DataError, match="no file"):
        check(chain(tmp_path / "x", small(sft()), task="", data=tmp_path / "none"))


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    run(chain(tmp_path / "run", small(sft())))
    with pytest.raises(DataError, match=r"other settings.*lr"):
        run(chain(tmp_path / "run", small(sft(), lr=0.5)))


def test_a_form_whose_model_was_deleted_is_told_and_not_passed_over(tmp_path: Path) -> None:
    import shutil

    run(chain(tmp_path / "run", small(sft())))
    shutil.rmtree(tmp_path / "run" / "1-fit" / "model")
    with pytest.raises(DataError, match="its model is gone"):
        run(chain(tmp_path / "run", small(sft())))


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def torn(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        put(tmp_path / "model", torn)
    assert not (tmp_path / "model").exists()


def test_a_fit_logs_in_trls_names_with_a_ledger_that_a_second_sitting_goes_on_with(tmp_path: Path) -> None:
    out, form = tmp_path / "run", small(sft(), steps=3, save_every=1)
    with closing(execute(chain(out, form), StopSignal())) as going:  # pyright: ignore
        for _ in range(4):
            next(going)
    run(chain(out, form))
    lines = read_lines(out / "1-fit" / "log.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"loss", "grad_norm", "learning_rate", "num_tokens"} <= lines[0].keys()
    trained = [line["ledger"]["trained"] for line in lines]
    assert trained == sorted(trained) and trained[0] > 0 and lines[-1]["num_tokens"] == trained[-1]


def test_roles_of_a_decode_are_frozen() -> None:
    with pytest.raises(WiringError, match="Decode trains nothing"):
        Decode(roles={"x": Role(source="init", fills="ref_logp", lr=0.1)})
    assert isinstance(small(grpo()), Train) and isinstance(small(sft()), Fit)
