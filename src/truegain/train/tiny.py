"""`truegain fit tiny`: make the embedded model, one small transformer for all embedded tasks in both styles."""

from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from truegain.core import forms
from truegain.core.errors import DataError
from truegain.core.types import Problem, Rollout, Turn
from truegain.policy.policy import Policy
from truegain.policy.tokenizer import character_tokenizer
from truegain.tasks import Generated, make_one, policy_spans
from truegain.train.offline import Example, Fit, begin, load_fit, progress_line, save_fit, sft

Mixture = Mapping[tuple[str, str], tuple[float, Mapping[int, float]]]

# (task, style): (weight, {level: weight}). Easy levels teach the parts; the hardest lie beyond the defaults.
BROAD: Mixture = {
    ("sort", "direct"): (1.0, {3: 0.5, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1, 10: 1}),
    ("sort", "trace"): (1.0, {3: 1, 4: 1, 5: 1, 6: 1, 8: 1, 10: 0.5}),
    ("add", "direct"): (1.2, {1: 0.3, 2: 1, 3: 1.5, 4: 1.5, 5: 1}),
    ("add", "trace"): (1.0, {1: 0.3, 2: 1, 3: 1, 4: 1, 5: 1, 6: 0.5}),
    ("chain", "direct"): (1.6, {2: 1, 3: 1.5, 4: 1.5, 5: 1, 6: 0.5}),
    ("chain", "trace"): (1.0, {2: 0.5, 3: 1, 4: 1, 5: 1, 6: 1, 8: 0.5}),
    ("countdown", "direct"): (2.0, {2: 0.5, 3: 2, 4: 1}),
    ("countdown", "trace"): (1.5, {2: 0.5, 3: 2, 4: 1}),
    ("calculator", "direct"): (1.6, {1: 2, 2: 1.5, 3: 0.5}),
    ("calculator", "trace"): (0.8, {1: 1, 2: 1, 3: 0.5}),
}
# Then more of what is slow to learn: arithmetic by head, and on it the easy levels.
BY_HEAD: Mixture = {
    ("sort", "direct"): (0.6, {4: 0.5, 6: 1, 8: 1.5, 10: 1}),
    ("sort", "trace"): (1.2, {4: 0.7, 5: 1, 6: 1, 8: 1, 10: 0.5}),
    ("add", "direct"): (3.0, {1: 0.3, 2: 1.5, 3: 1.2, 4: 0.5}),
    ("add", "trace"): (0.8, {2: 1, 3: 1, 4: 1, 5: 1, 6: 0.5}),
    ("chain", "direct"): (3.0, {2: 1.5, 3: 1.5, 4: 1, 5: 0.3}),
    ("chain", "trace"): (1.0, {2: 0.5, 3: 1, 4: 1, 5: 1, 6: 1, 8: 0.5}),
    ("countdown", "direct"): (2.0, {2: 0.5, 3: 2, 4: 1}),
    ("countdown", "trace"): (1.5, {2: 0.5, 3: 2, 4: 1}),
    ("calculator", "direct"): (2.5, {1: 2, 2: 1}),
    ("calculator", "trace"): (0.5, {1: 1, 2: 1, 3: 0.5}),
}
# At last every length in between, and the hard end.
WIDE: Mixture = {
    ("sort", "direct"): (0.9, {4: 0.3, 5: 0.6, 6: 0.6, 7: 0.8, 8: 1, 9: 0.8, 10: 1, 12: 0.8}),
    ("sort", "trace"): (1.2, {4: 0.5, 5: 0.7, 6: 1, 7: 0.7, 8: 1, 10: 0.8, 12: 0.3}),
    ("add", "direct"): (2.2, {1: 0.2, 2: 0.7, 3: 1.3, 4: 1.3, 5: 0.6}),
    ("add", "trace"): (0.9, {2: 0.7, 3: 1, 4: 1, 5: 1, 6: 1, 7: 0.3}),
    ("chain", "direct"): (3.0, {2: 0.7, 3: 2, 4: 1.3, 5: 0.3}),
    ("chain", "trace"): (1.1, {2: 0.4, 3: 1, 4: 1, 5: 1, 6: 1, 8: 0.5}),
    ("countdown", "direct"): (2.0, {2: 0.3, 3: 2, 4: 1.2}),
    ("countdown", "trace"): (1.5, {2: 0.4, 3: 2, 4: 1}),
    ("calculator", "direct"): (2.3, {1: 2, 2: 1, 3: 0.2}),
    ("calculator", "trace"): (0.8, {1: 1, 2: 1, 3: 0.6}),
}
# From which example on which mixture is drawn.
PHASES: tuple[tuple[int, Mixture], ...] = ((0, BROAD), (76072, BY_HEAD), (199726, WIDE))
# Levels looked at while fitting.
LOOK: Mapping[str, tuple[int, ...]] = {
    "sort": (5, 8, 10), "add": (2, 3, 4), "chain": (2, 3, 4), "countdown": (2, 3, 4), "calculator": (1, 2, 3),
}  # fmt: skip


def fit_tiny(
    out: str | Path,
    form: forms.Fit,
    *,
    seconds: float = 3600.0,
    seed: int = 0,
    resume: str | Path | None = None,
    decay: float = 0.4,
    lr: float = 1e-2,
    batch_tokens: int = 6144,
    look_every: float = 300.0,
    looks: int = 64,
    say: Callable[[str], None] = print,
) -> Path:
    """Fit the embedded model by ``form`` (the recipe `sft`) for ``seconds`` of stepping; returns ``out``.

    The learning rate is constant, then falls to 0 over the last ``decay`` of the time, so that any snapshot
    (``out/snapshot-MMM``, one per ``look_every`` seconds) can be annealed: ``resume`` one with ``seconds`` its own
    time plus the anneal's. ``out/curve.jsonl`` gets the loss and the accuracy sampled at temperature 1 on ``looks``
    dev problems of each task, style and level; ``out/model`` the model, and in ``fit.json`` the command, seed, curve
    and versions that made it.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    policy, fit = load_fit(resume) if resume else (fresh_tiny(), None)
    fit = fit or begin(policy, optimizer="muon")
    examples = mixture_examples(policy, seed)
    curve = out / "curve.jsonl"
    if not resume:
        curve.unlink(missing_ok=True)
    said = looked = fit.seconds
    settings = {"seconds": seconds, "decay": decay, "lr": lr, "batch_tokens": batch_tokens, "resumed_at_step": fit.step}
    loop = sft(
        form, policy, examples, fit, seconds=seconds, batch_tokens=batch_tokens,
        lr=lr, warmup=50, schedule="wsd", decay=decay,
    )  # fmt: skip
    losses: list[float] = []
    for fit in loop:
        losses.append(fit.loss)
        if fit.seconds - said > 10:
            said = fit.seconds
            say(progress_line(fit, seconds=seconds))
        if fit.seconds - looked > look_every or fit.seconds >= seconds:
            looked = fit.seconds
            policy.model.eval()
            save_fit(out / f"snapshot-{round(fit.seconds / 60):03d}", policy, fit)
            _look(policy, fit, sum(losses) / len(losses), curve, looks, say)
            policy.model.train()
            losses = []
    policy.model.eval()
    policy.save(out / "model")
    (out / "model" / "fit.json").write_text(json.dumps(_record(policy, fit, seed, settings, curve), indent=1) + "\n")
    return out


def _record(policy: Policy, fit: Fit, seed: int, settings: Mapping[str, Any], curve: Path) -> dict[str, Any]:
    """How the model was made; no path of the machine that made it."""
    flags = " ".join(f"--{name} {settings[name]:g}" for name in ("seconds", "decay", "lr"))
    return {
        "command": f"truegain fit tiny {flags} --seed {seed}",
        "settings": dict(settings),
        "phases": [start for start, _ in PHASES],
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "steps": fit.step,
        "examples": fit.index,
        "tokens": fit.tokens,
        "seconds": round(fit.seconds),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "curve": [json.loads(line) for line in curve.read_text().splitlines()],
    }


def fresh_tiny() -> Policy:
    """The untrained embedded model: a Llama of 0.87 M parameters over the character tokenizer."""
    tokenizer: Any = character_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.02,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return Policy(LlamaForCausalLM(config), tokenizer, "tiny")


def mixture_examples(policy: Policy, seed: int) -> Callable[[int], Example]:
    """Demonstration i of the mixture, a pure function of (seed, i); problems of the train split, never repeated."""
    phases = [(start, *_cells(mixture)) for start, mixture in PHASES]

    def example(index: int) -> Example:
        rng = random.Random(seed * 1_000_003 + index)
        tasks, weights = next((tasks, weights) for start, tasks, weights in reversed(phases) if index >= start)
        task = rng.choices(tasks, weights)[0]
        problem = task.problem("train", index)
        return demonstration_example(policy, problem, task.demonstration(problem, rng))

    return example


def _cells(mixture: Mixture) -> tuple[list[Generated], list[float]]:
    """Every task at every style and level of a mixture, and how often it is drawn."""
    cells = [
        (make_one(f"{name},style={style},level={level}"), weight * share / sum(levels.values()))
        for (name, style), (weight, levels) in mixture.items()
        for level, share in levels.items()
    ]
    return [task for task, _ in cells], [weight for _, weight in cells]


def demonstration_example(policy: Policy, problem: Problem, text: str, room: int | None = None) -> Example:
    """Tokens of a demonstration with the end mark; what a tool wrote does not count in the loss.

    Of one that is longer than ``room`` tokens with its prompt, the end is cut off, and the end mark with it. Raises
    DataError when the prompt leaves no room at all.
    """
    completion: list[int] = []
    mask: list[bool] = []
    at = 0
    for start, end in [*policy_spans(text), (len(text), len(text))]:
        for piece, written in ((text[at:start], False), (text[start:end], True)):
            ids = policy.encode(piece) if piece else ()
            completion += ids
            mask += [written] * len(ids)
        at = end
    if policy.tokenizer.eos_token_id is not None:
        completion.append(policy.tokenizer.eos_token_id)
        mask.append(True)
    prompt = policy.encode_prompt(problem.prompt)
    left = len(completion) if room is None else room - len(prompt)
    if left < 1:
        raise DataError(
            f"problem {problem.id}: its prompt has {len(prompt)} tokens, the model reads {room}; shorten it"
        )
    return Example(prompt, tuple(completion[:left]), tuple(mask[:left]))


def sampled_accuracy(
    policy: Policy, task: Generated, problems: Sequence[Problem], temperature: float = 1.0
) -> list[bool]:
    """Whether one completion of each problem, drawn at ``temperature`` (0: greedy), is correct. Tools are called."""
    close = policy.encode("</tool>")[-1]
    rows = [policy.encode_prompt(problem.prompt) for problem in problems]
    begins = [len(row) for row in rows]
    open_rows = list(range(len(rows)))
    for _ in range(6):
        drawn = _generate(policy, [rows[i] for i in open_rows], task.max_tokens, temperature, close)
        waiting = []
        for i, new in zip(open_rows, drawn, strict=True):
            rows[i] += new
            room = task.max_tokens + 16 - (len(rows[i]) - begins[i])
            world = task.environment()
            if new and new[-1] == close and world is not None and room > 0:
                reply = task.respond(world(), policy.decode(rows[i][begins[i] :]))
                if reply is not None:
                    rows[i] += policy.encode(reply)
                    waiting.append(i)
        open_rows = waiting
        if not open_rows:
            break
    return [_correct(policy, task, p, row[: begin], row[begin:])
            for p, row, begin in zip(problems, rows, begins, strict=True)]  # fmt: skip


def _correct(policy: Policy, task: Generated, problem: Problem, prompt: tuple[int, ...], ids: tuple[int, ...]) -> bool:
    rollout = Rollout(
        problem, prompt, ids, (0.0,) * len(ids), policy.decode(ids), "eos", (Turn("policy", 0, len(ids)),)
    )
    facts = task.score(problem, rollout)
    return isinstance(facts, Mapping) and facts["correct"] == 1.0


@torch.no_grad()
def _generate(
    policy: Policy, prompts: Sequence[tuple[int, ...]], max_tokens: int, temperature: float, close: int
) -> list[tuple[int, ...]]:
    """Continue left-padded prompts until the end mark, a closed tool call or the length."""
    pad, eos = policy.tokenizer.pad_token_id, policy.tokenizer.eos_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    drawing: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    out = policy.model.generate(
        input_ids=ids, attention_mask=(ids != pad).long(), max_new_tokens=max_tokens,
        eos_token_id=[eos, close], pad_token_id=pad, **drawing,
    )  # fmt: skip
    rows = []
    for row in out[:, width:].tolist():
        ends = [i for i, token in enumerate(row) if token in (eos, close)]
        rows.append(tuple(row[: ends[0] + 1] if ends else row))
    return rows


def _look(policy: Policy, fit: Fit, loss: float, curve: Path, looks: int, say: Callable[[str], None]) -> None:
    """Append one line to the curve: loss, and accuracy at temperature 1 per task, style and level."""
    began = time.perf_counter()
    accuracy: dict[str, float] = {}
    for name, style in BROAD:
        cells = [make_one(f"{name},style={style},level={level}") for level in LOOK[name]]
        problems = [cell.problem("dev", i) for cell in cells for i in range(looks)]
        right = sampled_accuracy(policy, cells[-1], problems)
        for n, level in enumerate(LOOK[name]):
            accuracy[f"{name}.{style}.{level}"] = sum(right[n * looks : (n + 1) * looks]) / looks
    line = {"seconds": round(fit.seconds), "step": fit.step, "tokens": fit.tokens, "loss": round(loss, 4)}
    with curve.open("a") as file:
        file.write(json.dumps({**line, "accuracy": accuracy}) + "\n")
    spent = time.perf_counter() - began
    said = "  ".join(f"{name} {100 * value:.0f}" for name, value in accuracy.items())
    say(f"looked for {spent:.0f} s: loss {loss:.4f}  {said}")
