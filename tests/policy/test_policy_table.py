from __future__ import annotations

import pytest
import torch

from truegain.core.errors import SettingError
from truegain.policy.logprobs import token_logp
from truegain.policy.policy import Policy
from truegain.policy.table import MAX_ROWS, table_model


def randomised(model, seed=0):
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.weight)
    return model


def test_logits_are_the_row_of_the_last_two_tokens():
    model = randomised(table_model(order=2, vocab_size=5, bos_token_id=1))
    row = [3, 0, 4, 4]
    logits = model(input_ids=torch.tensor([row])).logits[0]
    padded = [1, *row]
    for t in range(4):
        assert torch.equal(logits[t], model.weight[padded[t] * 5 + padded[t + 1]])


def test_linear_logits_are_features_times_weights():
    torch.manual_seed(1)
    features = torch.randn(5, 3)
    model = randomised(table_model(order=1, vocab_size=5, features=features))
    logits = model(input_ids=torch.tensor([[2, 4]])).logits[0]
    assert torch.allclose(logits, torch.stack([features[2] @ model.weight, features[4] @ model.weight]))


def test_too_many_contexts_are_hashed_into_bounded_rows():
    model = table_model(order=4, vocab_size=108)
    tokens = torch.randint(0, 108, (64, 32), generator=torch.Generator().manual_seed(0))
    index = model.context_index(tokens)
    assert model.weight.shape == (MAX_ROWS, 108)
    assert int(index.min()) >= 0 and int(index.max()) < MAX_ROWS
    # 2048 random contexts in 16384 rows: 2048 - 16384 (1 - exp(-1/8)) = 123 collisions expected
    assert len(index.unique()) > 1800


def test_an_order_2_table_over_the_embedded_alphabet_is_exact():
    model = Policy.load("table,order=2").model
    assert model.weight.shape == (108**2, 108)


def test_a_fresh_table_is_uniform():
    policy = Policy.load("table")
    logp, entropy = token_logp(policy, [(1, 5)], torch.tensor([[7, 8]]), torch.tensor([2]), entropy=True)
    assert torch.allclose(logp, torch.full((1, 2), -torch.tensor(108.0).log()))
    assert entropy is not None and torch.allclose(entropy, -logp)


def test_only_the_rows_that_were_met_get_a_gradient():
    policy = Policy.load("table")
    logp, _ = token_logp(policy, [(1, 5)], torch.tensor([[7, 8]]), torch.tensor([2]))
    logp.sum().backward()
    touched = policy.model.weight.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert touched == [5, 7]


def test_a_saved_table_loads_as_the_same_policy(tmp_path):
    policy = Policy.load("table,order=2,rows=64")
    randomised(policy.model)
    policy.save(tmp_path)
    loaded = Policy.load(tmp_path)
    assert torch.equal(loaded.model.weight, policy.model.weight)
    assert loaded.model.config.order == 2
    assert loaded.eos_ids == policy.eos_ids == {2}


def test_features_are_saved_with_the_weights(tmp_path):
    features = torch.rand(108, 4)
    policy = Policy.load("table")
    linear = Policy(randomised(table_model(features=features)), policy.tokenizer, "linear")
    linear.save(tmp_path)
    loaded = Policy.load(tmp_path).model
    tokens = torch.tensor([[3, 50, 7]])
    assert torch.equal(loaded(input_ids=tokens).logits, linear.model(input_ids=tokens).logits)


def test_generate_of_transformers_draws_from_it():
    policy = Policy.load("table,order=2")
    with torch.no_grad():
        policy.model.weight[1 * 108 + 20, 30] = 100.0  # after <bos> 20 comes 30
        policy.model.weight[20 * 108 + 30, 2] = 100.0  # after 20 30 comes <eos>
    out = policy.model.generate(torch.tensor([[1, 20]]), max_new_tokens=4, do_sample=True)
    assert out.tolist() == [[1, 20, 30, 2]]


@pytest.mark.parametrize("spec", ["table,ordr=2", "table,order=0", "table,order=x", "table,order=-1", "table,rows="])
def test_a_wrong_setting_is_refused_in_one_line(spec):
    with pytest.raises(SettingError) as caught:
        Policy.load(spec)
    assert "\n" not in str(caught.value) and spec in str(caught.value)
