"""Small runs for the tests of the train room: the table policy on the bandit, and a tiny random transformer."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch

from truegain.core.errors import TruegainError
from truegain.core.settings import loop_with
from truegain.core.types import Abstain, Problem, Rollout, Turn
from truegain.policy.policy import Policy
from truegain.recipes.grpo import grpo
from truegain.tasks import make
from truegain.train.folder import RunFolder, read_lines
from truegain.train.online import Setup, train

BANDIT = "bandit,level=10"


def form_of(**loop: Any) -> Any:
    """GRPO with small steps; one token is all that the bandit takes."""
    small = {"steps": 12, "prompts": 4, "samples": 4, "lr": 0.1, "max_tokens": 1}
    return loop_with(grpo(), **{**small, "eval_every": 5, "eval_problems": 8, "save_every": 4, **loop})


def llama(path: Path, seed: int = 0) -> Path:
    """A random one-block Llama over the embedded tokenizer, saved as a model folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from truegain.policy.tokenizer import character_tokenizer

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=108, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    Policy(model.eval(), character_tokenizer(), "llama").save(path)
    return path


def run(
    folder: Path,
    form: Any = None,
    *,
    model: str | Path = "table",
    task: Any = BANDIT,
    seed: int = 0,
    functions: Any = (),
    stop: Callable[[], str | None] = lambda: None,
) -> tuple[list[dict[str, Any]], Policy]:
    """Train to the end: what the loop yielded, and the policy."""
    policy = Policy.load(model)
    with RunFolder(folder) as held:
        made = make(task) if isinstance(task, str) else task
        setup = Setup(form or form_of(), policy, made, held, seed, functions)
        return list(train(setup, stop)), policy


def begin(folder: Path, lines: int, form: Any = None, **more: Any) -> list[dict[str, Any]]:
    """Train until so many lines were yielded, then drop the run on the spot, as a kill does."""
    with RunFolder(folder) as held:
        setup = Setup(form or form_of(), Policy.load("table"), make(BANDIT), held, **more)
        with closing(train(setup, lambda: None)) as going:  # pyright: ignore[reportArgumentType]
            return [next(going) for _ in range(lines)]


def untimed(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Log lines without the one number that differs from run to run."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def logged(folder: Path) -> list[dict[str, Any]]:
    """The lines on the disk, untimed."""
    return untimed(read_lines(folder / "log.jsonl"))


def final_weights(folder: Path) -> bytes:
    """The bytes of the newest checkpoint's model and optimiser."""
    newest = max((folder / "checkpoints").glob("step-*"))
    return b"".join((newest / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors"))


def equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Bit-equal weights."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rollout(problem: str, text: str = "a", *, sample: int = 0, tokens: int = 1, **facts: Any) -> Rollout:
    """A completion of ``tokens`` tokens with these facts."""
    ids = tuple(20 + (sample + i) % 50 for i in range(tokens))
    found = Problem(problem, problem)
    return Rollout(found, (1, 30, 31), ids, (-1.0,) * tokens, text, "eos", (Turn("policy", 0, tokens),), sample, facts)


class Function:
    """In the place of a `RewardFunction`: calls ``judge`` in this process."""

    def __init__(self, judge: Callable[[Sequence[Rollout]], list[float | Abstain]]) -> None:
        self.judge = judge

    def score(self, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> list[float | Abstain]:
        assert [p.id for p in problems] == [r.problem.id for r in rollouts]
        return self.judge(rollouts)


def _sitting(folder: Path, steps: int, out: int) -> None:
    """Take the run up and go on to its end; a byte per line tells the parent how far it is."""
    with RunFolder(folder) as held:
        setup = Setup(form_of(steps=steps), Policy.load("table"), make(BANDIT), held)
        for _ in train(setup, lambda: None):
            os.write(out, b".")


def kill_sittings(folder: Path, steps: int, kills: int) -> Iterator[int]:
    """Start sittings on one run and SIGKILL each at a random moment; then let one end. Yields the wait statuses.

    The parent never trains, so that the children may fork with torch imported once.
    """
    draw = random.Random(kills)
    for left in range(kills, -1, -1):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _sitting(folder, steps, write)
                code = 0
            finally:
                os._exit(code)
        os.close(write)
        if left:
            for _ in range(draw.randint(0, 6)):
                os.read(read, 1)
            time.sleep(draw.uniform(0.0, 0.01))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        os.close(read)
        yield status


if __name__ == "__main__":
    try:
        print(json.dumps(list(kill_sittings(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))))
    except TruegainError as error:
        sys.exit(str(error))
