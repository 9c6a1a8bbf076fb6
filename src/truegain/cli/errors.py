"""Failures as one line on stderr and an exit code: 2 for what was asked wrongly, 1 for what went wrong."""

from __future__ import annotations

import os
import re
from typing import Any

from truegain.cli.out import printable
from truegain.core.errors import SettingError, TruegainError, nearest

USAGE, FAILED, INTERRUPTED = 2, 1, 130


def refusal(error: Exception) -> tuple[str, int] | None:
    """The line to print and the exit code for an error; None for one whose traceback is to be shown."""
    if isinstance(error, SettingError):
        return f"error: {printable(str(error))}", USAGE
    if isinstance(error, TruegainError):
        return f"error: {printable(str(error))}", FAILED
    if hasattr(error, "format_message"):
        return f"error: {printable(_usage(error))}", int(getattr(error, "exit_code", USAGE))
    if os.environ.get("TRUEGAIN_DEBUG") == "1":
        return None
    what = printable(f"{type(error).__name__}: {error}".removesuffix(": "))[:500]
    return f"error: unexpected {what} (set TRUEGAIN_DEBUG=1 to see the traceback)", FAILED


def _usage(error: Any) -> str:
    """A parser's message with the nearest legal name. Typer carries its own copy of click: told by their attributes."""
    message = str(error.format_message()).strip()
    context = getattr(error, "ctx", None)
    command = getattr(context, "command", None)
    name = getattr(error, "option_name", "")
    if name and message.startswith("No such option"):
        legal = {option for parameter in getattr(command, "params", ()) for option in parameter.opts}
        legal |= {option for parameter in getattr(command, "params", ()) for option in parameter.secondary_opts}
        return f"no option {name!r}{nearest(name, legal)}; `{_path(context)} --help` lists all"
    found = re.match(r"No such command ['\"](.*?)['\"]", message)
    if found:
        hint = nearest(found[1], set(getattr(command, "commands", ())))
        return f"no command {found[1]!r}{hint}; `{_path(context)} --help` lists all"
    return message[:1].lower() + message[1:].rstrip(".")


def _path(context: Any) -> str:
    return str(getattr(context, "command_path", "") or "truegain")
