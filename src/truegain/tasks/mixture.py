"""Several tasks as one, by weight; and the spec that names tasks, files and mixtures on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, cast

from truegain.core.errors import SettingError, nearest
from truegain.core.types import Abstain, Environment, Problem, Rollout, Split, Task
from truegain.tasks import gym
from truegain.tasks._rows import SUFFIXES, check_file
from truegain.tasks.files import FileTask

_FILE_KNOBS: dict[str, Callable[[str], Any]] = {
    "checker": str,
    "dev": str,
    "test": str,
    "name": str,
    "prompt_column": str,
    "answer_column": str,
    "completion_column": str,
    "max_prompt_chars": int,
}


class Mixture:
    """Tasks drawn by weight. Unlimited: which member gives problem ``i`` of a split is a pure function of i and seed.

    Member m is drawn with probability ``weights[m] / sum(weights)`` and gives its problem i, or ``i mod size`` where
    it is finite; so a finite member's problems come back under the same id. A mixture among the members is taken
    apart into its own members. ``problem.meta["member"]`` says which member a problem is from; members of one name
    get ids of their own. Where members have environments, `environment` makes one that serves them all.

    Raises SettingError for no tasks, or weights that do not fit, are not finite or not positive.
    """

    def __init__(
        self, tasks: Sequence[Task], weights: Sequence[float] | None = None, *, seed: int = 0, name: str | None = None
    ) -> None:
        """Weights default to equal ones."""
        given = [1.0] * len(tasks) if weights is None else list(weights)
        if not tasks or len(given) != len(tasks):
            raise SettingError(f"a mixture needs one weight per task: {len(tasks)} tasks, {len(given)} weights")
        if not all(0 < weight < math.inf for weight in given):
            raise SettingError(f"the weights of a mixture must be positive and finite, not {given}")
        shares = [(task, weight / sum(given)) for task, weight in zip(tasks, given, strict=True)]
        flat = [part for task, share in shares for part in _parts(task, share)]
        self.members: tuple[Task, ...] = tuple(task for task, _ in flat)
        self.weights: tuple[float, ...] = tuple(share for _, share in flat)
        self.seed = seed
        self.name = name or "+".join(task.name for task in self.members)
        self._labels = _labels([task.name for task in self.members])

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a completion of any member."""
        return tuple(dict.fromkeys(text for task in self.members for text in getattr(task, "stop", ())))

    def problem(self, split: Split, index: int) -> Problem:
        """Problem ``index`` of a split, from the member that the draw gives. Raises IndexError below 0."""
        if index < 0:
            raise IndexError(f"{self.name}: problem {index} does not exist; indices start at 0")
        which = self.drawn(split, index)
        member = self.members[which]
        size = member.size(split)
        problem = member.problem(split, index % size if size else index)
        label = self._labels[which]
        ident = problem.id if label == member.name else f"{label}/{problem.id}"
        return replace(problem, id=ident, meta={**problem.meta, "member": which})

    def drawn(self, split: Split, index: int) -> int:
        """Which member gives the problem: 53 bits of blake2b(seed, split, index) against the cumulated weights."""
        digest = blake2b(f"mixture\x1f{self.seed}\x1f{split}\x1f{index}".encode(), digest_size=8).digest()
        at = (int.from_bytes(digest, "big") >> 11) / 2**53
        for which, share in enumerate(self.weights):
            at -= share
            if at < 0:
                return which
        return len(self.weights) - 1

    def size(self, split: Split) -> int | None:
        """None: there is no last problem."""
        return None

    def score(self, problem: Problem, rollout: Rollout) -> Mapping[str, Any] | Abstain:
        """What the problem's member finds. Abstains for a problem that is of no member."""
        member = self._of(problem)
        return (
            Abstain(f"problem {problem.id}: of no task of {self.name}")
            if member is None
            else member.score(problem, rollout)
        )

    def score_all(self, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> list[Mapping[str, Any] | Abstain]:
        """`score` of many rollouts, ``problems[i]`` being that of ``rollouts[i]``; each member gets its own at once."""
        found: list[Mapping[str, Any] | Abstain] = [
            Abstain(f"problem {problem.id}: of no task of {self.name}") for problem in problems
        ]
        for member in self.members:
            rows = [i for i, problem in enumerate(problems) if self._of(problem) is member]
            asked, written = [problems[i] for i in rows], [rollouts[i] for i in rows]
            together = getattr(member, "score_all", None)
            verdicts = together(asked, written) if together else [*map(member.score, asked, written)]
            for i, verdict in zip(rows, verdicts, strict=True):
                found[i] = verdict
        return found

    @property
    def supplies(self) -> tuple[str, ...]:
        """The columns that every member supplies. AttributeError where a member does not say."""
        given = [cast(Any, task).supplies for task in self.members]
        return tuple(name for name in given[0] if all(name in other for other in given))

    def final(self, problem: Problem, text: str) -> str | None:
        """The completion's answer, as the problem's member reads it."""
        member = self._of(problem)
        return None if member is None else member.final(problem, text)

    @property
    def max_tokens(self) -> int:
        """The most tokens that a member says its completions need. AttributeError where a member does not say."""
        return max(cast(Any, task).max_tokens for task in self.members)

    @property
    def demonstration(self) -> Callable[[Problem, Random], str]:
        """Gives a reference completion by the problem's member. AttributeError where a member has none."""
        writers = [cast(Any, task).demonstration for task in self.members]
        return lambda problem, draw: writers[problem.meta["member"]](problem, draw)

    def environment(self) -> Callable[[], Environment] | None:
        """A factory of worlds that serve every member, or None when all are single-turn."""
        factories = [task.environment() for task in self.members]
        return (lambda: MixedWorld(factories)) if any(factories) else None

    def respond(self, env: Environment, text: str) -> str | None:
        """What the world of the member at hand answers to a completion so far; None where it has nothing to say."""
        world = cast(MixedWorld, env)
        if world.member is None or world.world is None:
            return None
        return self.members[world.member].respond(world.world, text)

    def _of(self, problem: Problem) -> Task | None:
        which = problem.meta.get("member")
        if isinstance(which, int) and 0 <= which < len(self.members):
            return self.members[which]
        named = [task for task in self.members if task.name == problem.meta.get("task")]
        return named[0] if named else None


class MixedWorld:
    """The environment of a mixture: after `reset`, it is the world of the member that the problem is from.

    The tools are that world's, under their own names; a member without an environment has none.
    """

    def __init__(self, factories: Sequence[Callable[[], Environment] | None]) -> None:
        """One factory per member, None for single-turn ones."""
        self._factories = tuple(factories)
        self.member: int | None = None
        self.world: Environment | None = None

    def reset(self, **row: Any) -> str | None:
        """Begin a problem; ``row`` holds its ``member``."""
        self._enter(row.get("member"))
        return None if self.world is None else self.world.reset(**row)

    def snapshot(self) -> dict[str, Any]:
        """The member and its world's state."""
        return {"member": self.member, "state": None if self.world is None else self.world.snapshot()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a state that `snapshot` gave."""
        self._enter(state["member"])
        if self.world is not None:
            self.world.restore(state["state"])

    def _enter(self, member: int | None) -> None:
        factory = None if member is None else self._factories[member]
        self.member, self.world = member, None if factory is None else factory()

    def __getattr__(self, name: str) -> Any:
        """The tools of the world at hand."""
        if name.startswith("_") or self.world is None:
            raise AttributeError(f"no tool {name!r} in this problem's world")
        return getattr(self.world, name)


def parse(spec: str, *, needs_answer: bool = True, seed: int = 0) -> Task:
    """The task that a spec names: an embedded task, a data file, one of reasoning-gym, or several joined by ``+``.

    ``sort,level=6,style=trace``; ``path/to/file.jsonl,test=path/to/test.jsonl``; ``gym:leg_counting,max_animals=4``;
    ``sort,weight=2+add,level=3``. A file's keys are checker (exact, math or python), dev, test, name, prompt_column,
    answer_column, completion_column and max_prompt_chars.
    ``needs_answer=False`` admits files without an answer column, for reward functions to judge. ``seed`` is the
    mixture's.

    Raises SettingError for unknown names and keys (with the nearest legal one) and for values that do not fit,
    DataError for files that cannot be used.

    >>> parse("sort,weight=3+add").weights
    (0.75, 0.25)
    """
    pieces = _pieces(spec)
    if not all(pieces):
        raise SettingError(f"task spec {spec!r}: a part is empty; write NAME[,key=value...][+NAME...]")
    tasks, weights = zip(*(_one(piece, needs_answer) for piece in pieces), strict=True)
    if len(tasks) == 1:
        return tasks[0]
    return Mixture(tasks, weights, seed=seed)


def check_names(spec: str) -> None:
    """Refuse what `parse` refuses of embedded tasks' names and keys, and files that are not there, at once.

    What takes long is left to `parse`: reading files, opening reasoning-gym and what needs torch.
    """
    for piece in _pieces(spec):
        name = _head(piece)
        if _is_file(name):
            check_file(Path(name))
        elif not name.startswith(gym.PREFIX) and name != "rubric":
            _one(piece, needs_answer=True)


def _pieces(spec: str) -> list[str]:
    """Cut at ``+``, but not inside the path of a file that exists."""
    parts, pieces = spec.split("+"), list[str]()
    while parts:
        plain = next((n for n, part in enumerate(parts) if "," in part), len(parts))  # names end at the first comma
        paths = (n for n in range(min(plain + 1, len(parts)), 1, -1) if Path(_head("+".join(parts[:n]))).is_file())
        take = next(paths, 1)
        pieces.append("+".join(parts[:take]).strip())
        parts = parts[take:]
    return pieces


def _one(spec: str, needs_answer: bool) -> tuple[Task, float]:
    """One member of a spec and its weight."""
    name, *settings = (part.strip() for part in spec.split(","))
    weight, rest = 1.0, []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise SettingError(f"task {name}: {setting!r} is no setting; write key=value")
        if key == "weight":
            weight = _weight(name, text)
        else:
            rest.append((key, text))
    if _is_file(name):
        return FileTask(name, needs_answer=needs_answer, **_file_knobs(name, rest)), weight
    if name.startswith(gym.PREFIX):
        return gym.from_settings(name, rest), weight
    from truegain.tasks import NAMES, embedded

    if name not in NAMES:
        raise SettingError(
            f"unknown task {name!r}{nearest(name, {*NAMES, *gym.names()})}; there are {' '.join(NAMES)}, "
            f"{gym.PREFIX}NAME for those of reasoning-gym, and files that end in {', '.join(SUFFIXES)}"
        )
    return embedded(",".join([name, *(f"{key}={text}" for key, text in rest)])), weight


def _file_knobs(name: str, settings: Sequence[tuple[str, str]]) -> dict[str, Any]:
    knobs: dict[str, Any] = {}
    legal = sorted({*_FILE_KNOBS, "weight"})
    for key, text in settings:
        if key not in legal:
            raise SettingError(f"task {name}: unknown key {key!r}{nearest(key, legal)}; there are {' '.join(legal)}")
        try:
            knobs[key] = _FILE_KNOBS[key](text)
        except ValueError:
            raise SettingError(f"task {name}: {key} cannot be {text!r}; it is a whole number") from None
    return knobs


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise SettingError(f"task {name}: weight cannot be {text!r}; it is a positive number")
    return weight


def _head(piece: str) -> str:
    return piece.split(",")[0].strip()


def _is_file(name: str) -> bool:
    """Whether a name means a data file: it has a path's look, or a data file's ending."""
    return "/" in name or name.lower().endswith(SUFFIXES) or Path(name).is_file()


def _parts(task: Task, share: float) -> list[tuple[Task, float]]:
    if not isinstance(task, Mixture):
        return [(task, share)]
    return [(member, share * inner) for member, inner in zip(task.members, task.weights, strict=True)]


def _labels(names: Sequence[str]) -> list[str]:
    """The names, with ``#2`` and so on after one that comes again."""
    return [name if name not in names[:i] else f"{name}#{names[:i].count(name) + 1}" for i, name in enumerate(names)]
