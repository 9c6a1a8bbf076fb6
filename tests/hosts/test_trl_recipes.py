"""What `truegain hosts trl` says of a recipe is so: it takes a real step in TRL, or is refused with that sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trl_runs import correct, furthest, prompts, said, scripted, settings, trainer_of, weights_of, write_model

from truegain.core.arithmetic import named_columns
from truegain.core.component import knobs_of, spec_of
from truegain.core.errors import DataError, SettingError, WiringError
from truegain.core.forms import Train, members
from truegain.core.system import SYSTEMS, build
from truegain.hosts.offers import OFFERS, form_of, needs, refusals
from truegain.methods import objective
from truegain.recipes import cispo, grpo, pure, reinforce_pp

TRL = OFFERS["trl"]
ONLINE = sorted(
    name
    for name, found in SYSTEMS.items()
    if found.recipe.__module__.startswith("truegain.") and any(isinstance(form, Train) for form in build(name))
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model"))


def refusal_of(name: str) -> str | None:
    """The sentence that the table has for a recipe; None where it runs."""
    try:
        found = refusals(form_of(name, "trl"), TRL)
    except WiringError as error:
        return str(error)
    return found[0].sentence if found else None


def numbers(width: int) -> Any:
    """A column of one number per row (width 0), or of ``width``."""

    def fill(completions: list[str], **_: Any) -> list[Any]:
        found = said(completions)
        return found if not width else [[value] * width for value in found]

    return fill


def by_steps(completions: list[str], steps: list[list[str]], **_: Any) -> list[list[float]]:
    """A number for each step of each row."""
    return [[value] * len(row) for value, row in zip(said(completions), steps, strict=True)]


def columns_for(form: Train) -> dict[str, Any]:
    """A function for every column that the form asks the user for."""
    widths = {"turn_reward": 12, "test_pass": 3, "model_reward": 3}
    wanted = [need for need in needs(form, TRL) if need.startswith("columns=")]
    names = [need.split("'")[1] for need in wanted]
    return {name: by_steps if name == "step_reward" else numbers(widths.get(name, 0)) for name in names}


@pytest.mark.parametrize("name", ONLINE)
def test_a_recipe_takes_a_step_or_is_refused_as_the_table_says(name: str, model: str, tmp_path: Path) -> None:
    sentence = refusal_of(name)
    if sentence is not None:
        with pytest.raises(WiringError) as refused:
            trainer_of(model, settings(tmp_path), recipe=name, reward_funcs=[correct, said])
        assert sentence in str(refused.value).splitlines()
        return
    form = form_of(name, "trl")
    knobs = knobs_of(form.plan[0]) if members(form.plan) else {"count": 1, "epochs": 1}
    args = settings(
        tmp_path,
        per_device_train_batch_size=8,
        steps_per_generation=knobs["count"],
        num_iterations=knobs["epochs"],
    )
    functions = [correct, said] if "correct" in named_columns(form) else [said]
    if "score" in {f for m in members(form.score) for f in spec_of(m).fills}:
        functions.remove(said)
    trainer = trainer_of(
        model, args, recipe=name, reward_funcs=functions, columns=columns_for(form), rollout_func=scripted,
        train_dataset=prompts(64),
    )  # fmt: skip
    before = weights_of(trainer)
    trainer.train()
    line = trainer.state.log_history[0]
    assert line["truegain/abstained"] < 8 * knobs["count"]
    assert furthest(before, weights_of(trainer)) > 0


def test_settings_that_the_recipe_decides_are_refused_by_name(model: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"loss_type='dr_grpo', epsilon_high=0.28, which the recipe decides"):
        trainer_of(model, settings(tmp_path, loss_type="dr_grpo", epsilon_high=0.28))
    with pytest.raises(SettingError, match=r"beta=0.04, and the recipe has no penalty to a reference"):
        trainer_of(model, settings(tmp_path, beta=0.04))
    with pytest.raises(SettingError, match=r"beta=0.1, the recipe 0.04: leave beta out"):
        trainer_of(model, settings(tmp_path, beta=0.1), recipe=grpo(beta=0.04))
    with pytest.raises(SettingError, match="sync_ref_model moves the reference"):
        trainer_of(model, settings(tmp_path, beta=0.04, sync_ref_model=True), recipe=grpo(beta=0.04))
    weight = (objective.sequence_mean, objective.truncated_importance)
    mended = replace(grpo(), terms=(replace(grpo().terms[0], weight=weight),))
    with pytest.raises(SettingError, match="set vllm_importance_sampling_correction=False"):
        trainer_of(model, settings(tmp_path, use_vllm=True), recipe=mended)
    with pytest.raises(SettingError, match="set steps_per_generation=4 or a multiple"):
        trainer_of(model, settings(tmp_path, gradient_accumulation_steps=4, steps_per_generation=2))
    with pytest.raises(SettingError, match=r"set GRPOConfig\(steps_per_generation=8, num_iterations=1\)"):
        trainer_of(model, settings(tmp_path, gradient_accumulation_steps=2), recipe=cispo(minibatches=4))


def test_the_settings_that_were_handed_in_are_not_written_into(model: str, tmp_path: Path) -> None:
    args = settings(tmp_path)
    trainer = trainer_of(model, args, recipe=reinforce_pp(beta=0.01))
    assert args.beta == trainer.args.beta == 0
    assert trainer.ref_model is not None
    assert trainer_of(model, args, recipe=reinforce_pp(beta=0)).ref_model is None


HAS = r"column {!r}, which trl 1\.16\.0 has with {}"


def test_a_column_that_nobody_fills_is_named_with_its_mend(model: str, tmp_path: Path) -> None:
    args = settings(tmp_path)
    with pytest.raises(WiringError, match="needs " + HAS.format("correct", "a reward function named correct")):
        trainer_of(model, args, recipe="adora")
    with pytest.raises(WiringError, match="judged_steps fills " + HAS.format("step_reward", "columns=")):
        trainer_of(model, args, recipe="pure")
    twice = settings(tmp_path, steps_per_generation=1, num_iterations=2)
    with pytest.raises(WiringError, match="needs " + HAS.format("engine_logp", "use_vllm=True, or a rollout_func")):
        trainer_of(model, twice, recipe="unlikeliness-reward", reward_funcs=correct)
    with pytest.raises(SettingError, match=r"no function can fill that \(did you mean 'step_reward'"):
        trainer_of(model, args, columns={"step_rewards": numbers(3)})
    with pytest.raises(SettingError, match="what it is worth is the recipe's to say"):
        trainer_of(model, settings(tmp_path, reward_weights=[0.5, 1.0]), reward_funcs=[correct, said])
    with pytest.raises(SettingError, match="unknown recipe 'gropo'"):
        trainer_of(model, args, recipe="gropo")
    with pytest.raises(WiringError, match=r"recipe must be a recipe's name or a Train form.*not 5"):
        trainer_of(model, args, recipe=5)
    with pytest.raises(WiringError, match="trains nothing online"):
        trainer_of(model, args, recipe="bon-kl")
    with pytest.raises(SettingError, match="columns must be a mapping"):
        trainer_of(model, args, columns=[numbers(3)])
    with pytest.raises(SettingError, match=r"columns\['step_reward'\] must be a function"):
        trainer_of(model, args, columns={"step_reward": 3}, recipe="pure")


def test_another_number_of_step_rewards_than_of_steps_is_refused(model: str, tmp_path: Path) -> None:
    trainer = trainer_of(model, settings(tmp_path), recipe=pure(beta=0.0), columns={"step_reward": numbers(5)})
    with pytest.raises(DataError, match=r"gave 5 numbers for completion 0 of the batch, which has \d steps: give one"):
        trainer.train()


def conciseness(completions: list[str], **_: Any) -> list[float]:
    return [-float(len(text)) for text in completions]


def reflections(completions: list[str], **_: Any) -> list[float]:
    return [0.0] * len(completions)


MISREAD: dict[str, tuple[str, list[Any], dict[str, Any], str]] = {
    "a reward in a column that nobody reads": (
        "grpo", [correct, conciseness], {},
        r"^the reward function called 'conciseness' fills a column that the recipe does not read: rename the function "
        "so that it is summed, or take a recipe that reads 'conciseness'$",
    ),
    "the only reward": ("grpo", [conciseness], {}, "'conciseness' fills a column that the recipe does not read"),
    "a verdict that nobody reads": ("matchtir", [correct], {}, "'correct' fills a column that the recipe does not"),
    "a column that nobody reads": (
        "grpo", [correct], {"level": numbers(0)},
        r"^columns\['level'\] fills a column that the recipe does not read: leave it out, or take a recipe that reads "
        "'level'$",
    ),
    "two verdicts": (
        "grpo", [correct, correct], {},
        "^2 reward functions are called 'correct', and one alone can fill that column: rename the others so that they",
    ),
    "two sums": ("grpo", [said], {"score": numbers(0)}, "'score'.* and a reward function fill the same column"),
    "a reward in a column of the recipe's own": (
        "arlcp", [correct, reflections], {}, r"'reflections', a column that the recipe fills itself \(",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISREAD)
def test_a_function_that_would_be_dropped_without_a_word_is_refused(case: str, model: str, tmp_path: Path) -> None:
    recipe, functions, columns, sentence = MISREAD[case]
    with pytest.raises(SettingError, match=sentence):
        trainer_of(model, settings(tmp_path), recipe=recipe, reward_funcs=functions, columns=columns)


def test_a_function_of_a_columns_name_fills_it_where_the_recipe_reads_it(model: str, tmp_path: Path) -> None:
    two_sums = trainer_of(model, settings(tmp_path), reward_funcs=[correct, said, said])
    assert two_sums._given.filling == {"correct"}
    read = trainer_of(
        model, settings(tmp_path), recipe="crf", columns={"conciseness": numbers(0)}, reward_funcs=correct
    )
    assert read._given.columns == {"correct", "conciseness"}
