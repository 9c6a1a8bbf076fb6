from __future__ import annotations

import json
import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from truegain.core.errors import DataError, RunError, SettingError
from truegain.core.forms import Fit
from truegain.core.settings import loop_with
from truegain.policy.policy import Policy
from truegain.policy.tokenizer import character_tokenizer
from truegain.recipes.sft import sft as sft_recipe
from truegain.tasks import make_one
from truegain.train import tiny
from truegain.train.muon import Muon, orthogonal
from truegain.train.offline import Example, begin, load_fit, progress_line, save_fit, saved_fit, sft


def recipe(micro_tokens: int = 128) -> Fit:
    return loop_with(sft_recipe(), micro_tokens=micro_tokens)


def small_policy(seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=108, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    return Policy(LlamaForCausalLM(config), character_tokenizer(), "small")


def copy_task(index: int) -> Example:
    """Prompt ``<bos> a b``, completion ``a b <eos>``; letters from 8 ids, lengths 1 to 4."""
    rng = random.Random(index)
    letters = tuple(rng.randrange(80, 88) for _ in range(rng.randrange(1, 5)))
    return Example((1, *letters, 12), (*letters, 2), (True,) * (len(letters) + 1))


def train(policy, fit, steps, **knobs):
    settings = {"steps": steps, "batch_tokens": 256, "lr": 3e-3, "warmup": 5} | knobs
    form = recipe(settings.pop("micro_tokens", 128))
    return [fit.loss for fit in sft(form, policy, copy_task, fit, **settings)]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_copying_is_learnt(optimizer):
    policy = small_policy()
    losses = train(policy, begin(policy, optimizer=optimizer), 60, lr=1e-2)
    # uniform over 108 tokens is ln 108 = 4.68; knowing the letters but not which is about ln 8 = 2.08
    assert abs(losses[0] - 4.68) < 0.3 and losses[-1] < 2.0


def test_a_table_policy_learns_by_the_same_loop():
    policy = Policy.load("table")
    losses = train(policy, begin(policy), 30, lr=0.3)
    assert losses[-1] < losses[0] - 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_resumed_fit_gives_the_same_numbers(tmp_path, optimizer, schedule):
    policy = small_policy()
    fit = begin(policy, optimizer=optimizer, weight_decay=3.0)  # not the default: it too must come back
    whole = train(policy, fit, 12, schedule=schedule)

    policy = small_policy()
    fit = begin(policy, optimizer=optimizer, weight_decay=3.0)
    loop = sft(recipe(), policy, copy_task, fit, steps=12, batch_tokens=256, lr=3e-3, warmup=5, schedule=schedule)
    first = [next(loop).loss for _ in range(5)]
    save_fit(tmp_path / "stop", policy, fit)
    again, fit = load_fit(tmp_path / "stop")
    assert fit.step == 5
    rest = train(again, fit, 12, schedule=schedule)
    assert first + rest == whole


def test_a_checkpoint_replaces_the_one_before_it_and_leaves_nothing_beside(tmp_path):
    policy = small_policy()
    fit = begin(policy)
    train(policy, fit, 1)
    save_fit(tmp_path / "stop", policy, fit)
    train(policy, fit, 2)
    save_fit(tmp_path / "stop", policy, fit)
    assert [file.name for file in tmp_path.iterdir()] == ["stop"]
    assert load_fit(tmp_path / "stop")[1].step == 2


def test_a_checkpoint_whose_replacement_was_killed_between_two_renames_is_found_again(tmp_path):
    policy = small_policy()
    place = tmp_path / "checkpoint"
    save_fit(place, policy, begin(policy))
    place.rename(tmp_path / ".checkpoint.old")  # what a kill leaves that comes after the first rename
    assert saved_fit(place) and load_fit(place)[1].step == 0
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert not saved_fit(tmp_path / "nothing")


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path):
    policy = small_policy()
    fit = begin(policy)
    train(policy, fit, 1)
    save_fit(tmp_path / "stop", policy, fit)
    file = tmp_path / "stop" / "fit_state.json"
    for text in ("{", "{}", '{"optimizer": "sgd"}'):
        file.write_text(text)
        with pytest.raises(DataError, match="not a checkpoint") as caught:
            load_fit(tmp_path / "stop")
        assert "\n" not in str(caught.value)
    (tmp_path / "stop" / "optimizer.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match="damaged"):
        load_fit(tmp_path / "stop")


def test_how_a_batch_is_cut_does_not_change_the_step():
    ends = []
    for micro in (64, 128, 10_000):
        policy = small_policy()
        train(policy, begin(policy), 2, micro_tokens=micro)
        ends.append(policy.weights())
    for other in ends[1:]:
        assert all(torch.allclose(other[name], value, atol=1e-5) for name, value in ends[0].items())


def test_tokens_that_do_not_count_change_nothing():
    def with_result(token):
        return lambda index: Example((1, 80), (81, token, 2), (True, False, index < 0))

    ends = []
    for token in (90, 91):  # nothing that counts comes after the masked token
        policy = small_policy()
        list(sft(recipe(), policy, with_result(token), begin(policy), steps=2, batch_tokens=64))
        ends.append(policy.weights())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_learning_rate_rises_stays_and_falls():
    policy = small_policy()
    fit = begin(policy)
    rates = [
        fit.lr
        for fit in sft(
            recipe(), policy, copy_task, fit, steps=10, batch_tokens=64, lr=1.0e-3, warmup=2, schedule="wsd", decay=0.5
        )
    ]
    # rises over 2 steps; from half way falls: (1 - step / 10) / 0.5 for steps 5 to 9
    expected = [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    assert rates == pytest.approx([1e-3 * value for value in expected])


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched():
    policy = small_policy()
    with torch.no_grad():
        policy.model.model.norm.weight[0] = float("nan")
    before = policy.weights()
    with pytest.raises(RunError, match="sft step 0, examples 0 to"):
        train(policy, begin(policy), 1)
    after = policy.weights()
    assert all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)


def test_a_fit_ends_by_steps_or_by_seconds_and_not_by_both():
    policy = small_policy()
    with pytest.raises(SettingError, match="either steps or seconds"):
        next(sft(recipe(), policy, copy_task, begin(policy)))
    fit = begin(policy)
    list(sft(recipe(), policy, copy_task, fit, seconds=0.2, batch_tokens=64))
    assert fit.seconds >= 0.2 and fit.step > 0
    assert "0 min 00 s left" in progress_line(fit, seconds=0.2)


def test_an_unknown_schedule_or_optimizer_is_refused():
    policy = small_policy()
    with pytest.raises(SettingError, match="schedule 'linear'"):
        train(policy, begin(policy), 1, schedule="linear")
    with pytest.raises(SettingError, match="optimizer 'sgd'"):
        begin(policy, optimizer="sgd")  # pyright: ignore


def test_the_iteration_brings_all_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 16, 16), (2, 16, 48), (2, 48, 16)):
        matrices = torch.randn(shape)
        values = torch.linalg.svdvals(orthogonal(matrices))
        assert float(values.min()) > 0.3 and float(values.max()) < 1.3
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        # on the singular vectors it is nearly the identity: the polar factor is the limit
        assert torch.einsum("bij,bij->b", orthogonal(matrices), u @ v).min() > 0.85 * min(shape[-2:])


def test_muon_leaves_embeddings_and_gains_to_adam():
    policy = small_policy()
    optimizer = begin(policy, optimizer="muon").optimizer
    assert isinstance(optimizer, Muon)
    matrix = {id(p) for group in optimizer.param_groups if group["matrix"] for p in group["params"]}
    names = {name for name, p in policy.model.named_parameters() if id(p) in matrix}
    assert len(names) == 7 and all("_proj" in name for name in names)


def test_muons_other_half_is_adam():
    torch.manual_seed(0)
    start, grads = torch.randn(5), torch.randn(4, 5)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    pair = (
        Muon([], [ours], lr=0.01, betas=(0.9, 0.95)),
        torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-8),
    )
    for grad in grads:
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        for optimizer in pair:
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_what_the_tool_wrote_is_left_out_of_the_demonstration():
    policy = small_policy()
    problem = make_one("calculator,style=trace").problem("train", 0)
    text = "<think><tool>2*3</tool><result>6</result></think><answer>6</answer>"
    example = tiny.demonstration_example(policy, problem, text)
    assert policy.decode(example.completion) == text + "<eos>"
    assert (
        policy.decode([i for i, m in zip(example.completion, example.mask, strict=True) if not m])
        == "<result>6</result>"
    )
    assert example.prompt == policy.encode_prompt(problem.prompt)


def test_demonstrations_of_the_mixture_are_pure_and_fit_the_alphabet():
    policy = small_policy()
    one, two = tiny.mixture_examples(policy, 0), tiny.mixture_examples(policy, 0)
    drawn = [one(i) for i in range(200)]
    assert drawn == [two(i) for i in range(200)]
    assert all(3 not in example.prompt + example.completion for example in drawn)  # 3 is <unk>
    assert len({example.prompt for example in drawn}) > 190
    assert max(example.size for example in (one(i) for i in range(500))) <= 512


def test_the_fresh_model_has_under_a_million_parameters():
    assert 600_000 <= sum(p.numel() for p in tiny.fresh_tiny().model.parameters()) <= 1_000_000


class Scripted:
    """Stands for a policy's model: continues any prompt with the given texts, one per call."""

    def __init__(self, policy, texts):
        self.policy, self.texts = policy, list(texts)

    def generate(self, input_ids, **_):
        new = torch.tensor([self.policy.encode(self.texts.pop(0))] * len(input_ids))
        return torch.cat([input_ids, new], dim=1)


def test_sampling_calls_the_tool_and_goes_on_after_its_result():
    policy = small_policy()
    task = make_one("calculator,style=trace")
    problem = task.problem("dev", 0)
    call = f"<think><tool>{problem.meta['content']}</tool>junk after the call"
    for answer, right in ((problem.answer, True), ("12345", False)):
        model = Scripted(policy, [call, f"</think><answer>{answer}</answer><eos>"])
        scripted = Policy(model, policy.tokenizer, "scripted")
        assert tiny.sampled_accuracy(scripted, task, [problem]) == [right]
        assert not model.texts


def test_fit_tiny_writes_the_model_its_curve_and_its_making(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "fresh_tiny", small_policy)
    monkeypatch.setattr(tiny, "LOOK", {name: (levels[0],) for name, levels in tiny.LOOK.items()})
    said: list[str] = []
    tiny.fit_tiny(tmp_path, recipe(), seconds=0.3, batch_tokens=512, looks=2, say=said.append)
    record = json.loads((tmp_path / "model" / "fit.json").read_text())
    assert record["steps"] > 0 and len(record["curve"][-1]["accuracy"]) == 10
    assert Policy.load(tmp_path / "model").encode_prompt("1") == (1, 30)
    assert any("looked" in line for line in said)
    assert str(tmp_path) not in json.dumps(record)
    more = tiny.fit_tiny(tmp_path / "annealed", recipe(), seconds=0.6, batch_tokens=512, looks=2, say=said.append,
                         resume=next(tmp_path.glob("snapshot-*")))  # fmt: skip
    assert json.loads((more / "model" / "fit.json").read_text())["steps"] > record["steps"]
