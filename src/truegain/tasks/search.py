"""Answer questions on people by searching a base of facts. Content: ``24@137 boss of friend of ann``: base, question.

The base of a problem, so many people (24) with three relations each, is made from its number (137); no two splits share
one, and the prompt does not show it, so that answers cannot be known by heart. One tool, ``search(query)``, gives the
fact whose relation and person share most words with the query. Level 1 asks one hop among 6 people, 2 one hop among 24,
3 one or two hops among 24, 4 two hops among 40.

The embedded model was not fitted on this task.
"""

from __future__ import annotations

import random
import re
from copy import deepcopy
from functools import lru_cache
from typing import Any

from truegain.tasks.generated import RECHECK, WRONG_TURN, Rules, Tool, digest

RELATIONS = ("boss", "friend", "rival")
_NAMES = (
    "abe ada amy ann bea ben bob cal cy dan deb don ed eli eva flo gus guy hal ida ike jan jim joe kay ken kit lea "
    "leo liz mae max meg ned pat ray roy sam ted zoe"
)
NAMES = tuple(_NAMES.split(" "))
BASES = 10_000
MAX_QUERY = 200
_SHAPE = {1: (6, (1,)), 2: (24, (1,)), 3: (24, (1, 2)), 4: (40, (2,))}
_CONTENT = re.compile(r"([0-9]{1,2})@([0-9]{1,4}) ([a-z]+ of )([a-z]+ of )?([a-z]+)")
Base = dict[tuple[str, str], str]


def _people(people: int, number: int) -> list[str]:
    return random.Random(digest("search people", str(people), str(number))).sample(NAMES, people)


@lru_cache(maxsize=4096)
def base_of(people: int, number: int) -> Base:
    """The facts of a base: (relation, person) -> another person, in an order of the base's own."""
    rng = random.Random(digest("search facts", str(people), str(number)))
    names = _people(people, number)
    pairs = [(relation, name) for relation in RELATIONS for name in names]
    rng.shuffle(pairs)
    return {(relation, name): rng.choice([n for n in names if n != name]) for relation, name in pairs}


def find(base: Base, query: str) -> str:
    """The fact that shares most words with the query, the first of several; ``nothing found`` where none shares any.

    >>> find({("boss", "ann"): "bob", ("boss", "bob"): "ann"}, "who is the boss of bob")
    'boss of bob is ann'
    """
    words = set(query[:MAX_QUERY].split())
    best = max(base, key=lambda pair: len(words & set(pair)))  # the first of equals
    return _written(base, best) if words & set(best) else "nothing found"


def _written(base: Base, pair: tuple[str, str]) -> str:
    return f"{pair[0]} of {pair[1]} is {base[pair]}"


class Search:
    """The world of the search task: the base of the problem at hand, one tool, and the record of its calls."""

    def __init__(self) -> None:  # noqa: D107
        self.calls: list[dict[str, Any]] = []
        self._content = ""

    def reset(self, **row: Any) -> str | None:
        """Begin a problem; ``row`` holds its ``content``. Raises ValueError for one that is not readable."""
        self._content, self.calls = str(row["content"]), []
        _read(self._content)
        return None

    def snapshot(self) -> dict[str, Any]:
        """The problem's content and a copy of the record."""
        return {"content": self._content, "calls": deepcopy(self.calls)}

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a state that `snapshot` gave."""
        self._content, self.calls = str(state["content"]), deepcopy(state["calls"])

    def search(self, query: str) -> str:
        """Search the facts on people.

        Args:
            query: a relation and a person, for example boss ann; at most 200 characters count.

        Returns:
            The fact that fits best, for example "boss of ann is bob", or "nothing found".
        """
        said = find(_read(self._content)[0], query)
        self.calls.append({"name": "search", "parameters": {"query": query[:MAX_QUERY]}, "result": said})
        return said


@lru_cache(maxsize=65536)
def _read(content: str) -> tuple[Base, tuple[str, ...], str]:
    """The base, the relations in the order they are followed, and the person to begin with."""
    found = _CONTENT.fullmatch(content)
    if not found or not 2 <= int(found[1]) <= len(NAMES):
        raise ValueError("not a question")
    base = base_of(int(found[1]), int(found[2]))
    relations = [part.removesuffix(" of ") for part in (found[4], found[3]) if part]
    if any((relation, found[5]) not in base for relation in relations):
        raise ValueError("not a question")
    return base, tuple(relations), found[5]


def _draw(rng: random.Random, level: int) -> str | None:
    people, hops = _SHAPE[level]
    number = rng.randrange(BASES)
    relations = [rng.choice(RELATIONS) for _ in range(rng.choice(hops))]
    return f"{people}@{number} {' of '.join([*relations, rng.choice(_people(people, number))])}"


def _key(content: str) -> str:
    """The base: questions on one base share a split."""
    return content.partition(" ")[0]


def _shown(content: str) -> str:
    return content.partition(" ")[2]


def _hops(content: str) -> list[tuple[str, str]]:
    """The facts that lead to the answer, as (relation, person)."""
    base, relations, name = _read(content)
    found: list[tuple[str, str]] = []
    for relation in relations:
        found.append((relation, name))
        name = base[relation, name]
    return found


def _answer(content: str) -> str:
    return _read(content)[0][_hops(content)[-1]]


def _correct(content: str, text: str) -> bool:
    return text == _answer(content)


def _gold(content: str) -> list[str]:
    """One call per hop: ``friend ann``, then ``boss`` of whom that gave."""
    return [" ".join(pair) for pair in _hops(content)]


def _call(base: Base, query: str) -> str:
    return f"<tool>{query}</tool><result>{find(base, query)}</result>"


def _think(content: str, draw: random.Random) -> str:
    """One call per hop; some take a wrong relation first and say so, some check the answer."""
    base, hops = _read(content)[0], _hops(content)
    lines = [_call(base, " ".join(pair)) for pair in hops]
    if draw.random() < WRONG_TURN:
        relation, name = hops[0]
        other = draw.choice([one for one in RELATIONS if one != relation])
        lines = [_call(base, f"{other} {name}"), "no back", *lines]
    if draw.random() < RECHECK:
        lines.append(f"check {_answer(content)} ok")
    return "<think>" + "\n".join(lines) + "</think>"


def _longest(level: int, style: str) -> int:
    call = 4 + 10 + 20 + 1
    return 3 + 2 + (0 if style == "direct" else 2 + (max(_SHAPE[level][1]) + 1) * call + 8 + 13)


def _instruction(content: str) -> str:
    return f"Who is the {_shown(content).replace(' of ', ' of the ', _shown(content).count(' of ') - 1)}?"


def _run(world: Any, text: str) -> str:
    return world.search(text)


RULES = Rules(
    name="search",
    word="who",
    levels=(1, 4),
    default={"direct": 1, "trace": 3},
    draw=_draw,
    key=_key,
    answer=_answer,
    correct=_correct,
    think=_think,
    instruction=_instruction,
    longest=_longest,
    shown=_shown,
    call_cost=0.05,
    tool=Tool(
        world=Search,
        call=_run,
        gold=_gold,
        help="To search the facts, write <tool>relation person</tool>, such as <tool>boss ann</tool>; what is found "
        "follows in <result></result>.",
    ),
)
