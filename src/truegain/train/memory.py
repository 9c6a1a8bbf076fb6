"""Out of memory: which setting to turn, said in one line that names the phase."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Literal

import torch

from truegain.core.errors import RunError
from truegain.core.forms import Loop

Phase = Literal["sampling", "log-prob pass", "update", "look at dev", "judgement", "loading"]
"""What a run was doing. ``log-prob pass`` is every pass without gradient, a critic's and a reference's too."""

_WORDS = (
    "can't allocate memory",  # torch, CPU, Linux
    "not enough memory",  # torch, CPU, Windows and macOS
    "out of memory",  # CUDA, MPS, XPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's own, CUDA's, or torch's RuntimeError on the CPU.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."))
    True
    >>> is_out_of_memory(RuntimeError("shape mismatch"))
    False
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def out_of_memory(phase: Phase, error: BaseException, loop: Loop) -> str:
    """One line: where memory ran out, how much was asked for, and the settings that lower it, with values to try.

    A knob that is at its least already is not named.
    """
    what = f"out of memory in the {phase}" if phase not in ("sampling", "loading") else f"out of memory while {phase}"
    return f"{what}{_where(error)}: {_mend(phase, loop)}"


@contextlib.contextmanager
def memory(phase: Phase, loop: Loop, step: int | None = None) -> Iterator[None]:
    """Turn running out of memory inside the block into a RunError; other exceptions pass. ``step`` counts from 1.

    Nothing is retried here: a smaller micro-batch, chosen in secret, would hide what a run needs.
    """
    with _told(lambda error: (f"step {step}: " if step is not None else "") + out_of_memory(phase, error, loop)):
        yield


@contextlib.contextmanager
def memory_for(doing: str, mend: str) -> Iterator[None]:
    """As `memory`, for work that no loop settings bound: ``doing`` and ``mend`` are the words of the line."""
    with _told(lambda error: f"out of memory while {doing}{_where(error)}: {mend}"):
        yield


@contextlib.contextmanager
def _told(line: Callable[[BaseException], str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, RunError) or not is_out_of_memory(error):
            raise
        raise RunError(line(error)) from error


def _mend(phase: Phase, loop: Loop) -> str:
    # A micro-batch is never larger than the step, whatever its limit: half of the lesser of both is sure to be less.
    micro = _half("micro_tokens", min(loop.micro_tokens, loop.prompts * loop.samples * loop.max_tokens))
    shorter = _half("max_tokens", loop.max_tokens)
    if phase == "loading":
        return "take a smaller model, or --device with more memory"
    if phase == "sampling":
        ways = [_half("samples", loop.samples), shorter, _half("prompts", loop.prompts)]
    elif phase == "look at dev":
        ways = [_half("eval_problems", loop.eval_problems, least=2), micro, shorter]
    elif phase == "judgement":
        ways = ["--eval-samples 2", "--test-problems 100", shorter]
    elif loop.micro_tokens <= loop.max_tokens:
        # A micro-batch holds at least one row: with one row in it, only a shorter row is smaller.
        ways = [shorter]
    else:
        ways = [micro, shorter]
    named = [way for way in ways if way]
    if not named:
        return "every setting that lowers it is at its least; take a smaller model or more memory"
    rest = f", or {' or '.join(named[1:])}" if len(named) > 1 else ""
    return f"try {named[0]}{rest}"


def _half(name: str, value: int, least: int = 1) -> str:
    return f"--set {name}={max(value // 2, least)}" if value > least else ""


def _asked(text: str) -> str:
    """``4.0 GiB`` out of the allocator's own message; empty if it names no size.

    >>> _asked("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8 GiB")
    '2.5 GiB'
    """
    found = re.search(r"tried to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB|TiB)", text, flags=re.IGNORECASE)
    if not found:
        return ""
    size = float(found[1].rstrip(".")) * _UNITS[found[2]]
    unit = next((name for name in ("TiB", "GiB", "MiB", "KiB") if size >= _UNITS[name]), "bytes")
    return f"{size / _UNITS[unit]:.1f} {unit}"


def _where(error: BaseException) -> str:
    """`` on the GPU (asked for 2.5 GiB)``, as far as the exception says it."""
    gpu = isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error) or "CUBLAS" in str(error)
    asked = _asked(str(error))
    return (" on the GPU" if gpu else "") + (f" (asked for {asked})" if asked else "")
