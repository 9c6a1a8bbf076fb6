"""The recipes of the offline half, run form by form on the embedded model: what each stage leaves for the next one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.errors import DataError, WiringError
from truegain.core.forms import Decode, Fit, Study, Train
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.train.chain import Chain, check, execute
from truegain.train.launch import StopSignal


def chain(name: str, out: Path, *loops: dict[str, Any], task: str = "chain,level=5,style=trace", **knobs: Any) -> Chain:
    forms = [
        loop_with(form, **loop) if not isinstance(form, Study) else form
        for form, loop in zip(build(name, **knobs), loops, strict=True)
    ]
    return Chain(tuple(forms), name, out, task=task, options={"sizes": {"dev": 2, "test": 2, "samples": 1}})


def run(made: Chain) -> list[dict[str, Any]]:
    return list(execute(made, StopSignal(say=lambda text: None)))


def rows(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "dataset.jsonl").read_text().splitlines()]


SMALL = {"steps": 2, "prompts": 4, "max_tokens": 110}


def test_retro_search_writes_right_traces_and_learns_them(tmp_path: Path) -> None:
    run(chain("retro-search", tmp_path / "out", {**SMALL, "samples": 2}, {"steps": 2, "prompts": 4}))
    found = rows(tmp_path / "out/1-decode")
    assert found and all(row["correct"] == 1.0 and "replaced" in row for row in found)
    assert (tmp_path / "out/2-fit/model/model.safetensors").is_file()


def test_dto_writes_pairs_whose_chosen_are_right_and_prefers_them(tmp_path: Path) -> None:
    run(chain("dto", tmp_path / "out", {**SMALL, "steps": 3, "samples": 3}, {"steps": 2, "prompts": 2}))
    found = rows(tmp_path / "out/1-decode")
    assert found and all(row["chosen"].count("<answer>") == 1 for row in found)
    assert (tmp_path / "out/2-fit/model/model.safetensors").is_file()


def test_rebalance_fits_a_direction_on_its_own_traces_and_decodes_with_the_numbers_it_found(tmp_path: Path) -> None:
    fast = {**SMALL, "samples": 2, "max_tokens": 90}
    lines = run(chain("rebalance", tmp_path / "out", fast, {}, fast))
    study = json.loads((tmp_path / "out/2-study/record.json").read_text())
    assert study["settings"]["sampler.steer_balanced.layer"] == study["layer"]
    assert (tmp_path / "out/2-study/direction.npy").is_file()
    # Its knobs as they stand in the recipe have no direction: had they not been set, the last form would have refused.
    assert len(rows(tmp_path / "out/3-decode")) == 16 and [x for x in lines if x["kind"] == "left"][-1]["rows"] == 16


def test_dualformer_fits_demonstrations_with_parts_left_out(tmp_path: Path) -> None:
    run(chain("dualformer", tmp_path / "out", {"steps": 2, "prompts": 4}))
    assert (tmp_path / "out/1-fit/model/model.safetensors").is_file()


@pytest.mark.slow
def test_conmax_trains_a_compressor_compresses_and_has_the_first_model_learn_the_result(tmp_path: Path) -> None:
    small = {**SMALL, "prompts": 2, "samples": 1, "eval_every": 0}
    made = chain("conmax", tmp_path / "out", small, {**SMALL, "prompts": 16}, {}, {"steps": 2, "prompts": 2},
                 task="chain,level=2,style=trace", candidates=2)  # fmt: skip
    run(made)
    found = rows(tmp_path / "out/2-decode")
    assert found and all(row["correct"] == 1.0 and "shorter" not in row["prompt"] for row in found)
    assert (tmp_path / "out/4-fit/model/model.safetensors").is_file()


def test_forms_stand_in_the_order_of_the_papers() -> None:
    kinds = {name: [type(form) for form in build(name)] for name in ("conmax", "dto", "rebalance", "retro-search")}
    assert kinds == {
        "conmax": [Train, Decode, Study, Fit],
        "dto": [Decode, Fit],
        "rebalance": [Decode, Study, Decode],
        "retro-search": [Decode, Fit],
    }
    (decode, _) = build("retro-search", reviser="tiny")
    assert isinstance(decode, Decode) and decode.roles["reviser"].source == "tiny"


def test_a_study_that_reads_a_data_set_is_refused_where_no_form_writes_one(tmp_path: Path) -> None:
    forms = build("rebalance")[1:]
    with pytest.raises(WiringError, match="the study reads a data set"):
        check(Chain(forms, "rebalance", tmp_path / "out", task="chain,style=trace"))


def test_pairs_are_not_edited(tmp_path: Path) -> None:
    (decode, fit), (edited,) = build("dto"), build("dualformer")
    assert isinstance(fit, Fit) and isinstance(edited, Fit)
    with pytest.raises(WiringError, match="edits no text"):
        check(Chain((decode, replace(fit, edit=edited.edit)), "dto", tmp_path / "out", task="chain,style=trace"))


@pytest.mark.parametrize("name", ["conmax", "dto", "rebalance", "retro-search"])
def test_a_file_without_answers_is_refused_before_anything_is_drawn(tmp_path: Path, name: str) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"what is {n}+1?"}) for n in range(8)))
    with pytest.raises(DataError, match=r"no column 'answer'.*; rename one") as found:
        check(Chain(build(name), name, tmp_path / "out", task=str(file)))
    assert "\n" not in str(found.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("answer", [{}, {"answer": "4"}])
def test_dualformer_is_refused_where_nothing_gives_demonstrations(tmp_path: Path, answer: dict[str, str]) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"what is {n}+1?", **answer}) for n in range(8)))
    with pytest.raises(WiringError, match=r"needs examples.*a data file with a column 'completion'"):
        check(Chain(build("dualformer"), "dualformer", tmp_path / "out", task=str(file)))


def test_conmax_without_its_reader_is_refused_naming_column_component_and_giver(tmp_path: Path) -> None:
    compressor, *rest = build("conmax")
    assert isinstance(compressor, Train)
    blind = replace(compressor, probe=())
    with pytest.raises(WiringError, match="confidence_kept needs column 'read_answer', which task 'chain' does not"):
        check(Chain((blind, *rest), "conmax", tmp_path / "out", task="chain,level=5,style=trace"))


# Every line of these traces calls a tool: each is a thought, so that both searches have a place to go on from.
@pytest.mark.parametrize("name", ["retro-search", "dto"])
def test_searches_go_on_from_a_cut_on_a_task_with_tools_too(tmp_path: Path, name: str) -> None:
    run(chain(name, tmp_path / "out", SMALL, {"steps": 1, "prompts": 2}, task="calculator,level=3,style=trace",
              words=("<tool>",)))  # fmt: skip
    found = [row["completion" if name == "retro-search" else "chosen"] for row in rows(tmp_path / "out/1-decode")]
    assert found and all("<tool>" in text and text.count("<tool>") == text.count("<result>") for text in found)
