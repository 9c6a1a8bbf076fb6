"""``truegain report`` and ``truegain compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from truegain.cli.catalog import Json
from truegain.cli.out import console, print_json
from truegain.cli.progress import progress
from truegain.core.errors import SettingError


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    json: Json = False,
) -> None:
    """Write a run's proof-of-gain page, print its verdict."""
    from truegain import report as room

    with progress(f"reading {run}"):
        data = room.build(run)
        page = room.write(run, data)
    if json:
        print_json(data)
    else:
        console().print(room.render_terminal(data))
        console().print(f"page: {page}", style="dim")
    if open_:
        open_page(page)


def open_page(page: Path) -> None:
    """Show a page in the user's browser, if there is one."""
    import webbrowser

    webbrowser.open(page.resolve().as_uri())


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders; each holds its seeds.")],
    json: Json = False,
) -> None:
    """Compare methods over the seeds of their runs.

    By interquartile mean with a bootstrap interval, and by the probability of improvement.
    """
    from truegain import report as room

    if len(runs) < 2:
        raise SettingError("compare needs two run folders or more")
    with progress(f"comparing {len(runs)} runs"):
        data = room.compare(runs)
    if json:
        print_json(data)
        return
    console().print(room.render_compare(data))
