"""The rows that docs/data.md shows are read as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from truegain.tasks.files import FileTask

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def test_every_row_of_the_page_is_a_problem_of_the_checker_that_it_is_shown_for(tmp_path: Path) -> None:
    shown = re.findall(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    rows = [json.loads(line) for block in shown for line in block.strip().splitlines()]
    assert len(rows) >= 3
    for n, row in enumerate(rows):
        file = tmp_path / f"row-{n}.jsonl"
        file.write_text(json.dumps(row) + "\n", encoding="utf-8")
        task = FileTask(file, checker="python" if "tests" in row else "exact")
        sizes = {split: task.size(split) for split in ("train", "dev", "test")}
        (split,) = [name for name, size in sizes.items() if size]
        assert task.problem(split, 0).prompt == row["prompt"]
