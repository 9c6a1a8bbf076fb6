"""Running out of memory ends in one line that names the phase and the knob."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from truegain.core.errors import RunError
from truegain.core.forms import Loop
from truegain.train.memory import Phase, is_out_of_memory, memory, memory_for, out_of_memory

LOOP = Loop(prompts=32, samples=8, max_tokens=64, micro_tokens=16384, eval_problems=128)
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4294967296 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8 GiB\nmore"
)


@pytest.mark.parametrize(
    ("phase", "error", "line"),
    [
        (
            "update",
            CPU,
            "out of memory in the update (asked for 4.0 GiB): try --set micro_tokens=8192, or --set max_tokens=32",
        ),
        (
            "log-prob pass",
            CUDA,
            "out of memory in the log-prob pass on the GPU (asked for 2.5 GiB): "
            "try --set micro_tokens=8192, or --set max_tokens=32",
        ),
        (
            "sampling",
            MemoryError(),
            "out of memory while sampling: try --set samples=4, or --set max_tokens=32 or --set prompts=16",
        ),
        (
            "look at dev",
            RuntimeError("std::bad_alloc"),
            "out of memory in the look at dev: "
            "try --set eval_problems=64, or --set micro_tokens=8192 or --set max_tokens=32",
        ),
        (
            "judgement",
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "out of memory in the judgement on the GPU: "
            "try --eval-samples 2, or --test-problems 100 or --set max_tokens=32",
        ),
    ],
)
def test_the_line_names_phase_size_and_knobs(phase: Phase, error: Exception, line: str) -> None:
    assert is_out_of_memory(error)
    assert out_of_memory(phase, error, LOOP) == line


def test_a_limit_beyond_the_whole_step_is_lowered_below_the_step() -> None:
    roomy = Loop(prompts=4, samples=8, max_tokens=64, micro_tokens=10**6)
    assert "try --set micro_tokens=1024," in out_of_memory("update", CPU, roomy)  # half of 4 x 8 x 64


def test_a_knob_that_cannot_be_lowered_is_not_named() -> None:
    one_row = Loop(samples=1, prompts=1, max_tokens=512, micro_tokens=256)
    assert out_of_memory("update", CPU, one_row).endswith("try --set max_tokens=256")
    assert out_of_memory("sampling", CPU, one_row).endswith("try --set max_tokens=256")
    least = Loop(samples=1, prompts=1, max_tokens=1, micro_tokens=1)
    assert "at its least" in out_of_memory("sampling", CPU, least)


def test_the_guard_names_the_step_keeps_the_cause_and_lets_other_errors_pass() -> None:
    with pytest.raises(RunError, match=r"^step 3: out of memory in the update") as caught, memory("update", LOOP, 3):
        raise CPU
    assert caught.value.__cause__ is CPU
    with pytest.raises(RuntimeError, match="shape") as other, memory("update", LOOP, 3):
        raise RuntimeError("shape mismatch")
    assert not isinstance(other.value, RunError)
    with (
        pytest.raises(RunError, match=r"while fitting \(asked for 4.0 GiB\): lower x$"),
        memory_for("fitting", "lower x"),
    ):
        raise CPU
    # An inner guard has spoken already: the outer one does not speak again.
    with pytest.raises(RunError, match="while sampling"), memory("look at dev", LOOP), memory("sampling", LOOP):
        raise MemoryError


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's RLIMIT_AS")
def test_torch_itself_refused_by_the_system_is_recognised_in_every_phase() -> None:
    program = textwrap.dedent(
        """
        import resource
        import torch
        from truegain.core.forms import Loop
        from truegain.train.memory import memory
        from truegain.core.errors import RunError
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
        def tensor(): return torch.ones(2**28)
        def python(): return bytearray(2**30)
        for work in (tensor, python):
            try:
                with memory("log-prob pass", Loop(), 1):
                    work()
            except RunError as error:
                print(error)
        """
    )
    env = {"OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=env, check=False
    )
    assert done.stdout.splitlines() == [
        "step 1: out of memory in the log-prob pass (asked for 1.0 GiB): "
        "try --set micro_tokens=2048, or --set max_tokens=16",
        "step 1: out of memory in the log-prob pass: try --set micro_tokens=2048, or --set max_tokens=16",
    ], done.stderr
