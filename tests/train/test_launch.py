from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from truegain.core.errors import DataError, SettingError
from truegain.train import launch
from truegain.train.launch import best_threads, fastest, prepare_environment, stop_at
from truegain.train.ledger import Ledger, ModelCost, attended, model_cost, spend


def in_fresh_python(code: str, **environment: str):
    base = {key: value for key, value in os.environ.items() if key not in launch.ENVIRONMENT}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**base, **environment})
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


PREPARE = """
import json, os, sys
from truegain.train.launch import prepare_environment
early = "torch" in sys.modules
notes = prepare_environment()
print(json.dumps([early, notes, os.environ["GOMP_SPINCOUNT"], os.environ["TOKENIZERS_PARALLELISM"]]))
"""


def test_the_environment_is_prepared_without_importing_torch():
    assert in_fresh_python(PREPARE) == [False, [], "0", "false"]


def test_what_the_user_has_set_stays():
    assert in_fresh_python(PREPARE, GOMP_SPINCOUNT="77", TOKENIZERS_PARALLELISM="true") == [False, [], "77", "true"]


def test_torch_imported_too_early_is_noted(monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    assert prepare_environment() == []
    monkeypatch.delenv("GOMP_SPINCOUNT")
    (note,) = prepare_environment()
    assert "before GOMP_SPINCOUNT=0" in note and os.environ["GOMP_SPINCOUNT"] == "0"


def test_the_fastest_by_median_wins_and_ties_go_to_fewer_threads():
    assert fastest({1: [3.0, 3.0, 0.1], 2: [2.0, 2.0, 90.0]}) == 2, "one burst or one lucky round decides nothing"
    assert fastest({1: [1.04], 2: [1.0], 4: [1.0]}) == 1
    assert fastest({1: [1.06], 2: [1.0], 4: [0.96]}) == 2


def test_the_probe_sets_the_winner_in_torch(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before, slept = torch.get_num_threads(), []

    def work() -> None:
        slept.append(torch.get_num_threads())
        time.sleep(0.004 if torch.get_num_threads() != 2 else 0.001)

    monkeypatch.setattr(launch, "_probe_work", lambda: work)
    try:
        assert best_threads(0.0, cores=3) == 2 == torch.get_num_threads()
        assert slept[:6] == [1, 1, 2, 2, 3, 3] and len(slept) == 18, "three interleaved rounds, warm-up and timed"
    finally:
        torch.set_num_threads(before)


def test_the_real_probe_keeps_to_its_time_and_range(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        begin = time.monotonic()
        assert 1 <= best_threads(0.2, cores=2) <= 2
        assert 0.2 <= time.monotonic() - begin < 5
    finally:
        torch.set_num_threads(before)


def test_omp_num_threads_is_the_users_decision(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    try:
        assert best_threads() == 3 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_candidates_cover_small_machines_and_thin_out_on_large_ones():
    assert launch._candidates(3) == [1, 2, 3]
    assert launch._candidates(48) == [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 48]


def test_the_first_interrupt_asks_and_the_second_raises():
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with stop_at(say=said.append) as stop:
        assert stop.reason() is None
        signal.raise_signal(signal.SIGINT)
        assert stop.reason() == "interrupted"
        assert said == ["stopping after this step; press again to stop now"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_terminate_signal_also_ends_at_the_step_border():
    before = signal.getsignal(signal.SIGTERM)
    with stop_at(say=lambda _: None) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason() == "terminated"
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_a_forked_worker_signals_do_what_they_did_before():
    said: list[str] = []
    with stop_at(say=said.append):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(write, b"x")
            time.sleep(20)
            os._exit(0)
        os.read(read, 1)  # Python forgets signals that come while it sets up the child
        os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
    assert os.WTERMSIG(status) == signal.SIGTERM and said == []


def test_time_limits_end_a_run_and_leave_room_for_the_next_step():
    assert stop_at(max_seconds=100).reason() is None
    assert stop_at(max_seconds=100).reason(next_seconds=101) == "time is up"
    assert stop_at(max_seconds=100, deadline=time.time() - 1).reason() == "time is up"
    assert stop_at(deadline=time.time() + 50).reason(next_seconds=40) is None
    assert stop_at().reason(next_seconds=1e9) is None
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(SettingError, match="max_seconds"):
            stop_at(max_seconds=bad)


def test_outside_the_main_thread_only_the_time_counts():
    found: list[str | None] = []

    def run() -> None:
        with stop_at(max_seconds=1e-9) as stop:
            found.append(stop.reason())

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == ["time is up"] and signal.getsignal(signal.SIGINT) is before


def test_attended_positions_are_the_sum_over_causal_tokens():
    for start, end in [(0, 0), (0, 1), (0, 7), (3, 3), (5, 12)]:
        assert attended(start, end) == sum(t + 1 for t in range(start, end))


def test_a_trained_token_costs_three_forwards():
    cost = ModelCost(params=1000, layers=3, width=16)
    # Forward: 2 * 1000 * 10 + 4 * 3 * 16 * 55 = 20000 + 10560.
    assert spend(cost, "scored", 10, attended(0, 10)) == Ledger(scored=10, flops=30560)
    # Trained, by PaLM's sum at a context of T = 7 for each of 10 tokens: 10 * (6 N + 12 L d T).
    assert spend(cost, "trained", 10, 70).flops == 10 * (6 * 1000 + 12 * 3 * 16 * 7)
    with pytest.raises(SettingError):
        spend(cost, "scored", -1)


def test_ledgers_add_and_survive_json_exactly():
    one = Ledger(1, 2, 3, 4, 5, 10**20 + 1)
    two = Ledger(10, 20, 30, 40, 50, 1)
    assert one + two == Ledger(11, 22, 33, 44, 55, 10**20 + 2)
    assert sum([one, two], Ledger()) == one + two
    assert Ledger.from_json(json.loads(json.dumps(one.to_json()))) == one
    for wrong in ({"sampled": 1}, {**one.to_json(), "flops": 1.5}, {**one.to_json(), "extra": 1}):
        with pytest.raises(DataError, match="ledger"):
            Ledger.from_json(wrong)


@pytest.mark.parametrize("tied", [True, False])
def test_the_cost_of_a_llama_counts_the_head_and_not_the_embedding(tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "head_dim": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=tied))
    # Per layer: q 8*12, k and v 8*6 each, o 12*8, three 8*12 of the MLP, two norms of 8; last norm 8; head 20*8.
    layer = 8 * 12 + 2 * 8 * 6 + 12 * 8 + 3 * 8 * 12 + 2 * 8
    assert model_cost(model) == ModelCost(params=2 * layer + 8 + 20 * 8, layers=2, width=12)


def test_a_model_without_attention_pays_for_its_weights_only():
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {})()
            self.logits = torch.nn.Parameter(torch.zeros(6, 5))

        def get_input_embeddings(self) -> None:
            return None

        get_output_embeddings = get_input_embeddings

    assert model_cost(Table()) == ModelCost(params=30)
