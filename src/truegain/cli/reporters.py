"""``--report-to``: each event to tensorboard, wandb or trackio through its own client, names as in the log."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from truegain.core.errors import DataError, SettingError, nearest

CLIENTS = ("tensorboard", "wandb", "trackio")
Event = Mapping[str, Any]
_NOT_METRICS = frozenset({"kind", "step", "seed", "arm"})


def check_reporters(names: Sequence[str]) -> None:
    """Refuse an unknown client (SettingError) or one that is not installed (DataError) before anything runs."""
    for name in names:
        if name not in CLIENTS:
            raise SettingError(f"--report-to {name!r} is unknown{nearest(name, CLIENTS)}; it is {', '.join(CLIENTS)}")
        spec = importlib.util.find_spec(name)
        # A folder of the client's name (wandb makes ./wandb) is found too, as a namespace without an origin.
        if spec is None or spec.origin is None:
            raise DataError(f"--report-to {name}: the package is not installed; add it with `pip install {name}`")


def metrics(event: Event) -> dict[str, float]:
    """The finite numbers of a step, a look at dev or the guard, flat; a look's stand under ``eval/``, as TRL has them.

    >>> metrics({"kind": "eval", "step": 3, "seed": 0, "arm": "trained", "gold": 0.5, "ledger": {"flops": 7}})
    {'eval/gold': 0.5, 'eval/ledger/flops': 7.0}
    """
    if event.get("kind") not in ("step", "eval", "guard"):
        return {}
    prefix = "eval/" if event["kind"] == "eval" else ""
    return {prefix + name: value for name, value in _numbers(event) if name not in _NOT_METRICS}


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in _numbers(value))
        elif isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0:
            yield name, float(value)


@contextlib.contextmanager
def reporters(names: Sequence[str], out: Path, settings: Mapping[str, Any]) -> Iterator[Callable[[Event], None]]:
    """A function that sends an event to every client. Each seed and arm is a run of its own there, one at a time."""
    opened: list[tuple[Sender, Callable[[], Any]]] = []
    current = ""

    def close() -> None:
        while opened:
            opened.pop()[1]()

    def send(event: Event) -> None:
        nonlocal current
        found = metrics(event)
        if not found:
            return
        run = f"seed-{event.get('seed', 0)}/{str(event.get('arm', 'trained')).replace(':', '-')}"
        if run != current:
            close()
            current = run
            opened.extend(_OPEN[name](out, run, settings) for name in names)
        for log, _ in opened:
            log(int(event["step"]), found)

    try:
        yield send
    finally:
        close()


Sender = Callable[[int, dict[str, float]], Any]


def _tensorboard(out: Path, run: str, settings: Mapping[str, Any]) -> tuple[Sender, Callable[[], Any]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out / "tensorboard" / run))

    def log(step: int, found: dict[str, float]) -> None:
        for name, value in found.items():
            writer.add_scalar(name, value, step)

    return log, writer.close


def _wandb(out: Path, run: str, settings: Mapping[str, Any]) -> tuple[Sender, Callable[[], Any]]:
    import wandb  # pyright: ignore[reportMissingImports]

    # A stable id, so that a resumed run goes on in the same place.
    ident = hashlib.blake2b(f"{out.resolve()}/{run}".encode(), digest_size=8).hexdigest()
    made = wandb.init(
        project="truegain",
        group=out.name,
        name=f"{out.name}/{run}",
        id=ident,
        resume="allow",
        config=dict(settings),
        dir=str(out),
    )
    # A resumed run logs steps again, which wandb's own counter would refuse: ours is a metric, and the axis of all.
    made.define_metric("step")
    made.define_metric("*", step_metric="step")
    return lambda step, found: made.log({**found, "step": step}), made.finish


def _trackio(out: Path, run: str, settings: Mapping[str, Any]) -> tuple[Sender, Callable[[], Any]]:
    import trackio  # pyright: ignore[reportMissingImports]

    name = f"{out.name}/{run}"
    made = trackio.init(project="truegain", name=name, group=out.name, config=dict(settings), resume="allow")
    # The module's own finish: after the run's alone, trackio would end it again, and print, when Python exits.
    return lambda step, found: made.log(found, step=step), trackio.finish


_OPEN = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
