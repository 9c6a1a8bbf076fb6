"""The entry point of ``truegain`` and of ``python -m truegain.cli``."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from truegain.cli.errors import FAILED, INTERRUPTED, refusal
from truegain.train.launch import prepare_environment


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors end as one line on stderr; see `truegain.cli.errors`."""
    # Before anything can import torch, which reads the environment once.
    prepare_environment()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign gets a question mark
    from truegain.cli.app import app

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = app(args=arguments, prog_name="truegain", standalone_mode=False, obj={"argv": arguments})
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if type(error).__name__ == "Abort":
            return INTERRUPTED
        refused = refusal(error)
        if refused is None:
            raise
        print(refused[0], file=sys.stderr)
        return refused[1]
    return code if isinstance(code, int) else 0 if code is None else FAILED


if __name__ == "__main__":
    sys.exit(main())
