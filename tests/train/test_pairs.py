"""The loop on pairs and reward models: they learn, resume to the same numbers, and load as roles."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from truegain.cli.__main__ import main
from truegain.core.component import REGISTRY, component, spec_of
from truegain.core.errors import DataError, RunError, SettingError, WiringError
from truegain.core.forms import Fit, Role, Term, Train
from truegain.core.settings import loop_with
from truegain.core.types import Pair
from truegain.methods import credit, objective, preference, reward
from truegain.policy.policy import Policy
from truegain.policy.reward_model import RewardModels
from truegain.policy.tokenizer import character_tokenizer
from truegain.recipes.bradley_terry_rm import bradley_terry_rm
from truegain.tasks.pairs import PairFile
from truegain.train.models import load_models
from truegain.train.order import in_order
from truegain.train.pairs import PairIds, fit_pairs, pair_ids, update_pairs


def small_policy(seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=108, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    return Policy(LlamaForCausalLM(config), character_tokenizer(), "small")


def letters(rng: random.Random) -> tuple[int, ...]:
    return (*(rng.randrange(80, 83) for _ in range(rng.randrange(1, 6))), 2)


def some_pairs(count: int) -> list[PairIds]:
    """More of letter 80 is better."""
    rng = random.Random(0)
    found: list[PairIds] = []
    while len(found) < count:
        a, b = letters(rng), letters(rng)
        if a.count(80) != b.count(80):
            found.append(PairIds((1, 12), *sorted((a, b), key=lambda ids: -ids.count(80))))
    return found


def form(**loop: Any) -> Fit:
    return loop_with(bradley_terry_rm(), **{"steps": 60, "prompts": 16, "lr": 3e-3, "save_every": 0, **loop})


def losses_of(lines: Any) -> list[float]:
    return [line["loss"] for line in lines if line["kind"] == "step"]


def test_a_head_on_the_policy_learns_what_is_preferred_and_the_body_learns_with_it(tmp_path: Path) -> None:
    policy = small_policy()
    before = policy.weights()
    lines = list(fit_pairs(form(), policy, some_pairs(200), tmp_path))
    assert losses_of(lines)[0] == pytest.approx(0.693, abs=0.01)
    assert sum(line["rewards/accuracies"] for line in lines[-10:]) / 10 > 0.9
    assert any(not value.equal(before[name]) for name, value in policy.weights().items())


def test_a_resumed_fit_gives_the_same_numbers(tmp_path: Path) -> None:
    whole = losses_of(fit_pairs(form(steps=8), small_policy(), some_pairs(50), tmp_path / "whole"))
    seen: list[int] = []
    first = losses_of(
        fit_pairs(
            form(steps=8), small_policy(), some_pairs(50), tmp_path / "cut",
            stop=lambda: "time is up" if len(seen) > 3 else seen.append(0),  # type: ignore[func-returns-value]
        )
    )  # fmt: skip
    rest = losses_of(fit_pairs(form(steps=8), small_policy(1), some_pairs(50), tmp_path / "cut"))
    assert 0 < len(first) < 8
    assert first + rest == whole


def test_how_a_batch_is_cut_does_not_change_the_step() -> None:
    ends: list[dict[str, torch.Tensor]] = []
    for micro in (16, 64, 10_000):
        policy, made = small_policy(), form(micro_tokens=micro)
        models = load_models(made, policy, policy.reference())
        for _ in range(2):
            update_pairs(made, models, some_pairs(12), {})
        ends.append(policy.weights())
    for other in ends[1:]:
        assert all(torch.allclose(other[name], value, atol=1e-5) for name, value in ends[0].items())


def test_every_pair_comes_once_in_an_epoch_and_the_seed_decides_the_order() -> None:
    place = in_order(10, seed=3)
    whole = [place(index) for index in range(20)]
    assert sorted(whole[:10]) == sorted(whole[10:]) == list(range(10))
    assert whole[:10] != whole[10:]
    assert whole[:10] != [in_order(10, seed=4)(index) for index in range(10)]


def test_the_order_of_the_members_of_a_pair_loss_and_log_probs_of_both_sides_are_given() -> None:
    @component("pair", cite="truegain")
    def likelier(chosen_logp: Any, chosen_ref_logp: Any, chosen_mask: Any, rejected_logp: Any, *, scale: float = 1.0):
        "The chosen completion becomes likelier than under the reference."
        assert chosen_logp.shape == chosen_ref_logp.shape == chosen_mask.shape
        return -scale * (chosen_logp - chosen_ref_logp).masked_fill(~chosen_mask, 0.0).sum(1) + 0 * rejected_logp.sum(1)

    try:
        policy = small_policy()
        made = Fit((), likelier, roles={"reference": Role("init", "ref_logp")}, loop=form().loop)
        models = load_models(made, policy, policy.reference())
        found = [update_pairs(made, models, some_pairs(8), {})["loss"] for _ in range(3)]
        assert found[0] == pytest.approx(0.0, abs=1e-5)  # at the reference
        assert found[2] < found[1] < 0
    finally:
        del REGISTRY[spec_of(likelier).full_name]


def test_a_pair_loss_that_nobody_feeds_is_refused_in_one_line_before_training(tmp_path: Path) -> None:
    lacking = Fit((), preference.bradley_terry)
    with pytest.raises(WiringError, match=r"preference\.bradley_terry needs column 'chosen_reward'.*'model_reward'"):
        next(fit_pairs(lacking, small_policy(), some_pairs(4), tmp_path))
    terms = (Term(objective.negative_logp, objective.token_mean),)
    with pytest.raises(WiringError, match="no terms"):
        next(fit_pairs(replace(form(), terms=terms), small_policy(), some_pairs(4), tmp_path))
    with pytest.raises(DataError, match="no pairs"):
        next(fit_pairs(form(), small_policy(), [], tmp_path))


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(tmp_path: Path) -> None:
    policy = small_policy()
    with torch.no_grad():
        policy.model.model.norm.weight[0] = float("nan")
    before = policy.weights()
    with pytest.raises(RunError, match="step 1, pairs 0 to 15"):
        list(fit_pairs(form(), policy, some_pairs(20), tmp_path))
    after = policy.weights()
    assert all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)


def test_pairs_longer_than_the_model_reads_lose_their_ends() -> None:
    policy = small_policy()
    found = pair_ids(policy, Pair("p", "ab", "c" * 100, "d"))
    assert len(found.prompt) + len(found.chosen) == 64 and found.rejected[-1] == policy.tokenizer.eos_token_id
    with pytest.raises(DataError, match="its prompt has"):
        pair_ids(policy, Pair("p", "a" * 100, "c", "d"))


# Data files


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def all_pairs(file: PairFile) -> list[Pair]:
    return [file.pair(split, i) for split in ("train", "dev", "test") for i in range(file.size(split))]


def test_every_form_of_trl_gives_the_same_pair(tmp_path: Path) -> None:
    user, good, bad = ({"role": r, "content": c} for r, c in (("user", "Q"), ("assistant", "yes"), ("assistant", "no")))
    rows: list[dict[str, Any]] = [
        {"prompt": [user], "chosen": [good], "rejected": [bad]},
        {"chosen": [user, good], "rejected": [user, bad]},
        {"prompt": "Q", "chosen": [user, good], "rejected": [user, bad]},
        {"prompt": [user], "chosen": "yes", "rejected": "no"},
    ]
    for n, row in enumerate(rows):
        (pair,) = all_pairs(PairFile(write(tmp_path / f"{n}.jsonl", [row])))
        assert (pair.prompt, pair.chosen, pair.rejected) == ((user,), "yes", "no")
    plain = {"prompt": "Q", "chosen": "yes", "rejected": "no", "source": "x"}
    (pair,) = all_pairs(PairFile(write(tmp_path / "plain.jsonl", [plain])))
    assert (pair.prompt, pair.chosen, pair.rejected, pair.meta["source"]) == ("Q", "yes", "no", "x")
    implicit = {"chosen": "\n\nHuman: Q\n\nAssistant: no, yes", "rejected": "\n\nHuman: Q\n\nAssistant: nothing"}
    (pair,) = all_pairs(PairFile(write(tmp_path / "implicit.jsonl", [implicit])))
    assert (pair.prompt, pair.chosen, pair.rejected) == ("\n\nHuman: Q\n\nAssistant: ", "no, yes", "nothing")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Q", "chosen": "a", "reject": "b"}, "no column 'rejected'"),
        ({"prompt": "Q", "chosen": "", "rejected": "b"}, "empty"),
        ({"prompt": "Q", "chosen": 1, "rejected": "b"}, "must both be text"),
        ({"chosen": "a", "rejected": "b"}, "nothing in common"),
    ],
)
def test_a_row_that_is_no_pair_is_refused_with_its_place(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        PairFile(write(tmp_path / "bad.jsonl", [row]))
    assert "line 1" in str(caught.value) and "\n" not in str(caught.value)


# The command, and what it writes as a role


def preferring_a(count: int) -> list[dict[str, str]]:
    rng = random.Random(1)
    rows: list[dict[str, str]] = []
    for i in range(count):
        a, b = ("".join(rng.choice("abc") for _ in range(4)) for _ in range(2))
        if a.count("a") != b.count("a"):
            good, bad = sorted((a, b), key=lambda text: -text.count("a"))
            rows.append({"prompt": f"{i}: ", "chosen": good, "rejected": bad})
    return rows


def test_the_command_fits_members_that_load_as_one_role_and_the_same_folder_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data, out = write(tmp_path / "pairs.jsonl", preferring_a(120)), tmp_path / "rm"
    body = tmp_path / "body"
    small_policy().save(body)
    command = ["fit", "reward-model", "--data", str(data), "--model", str(body), "--out", str(out), "--steps", "3"]
    assert main([*command, "--members", "1"]) == 0
    assert main([*command, "--members", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert [line["kind"] for line in told] == ["member", "member", "ensemble"]
    assert all(line["accuracy"]["low"] <= line["accuracy"]["value"] <= line["accuracy"]["high"] for line in told)
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["member-0", "member-1"]
    assert main([*command, "--members", "2", "--lr", "0.1"]) == 2
    assert "fitted with another settings" in capsys.readouterr().err

    models = RewardModels.load(out)
    ids = [models.tokens("1: ", text) for text in ("aaaa", "b")]
    scores = models.score([p for p, _ in ids], [c for _, c in ids])
    assert scores.shape == (2, 2) and not scores[:, 0].equal(scores[:, 1])
    one = RewardModels.load(out / "member-1").score([p for p, _ in ids], [c for _, c in ids], micro_tokens=1)
    assert torch.allclose(one[:, 0], scores[:, 1], atol=1e-5)

    form = Train(
        reward=reward.outcome,
        terms=(Term(objective.policy_gradient, objective.token_mean, credit.group_normalise),),
        roles={"reward_model": Role(str(out), "model_reward", head=True)},
    )
    policy = small_policy()
    loaded = load_models(form, policy, policy.reference())
    assert list(loaded) == ["policy", "reward_model/0", "reward_model/1"]
    trained = replace(form, roles={"reward_model": Role(str(out), "value", head=True, lr=1e-3)})
    with pytest.raises(WiringError, match="ensemble"):
        load_models(trained, policy, policy.reference())


def test_the_command_needs_pairs_and_a_recipe_that_fits_a_head(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "x")]
    for arguments, message in (
        ([], "needs pairs"),
        (["--task", "sort"], "compares no completions"),
        (["--data", "x.jsonl", "--recipe", "sft"], "does not fit a head"),
        (["--data", str(tmp_path / "none.jsonl")], "no such file"),
    ):
        assert main(["fit", "reward-model", *arguments, *out]) in (1, 2)
        assert message in capsys.readouterr().err


def test_members_that_start_from_several_models_take_turns(tmp_path: Path) -> None:
    from truegain.train.reward_models import MemberPlan, fit_members

    data = PairFile(write(tmp_path / "pairs.jsonl", preferring_a(80)))
    for n in range(2):
        small_policy(n).save(tmp_path / f"body-{n}")
    bodies = tuple(str(tmp_path / f"body-{n}") for n in range(2))
    plan = MemberPlan(form(), bodies, tmp_path / "rm", members=3, seed=5, steps=1)
    assert [line["kind"] for line in fit_members(plan, data)].count("member") == 3
    records = [json.loads((tmp_path / "rm" / f"member-{n}" / "reward_model.json").read_text()) for n in range(3)]
    assert [(r["model"], r["seed"]) for r in records] == [(bodies[0], 5), (bodies[1], 6), (bodies[0], 7)]
    with pytest.raises(SettingError, match="no last pair"):
        next(fit_members(plan, Endless()))


class Endless:
    """Pairs without end."""

    name = "endless"

    def size(self, split: Any) -> None:
        return None

    def pair(self, split: Any, index: int) -> Pair:
        return Pair(f"{index}", "p", "a", "b")
