"""The commands of ``truegain``. Importing this file imports no torch: each command imports what it drives."""

from __future__ import annotations

from typing import Annotated

import typer

from truegain.cli import (
    audit,
    catalog,
    check,
    claims,
    convert,
    doctor,
    evaluate,
    fit,
    guard,
    hosts,
    lab,
    reports,
    run,
    train,
)

app = typer.Typer(
    name="truegain",
    help="Post-train language models with RL, and find out whether the gain is real.",
    epilog="Start with: truegain train grpo --task sort --max-seconds 60 --controls",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("run")(run.run)
app.add_typer(fit.app, name="fit")
app.command("eval")(evaluate.evaluate)
app.command("sample")(evaluate.sample)
app.command("audit")(audit.audit)
app.command("check")(check.check)
app.command("convert")(convert.convert)
app.command("report")(reports.report)
app.command("compare")(reports.compare)
app.command("list")(catalog.list_)
app.command("show")(catalog.show)
app.add_typer(claims.app, name="claims")
app.add_typer(lab.app, name="lab")
app.command("guard")(guard.guard)
app.command("hosts")(hosts.hosts)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from truegain import __version__

        print(f"truegain {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Print the help when no command is given."""
    if context.invoked_subcommand is None:
        print(context.get_help())
