"""Runs the sandbox as the user that this process is: one JSON request a line, one JSON answer a line."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from truegain.core.errors import SettingError
from truegain.core.types import Abstain
from truegain.runtime import Check, Limits, Program, Sandbox


def main(backend: str, limits: str) -> None:
    """Say that the sandbox works, or why not; then serve."""
    try:
        box = Sandbox(Limits(**json.loads(limits)), backend=backend)  # type: ignore[arg-type]
        tried: Any = box.run("")
        reason = tried.reason if isinstance(tried, Abstain) else ""
    except SettingError as error:
        print(json.dumps({"reason": str(error)}), flush=True)
        return
    print(json.dumps({"reason": reason}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer: Any = box.check(Check(**order["check"])) if "check" in order else box._run(Program(**order["run"]))
        print(json.dumps({"kind": type(answer).__name__, **asdict(answer)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
