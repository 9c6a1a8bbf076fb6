"""``truegain guard``: has gold fallen in a run, ours, TRL's or verl's; finished or going on?"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truegain.cli.catalog import Json
from truegain.cli.errors import INTERRUPTED, refusal
from truegain.cli.out import console, json_lines, say, untrusted
from truegain.core.errors import DataError, SettingError, TruegainError

if TYPE_CHECKING:
    from truegain.hosts.follow import Choice, Followed

ALARM, UNUSABLE = 1, 2
_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 60


def guard(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run of ours, TRL's or verl's: its folder or log.")],
    gold: Annotated[str, typer.Option(metavar="METRIC", help="The independent score in the log.")] = "",
    proxy: Annotated[str, typer.Option(metavar="METRIC", help="The score that is optimised.")] = "",
    n: Annotated[int | None, typer.Option("--n", min=1, help="Problems that gold is the mean of at each look.")] = None,
    bounds: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="The least and largest value of gold.")
    ] = (0.0, 1.0),
    level: Annotated[float, typer.Option(help="Probability of a false alarm over all looks, at most.")] = 0.05,
    horizon: Annotated[int, typer.Option(min=1, help="About how many looks the run has.")] = 20,
    margin: Annotated[float, typer.Option(help="A fall that does not matter.")] = 0.0,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for further looks, until there is an alarm.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two readings with --follow.")] = 10.0,
    max_seconds: Annotated[float | None, typer.Option(help="With --follow: leave after so long.")] = None,
    json: Json = False,
) -> None:
    """Test whether gold has fallen while the proxy rose, over all looks of a run at a stated level.

    Exits with 0 without an alarm, with 1 at an alarm, with 2 if there is no verdict: the log cannot be used, or, with
    --follow, held no two looks until the time was up.

    It audits what has happened, and does not foretell. Ours and those of GoldGapGuard hold every problem's scores;
    other logs hold means, for which the test is conservative and --n has to be given.
    """
    knobs: dict[str, Any] = {"gold": gold, "proxy": proxy, "problems": n, "bounds": bounds, "level": level}
    knobs |= {"horizon": horizon, "margin": margin}
    with _never_an_alarm(), json_lines(json) as emit:
        if follow:
            found = _follow(run, knobs, every, max_seconds, emit if json else None)
        else:
            found = _judged(run, knobs)
            emit(_plain(found)) if json else _print(found)
    if found is None:
        raise typer.Exit(UNUSABLE)
    if found.first is not None:
        raise typer.Exit(ALARM)


@contextmanager
def _never_an_alarm() -> Iterator[None]:
    """Whatever goes wrong exits with 2: 1 says that there was an alarm."""
    try:
        yield
    except (SettingError, typer.Exit):
        raise
    except TruegainError as error:
        raise SettingError(str(error)) from error
    except Exception as error:
        refused = refusal(error)
        if refused is None:  # TRUEGAIN_DEBUG
            traceback.print_exc()
        else:
            say(refused[0])
        raise typer.Exit(UNUSABLE) from error


def _judged(run: Path, knobs: dict[str, Any]) -> Followed:
    from truegain.hosts.follow import judge_log
    from truegain.hosts.logs import read_log

    return judge_log(read_log(run), **knobs)


def _follow(run: Path, knobs: dict[str, Any], every: float, max_seconds: float | None, emit: Any) -> Followed | None:
    """Judge the log whenever it has a look more; the last verdict, None if there never was one.

    What is waited for is a log that is not there yet, or has too few looks. What else cannot be judged is an error, but
    not before it is read twice alike: a file may be read while it is written.
    """
    from truegain.hosts.follow import NotYet, check_settings, has_begun

    check_settings(**{name: knobs[name] for name in ("bounds", "level", "horizon", "margin")})
    if not run.exists() and not run.absolute().parent.is_dir():
        raise SettingError(f"{run} is not there, nor the folder that it is to be in")
    ends = math.inf if max_seconds is None else time.monotonic() + max_seconds
    found: Followed | None = None
    waiting = failed = ""
    try:
        while True:
            before, failed, now = failed, "", None
            try:
                now = _judged(run, knobs)
            except DataError as error:
                if has_begun(run) and not isinstance(error, NotYet):
                    failed = str(error)
                elif str(error) != waiting:
                    waiting = str(error)
                    say(f"waiting: {waiting}")
            if now is not None and (found is None or len(now.looks) > len(found.looks)):
                found = now
                emit(_plain(found)) if emit else _print(found)
            over = time.monotonic() + every > ends
            if failed and (over or failed == before):
                raise SettingError(failed)
            if over or (found is not None and found.first is not None):
                return found
            time.sleep(min(every, 1.0) if failed else every)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _plain(found: Followed) -> dict[str, Any]:
    facts = asdict(found)
    return {"kind": "guard", "alarm": found.first is not None, **facts}


def _print(found: Followed) -> None:
    to = console()
    to.print(verdict(found), style="bold red" if found.first else "bold green", soft_wrap=True)
    what = "every problem's scores" if found.scores else "means alone, so the test is conservative"
    facts = f"{found.host} log {found.path}: {len(found.looks)} looks at {found.problems} problems, {what}"
    to.print(untrusted(facts, "dim"), soft_wrap=True)
    looks = found.looks[-_WIDTH:]
    gold, proxy = [look.gold for look in looks], [look.proxy for look in looks]
    to.print(untrusted(f"  gold   {spark(gold)}  {_ends(gold)}  ({found.gold_key})"))
    if found.proxy_key and found.by_proxy is not None:
        to.print(untrusted(f"  proxy  {spark(proxy)}  {_ends(proxy)}  ({found.proxy_key})"))
    marks = "".join("!" if look.alarm else " " for look in looks)
    if marks.strip():
        to.print(f"  alarm  {marks}")
    to.print(untrusted(f"best by gold:  {_chosen(found.by_gold)}"), soft_wrap=True)
    if found.by_proxy is not None:
        to.print(untrusted(f"best by proxy: {_chosen(found.by_proxy)}"), soft_wrap=True)


def verdict(found: Followed) -> str:
    """The verdict in a sentence."""
    first = found.first
    if first is None:
        last = found.looks[-1]
        near = "" if math.isnan(last.gold) else f"; it lies {last.gap:.3f} below its best look"
        return f"no alarm: gold is not known to have fallen, at level {found.level:g}{near}"
    from truegain.hosts.follow import HOW

    return (
        f"ALARM at step {first.step}: gold is {first.gap:.3f} below step {first.best} "
        f"(at least {first.low:.3f} below what it was), {HOW[first.kind]}; level {found.level:g}"
    )


def spark(values: Sequence[float]) -> str:
    """A block per value, a blank for one that is not known.

    >>> spark([0.0, float("nan"), 1.0])
    '▁ █'
    """
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return " " * len(values)
    low, span = min(known), (max(known) - min(known)) or 1.0
    return "".join(" " if math.isnan(v) else _BLOCKS[round((v - low) / span * (len(_BLOCKS) - 1))] for v in values)


def _ends(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{known[0]:.3f} to {known[-1]:.3f}, most {max(known):.3f}" if known else "unknown"


def _chosen(choice: Choice) -> str:
    place = choice.checkpoint or "no checkpoint of it"
    return f"step {choice.step}, gold {choice.gold:.3f}, {place}"
