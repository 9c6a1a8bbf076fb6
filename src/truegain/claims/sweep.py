"""A sweep over all claims that can be interrupted: seeds that are done are kept until the last claim has its record."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from truegain.claims.claim import Claim, run
from truegain.train.folder import RunFolder, read_lines

SWEEP = Path("runs") / "claims"
_FILE = "seeds.jsonl"


def sources() -> str:
    """A digest of the package's sources: seeds of other code are not mixed with this code's."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


class Sweep:
    """A context manager that holds ``folder`` for one process and knows what an interrupted sweep has done.

    What other sources left there is dropped: ``fresh`` says so. Raises RunError if another process holds the folder.
    """

    def __init__(self, folder: Path = SWEEP) -> None:
        """Touches nothing yet."""
        self._held = RunFolder(folder)
        self.fresh = False

    def __enter__(self) -> Sweep:
        """Take the folder, and read what is done."""
        self._held.path.parent.mkdir(parents=True, exist_ok=True)
        self._held.__enter__()
        digest = sources()
        lines = read_lines(self._held.path / _FILE)
        self.fresh = bool(lines) and any(line["sources"] != digest for line in lines)
        if self.fresh:
            (self._held.path / _FILE).unlink()
            lines = []
        self._digest, self._lines = digest, lines
        return self

    def __exit__(self, *error: object) -> None:
        """Let the folder go; what is done stays in it."""
        self._held.__exit__(*error)

    @property
    def done(self) -> frozenset[str]:
        """Claims that have their record."""
        return frozenset(line["claim"] for line in self._lines if line["done"])

    def run(self, claim: Claim) -> Iterator[dict[str, Any]]:
        """`truegain.claims.run`, without the seeds that an interrupted sweep has done; each new one is kept at once."""
        had = [line for line in self._lines if line["claim"] == claim.name and not line["done"]]
        rows = [line["row"] for line in had]
        for row in run(claim, rows, sum(line["seconds"] for line in had)):
            if "verdict" not in row:
                kept = {name: value for name, value in row.items() if name != "seconds"}
                self._keep(claim.name, row["seconds"], kept, done=False)
            yield row

    def finished(self, claim: Claim) -> None:
        """The claim's record is written."""
        self._keep(claim.name, 0.0, None, done=True)

    def end(self) -> None:
        """Every claim has its record: the next sweep begins anew."""
        shutil.rmtree(self._held.path, ignore_errors=True)

    def _keep(self, name: str, seconds: float, row: Mapping[str, Any] | None, *, done: bool) -> None:
        line = {"step": 0 if row is None else row["seed"], "claim": name, "seconds": seconds, "row": row, "done": done}
        self._lines.append(line)
        self._held.records(_FILE).append({**line, "sources": self._digest})
