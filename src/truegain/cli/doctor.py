"""``truegain doctor``: is this machine fit to train, what went wrong in a run, and what would mend it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json as jsonlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truegain.cli.catalog import Json
from truegain.cli.out import console, json_lines, print_json, say
from truegain.cli.progress import progress
from truegain.core.errors import DataError

if TYPE_CHECKING:
    from truegain.hosts.diagnose import Finding as Diagnosis

EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "data": (("datasets", "pyarrow"), "pip install 'truegain[data]'"),
    "gym": (("reasoning_gym",), "pip install 'truegain[gym]'"),
    "math": (("math_verify",), "pip install 'truegain[math]'"),
    "lora": (("peft",), "pip install peft"),
    "tensorboard": (("tensorboard",), "pip install tensorboard"),
    "wandb": (("wandb",), "pip install wandb"),
    "trackio": (("trackio",), "pip install trackio"),
}
"""What is optional: the modules of each, and the command that adds them."""

LEAST_DISK, LEAST_MEMORY = 200 * 2**20, 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``state`` is ok, note (works, could be better) or broken; ``mend`` says how."""

    name: str
    state: str
    value: str
    mend: str = ""


def doctor(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="A run of ours, TRL's or verl's: its folder or log. None: this machine."),
    ] = None,
    gold: Annotated[str, typer.Option(metavar="METRIC", help="The independent score in RUN's log.")] = "",
    proxy: Annotated[str, typer.Option(metavar="METRIC", help="The optimised score in RUN's log.")] = "",
    json: Json = False,
) -> None:
    """Check whether this machine is fit to train, or what went wrong in a run.

    Exits with 0 when nothing is broken, with 1 when something is, and with 2 for a log that cannot be used.

    Of a run: groups without variance, entropy, drift, truncation, engine against learner, steps that trained nothing,
    parts that do not count, the choice of the checkpoint. Each with its cause, the evidence and the mend.
    """
    if run is not None:
        _run(run, gold, proxy, json)
        return
    with json_lines(json), progress("looking"):
        found = list(examine())
    broken = [one for one in found if one.state == "broken"]
    if json:
        print_json({"ok": not broken, "findings": [asdict(one) for one in found]})
    else:
        _print(found)
    if broken:
        raise typer.Exit(1)


def _run(run: Path, gold: str, proxy: str, json: bool) -> None:
    from truegain.hosts.diagnose import diagnose
    from truegain.hosts.logs import read_log

    try:
        log = read_log(run)
        found = diagnose(log, gold=gold, proxy=proxy)
    except DataError as error:
        say(f"error: {error}")
        raise typer.Exit(2) from None
    bad = [one for one in found if one.state == "bad"]
    if json:
        facts = {"host": log.host, "log": str(log.path), "lines": len(log.lines), "skipped": log.skipped}
        print_json({"ok": not bad, **facts, "findings": [asdict(one) for one in found]})
    else:
        lost = f", {log.skipped} damaged ones left out" if log.skipped else ""
        _print_run(f"{log.host} log {log.path}, {len(log.lines)} lines{lost}", found)
    if bad:
        raise typer.Exit(1)


def _print_run(head: str, found: Sequence[Diagnosis]) -> None:
    from rich.table import Table
    from rich.text import Text

    from truegain.cli.out import untrusted

    styles = {"bad": "bold red", "note": "yellow", "ok": "green", "unseen": "dim"}
    to, table = console(), Table.grid(padding=(0, 2))
    to.print(untrusted(head))
    for one in found:
        what = untrusted(one.evidence, "dim" if one.state == "unseen" else "")
        table.add_row(Text(one.state, styles[one.state]), one.name, what)
        for word, said in (("cause", one.cause), ("mend", one.mend)):
            if said:
                table.add_row("", Text(word, "dim"), said)
    to.print(table)
    bad = sum(one.state == "bad" for one in found)
    verdict = f"{bad} bad" if bad else "nothing found that is known to be wrong"
    to.print(verdict, style="bold red" if bad else "bold green")


def examine() -> Iterator[Finding]:
    """Every finding, in the order in which they are printed. A look that itself fails is a broken finding."""
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _threads,
        _memory,
        _disk,
        _gpu,
        _extras,
        _sandbox,
        _embedded,
        _writing,
        _verl,
    )
    for look in looks:
        try:
            yield from look()
        except Exception as error:
            name = look.__name__.removeprefix("_")
            yield Finding(name, "broken", f"{type(error).__name__}: {error}"[:300], "see the error")


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        "python", "ok" if good else "broken", platform.python_version(), "" if good else "use Python 3.11 or newer"
    )
    yield Finding("truegain", "ok", importlib.metadata.version("truegain"))


def _packages() -> Iterator[Finding]:
    """The packages that truegain needs, against the lowest versions that it says it works with."""
    for text in importlib.metadata.requires("truegain") or ():
        wanted, _, marker = text.partition(";")
        if "extra" in marker:
            continue
        name, _, least = (part.strip() for part in wanted.partition(">="))
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "broken", "missing", f"pip install '{wanted.strip()}'")
            continue
        if _numbers(found) >= _numbers(least):
            yield Finding(name, "ok", found)
        else:
            yield Finding(name, "broken", f"{found}, but truegain needs >={least}", f"pip install '{wanted.strip()}'")


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, ``2.13.0+cpu`` as (2, 13, 0); () for none, which every version reaches."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _threads() -> Iterator[Finding]:
    import torch

    from truegain.train.launch import best_threads

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given, own = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    why = f"OMP_NUM_THREADS={given}" if given else "the fastest in a probe"
    yield Finding("threads", "ok", f"training takes {best_threads()} of {cores} cores ({why}); torch alone takes {own}")
    spin = os.environ.get("GOMP_SPINCOUNT", "not set")
    good = spin == "0"
    yield Finding(
        "GOMP_SPINCOUNT", "ok" if good else "note", spin, "" if good else "set it to 0 where the machine is shared"
    )


def _memory() -> Iterator[Finding]:
    free = _available_memory()
    if free is None:
        yield Finding("memory", "note", "unknown")
    else:
        good = free >= LEAST_MEMORY
        yield Finding(
            "memory",
            "ok" if good else "note",
            f"{free / 2**30:.1f} GiB available",
            "" if good else "close other programs",
        )


def _available_memory() -> int | None:
    """Bytes that a new process may take, as Linux says it; the physical memory elsewhere."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (OSError, ValueError, AttributeError):
            return None


def _disk() -> Iterator[Finding]:
    place = _runs()
    free = shutil.disk_usage(place).free
    good = free >= LEAST_DISK
    yield Finding(
        "disk",
        "ok" if good else "note",
        f"{free / 2**30:.1f} GiB free for {(place / 'runs') if place.name != 'runs' else place}",
        "" if good else "free some space for checkpoints, or give --out",
    )


def _runs() -> Path:
    """Where `truegain train` puts its run folders by default, or the folder that would hold it."""
    here = Path.cwd()
    return here / "runs" if (here / "runs").is_dir() else here


def _gpu() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        # A machine with a GPU and a torch that cannot use it is worth a word.
        blind = shutil.which("nvidia-smi") is not None
        mend = "nvidia-smi is there, but torch sees no GPU: install a CUDA build of torch" if blind else ""
        yield Finding("gpu", "note" if blind else "ok", "none; models run on the CPU", mend)
        return
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        free, whole = torch.cuda.mem_get_info(number)
        half = "bf16" if about.major >= 8 else "no bf16"
        size = f"{free / 2**30:.1f} of {whole / 2**30:.1f} GiB free"
        yield Finding(f"gpu cuda:{number}", "ok", f"{about.name}, {size}, {half}, CUDA {torch.version.cuda}")


def _extras() -> Iterator[Finding]:
    for extra, (modules, command) in EXTRAS.items():
        missing = [name for name in modules if not _there(name)]
        if missing:
            yield Finding(f"extra {extra}", "note", f"not installed ({', '.join(missing)})", command)
        else:
            yield Finding(f"extra {extra}", "ok", "installed")


def _sandbox() -> Iterator[Finding]:
    """What generated programs can be run in; without one, tasks whose checker runs programs are refused."""
    from truegain.runtime.backend import BACKENDS, MEND, unusable

    reasons = {backend: unusable(backend) for backend in BACKENDS}
    works = [backend for backend, reason in reasons.items() if reason is None]
    missing = "; ".join(f"{backend}: {reason}" for backend, reason in reasons.items() if reason)
    if not works:
        yield Finding("sandbox", "note", f"none, so checker=python is refused ({missing})", MEND)
    elif works[0] == "bubblewrap":
        yield Finding("sandbox", "ok", f"bubblewrap{', landlock too' if works[1:] else ''}")
    else:
        value = f"landlock: programs can neither write files nor start processes ({missing})"
        yield Finding("sandbox", "note", value, "apt install bubblewrap, or dnf install bubblewrap")


def _there(module: str) -> bool:
    """Whether a module can be imported; a folder of its name (wandb makes ./wandb) is found too, without an origin."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def _embedded() -> Iterator[Finding]:
    from truegain.policy.policy import EMBEDDED, Policy

    place = EMBEDDED / "tiny"
    if not place.is_dir():
        yield Finding("model tiny", "broken", "missing", "install truegain again, or make it: truegain fit tiny")
        return
    wrong = damage(place)
    if wrong:
        yield Finding("model tiny", "broken", wrong, "install truegain again")
        return
    count = sum(p.numel() for p in Policy.load("tiny").model.parameters())
    known = "checksum matches" if (place / "manifest.json").exists() else "no checksum recorded"
    yield Finding("model tiny", "ok", f"{count / 1e6:.2f} M parameters, {known}")


def damage(place: Path) -> str:
    """What is wrong with a model folder by its ``manifest.json`` ({"files": {name: {"sha256"}}}); empty if nothing."""
    manifest = place / "manifest.json"
    if not manifest.exists():
        return ""
    try:
        files: dict[str, Any] = jsonlib.loads(manifest.read_bytes())["files"]
        for name, facts in files.items():
            with (place / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                    return f"{name}: checksum differs"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def _writing() -> Iterator[Finding]:
    place = _runs()
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-"):
            pass
        yield Finding("writing", "ok", f"runs can be written in {place}")
    except OSError as error:
        yield Finding("writing", "broken", f"{place}: {error.strerror}", "go to a folder of yours, or give --out")


def _verl() -> Iterator[Finding]:
    """How the plugin fared when verl last loaded it: verl keeps a plugin's error to itself."""
    from truegain.hosts import verl_record

    found = verl_record.read()
    if not found:
        if _there("verl"):
            yield Finding("verl plugin", "note", "verl has never loaded it", "python -c 'import verl', then look again")
        return
    loaded, failed = found.get("loaded"), found.get("failed")
    last = max((one for one in (loaded, failed) if one), key=lambda one: str(one["time"]))
    under = ", ".join(f"{name} {number}" for name, number in last.get("versions", {}).items() if number)
    if last is failed:
        mend = f"mend that, then look again (kept in {verl_record.place()})"
        yield Finding("verl plugin", "note", f"failed at {last['time']} ({under}): {last.get('error', '')}", mend)
        return
    before = f"; a load failed at {failed['time']}: {failed.get('error', '')}" if failed else ""
    config = f", knobs from {last['config']}" if last.get("config") else ""
    yield Finding("verl plugin", "ok", f"loaded at {last['time']} ({under}){config}{before}")


def _print(found: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    signs = {"ok": ("ok", "green"), "note": ("note", "yellow"), "broken": ("broken", "bold red")}
    for one in found:
        table.add_row(Text(*signs[one.state]), one.name, Text(one.value), Text(one.mend, style="dim"))
    to = console()
    to.print(table)
    broken = [one for one in found if one.state == "broken"]
    to.print(f"{len(broken)} broken" if broken else "fit to train", style="bold red" if broken else "bold green")
