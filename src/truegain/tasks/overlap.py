"""Train/test contamination of data files: which prompts of one set share words in a row with a prompt of another."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from truegain.core.errors import SettingError
from truegain.core.types import Problem, Split, Task
from truegain.tasks.files import FileTask
from truegain.tasks.mixture import Mixture

N = 13
COMMON = 10
_CHUNK_WORDS = 1 << 20
_FILTER_BITS = 26
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Letters and digits in a row; scripts written without spaces character by character; what calculates. A minus before
# a word of two letters or more is a hyphen, an exclamation mark after a number or a bracket a factorial.
_WORD = re.compile(rf"[^\W_{_IDEOGRAPHS}]+|[{_IDEOGRAPHS}]|[+*/=<>^%×÷√−±≤≥≠]|(?<=[\d)])!|-(?![^\W\d_]{{2}})")
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Shared:
    """One contaminated prompt: its number, that of the first prompt that shares words with it, and the words."""

    test: int
    train: int
    text: str


@dataclass(frozen=True)
class Overlap:
    """What `overlap` found. ``found`` has one entry per contaminated prompt, in order, of ``total`` looked at."""

    n: int
    total: int
    found: tuple[Shared, ...]

    @property
    def share(self) -> float:
        """The share of contaminated prompts, in [0, 1]; 0 where there are none to look at."""
        return len(self.found) / self.total if self.total else 0.0


def overlap(train: Iterable[str], test: Sequence[str], n: int = N, common: int = COMMON) -> Overlap:
    """Prompts of ``test`` that share ``n`` words in a row with a prompt of ``train``; GPT-3's authors took 13.

    Words are runs of letters and digits, and signs that calculate; case and other punctuation do not count. Chinese
    and Japanese characters are words of their own. What stands in more than ``common`` test prompts (in fewer than
    ``2 * common`` of them: in more than half, and in two at least) is their template: its words are left out on both
    sides. A prompt without n words in a row is compared as a whole with what is so short too.

    Linear in the text; holds the test prompts' n-grams and a chunk of the train prompts' at a time. The comparison is
    of 64-bit hashes. Source: Brown et al. 2020, https://arxiv.org/abs/2005.14165, appendix C.

    Raises SettingError when n or common is not positive.

    >>> overlap(["What is three plus four?"], ["what is  Three plus four", "What is three plus five?"]).share
    0.5
    """
    for name, value in (("n", n), ("common", common)):
        if value < 1:
            raise SettingError(f"overlap: {name}={value} is out of bounds; it must be 1 or more")
    index = _Index(test, n, min(common, max(1, len(test) // 2)))
    at = 0
    for texts in _chunks(train):
        index.look(texts, at)
        at += len(texts)
    return Overlap(n, len(test), tuple(index.found()))


@dataclass(frozen=True)
class Contamination:
    """How far prompts of a task's ``split`` overlap with its train split; ``places`` are those of the found ones:
    file and line in the split and in train.
    """

    task: str
    split: Split
    overlap: Overlap
    places: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """One line: how many, what share, and the first as an example."""
        count, total = len(self.overlap.found), self.overlap.total
        said = f"{self.task}: {count} of {total} {self.split} prompts ({100 * self.overlap.share:.1f} %)"
        if not count:
            return f"{said} share {self.overlap.n} words in a row with a train prompt"
        here, there = self.places[0]
        text = " ".join(self.overlap.found[0].text.split())
        return (
            f"{said} share {self.overlap.n} words in a row with a train prompt, or all where shorter: "
            f"{here} with {there}: {text[:160]!r}"
        )


def contamination(task: Task, n: int = N, common: int = COMMON) -> list[Contamination]:
    """`overlap` of test and of dev with train, for every data file in the task; generated tasks have none to look at.

    >>> from truegain.tasks import make
    >>> contamination(make("sort"))
    []
    """
    members = task.members if isinstance(task, Mixture) else (task,)
    found: list[Contamination] = []
    for member in members:
        if not isinstance(member, FileTask):
            continue
        train = _problems(member, "train")
        for split in ("test", "dev"):
            here = _problems(member, split)
            shared = overlap(map(_text, train), list(map(_text, here)), n, common)
            places = tuple((member.place(here[one.test]), member.place(train[one.train])) for one in shared.found)
            found.append(Contamination(member.name, split, shared, places))
    return found


def overlap_notes(task: Task) -> list[str]:
    """One line for each split of data files that shares words in a row with their train split."""
    return [str(one) for one in contamination(task) if one.overlap.found]


def _problems(task: FileTask, split: Split) -> list[Problem]:
    return [task.problem(split, i) for i in range(task.size(split))]


def _text(problem: Problem) -> str:
    prompt = problem.prompt
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


class _Words:
    """The words of some texts as hashes, one after the other, and where every text begins."""

    def __init__(self, texts: Sequence[str], n: int) -> None:
        hashes = array("q")
        starts = [0]
        for text in texts:
            hashes.extend(map(hash, _WORD.findall(text.casefold())))
            starts.append(len(hashes))
        self.n, self.starts = n, np.array(starts)
        self.words = _mixed(np.frombuffer(hashes, dtype=np.uint64))
        self.owner = np.repeat(np.arange(len(texts)), np.diff(self.starts))
        count = max(0, len(hashes) - n + 1)
        self.grams = np.zeros(count, dtype=np.uint64)
        for shift in range(n):  # sum of w[i+j] * m^(n-j), modulo 2^64
            self.grams = (self.grams + self.words[shift : shift + count]) * _MULTIPLIER
        self.whole = self.owner[:count] == self.owner[n - 1 :] if count else np.zeros(0, dtype=bool)

    def without(self, template: _Known) -> tuple[Array, Array]:
        """Which n-grams hold no word of the template [grams], and which words are none of it [words]."""
        marked = np.zeros(len(self.words) + 1, dtype=np.int64)
        at = np.flatnonzero(self.whole)[template.has(self.grams[self.whole])]
        np.add.at(marked, at, 1)
        np.add.at(marked, at + self.n, -1)
        own = np.cumsum(marked)[:-1] == 0
        before = np.concatenate([[0], np.cumsum(~own)])
        count = len(self.grams)
        return self.whole & (before[self.n : self.n + count] == before[:count]), own

    def short(self, good: Array, own: Array) -> Iterator[tuple[int, bytes]]:
        """Texts without an n-gram of their own: number, and the words that are not the template's."""
        has = np.zeros(len(self.starts) - 1, dtype=bool)
        has[self.owner[: len(good)][good]] = True
        for text in np.flatnonzero(~has).tolist():
            span = slice(self.starts[text], self.starts[text + 1])
            key = self.words[span][own[span]].tobytes()
            if key:
                yield text, key


class _Known:
    """A set of hashes that is asked for many at a time: a bitmap sends most away before the search."""

    def __init__(self, hashes: Array) -> None:
        self.sorted, _ = _counted(hashes)
        self._shift = np.uint64(64 - _FILTER_BITS)
        self._filter = np.zeros(1 << _FILTER_BITS if len(self.sorted) else 0, dtype=bool)
        if len(self.sorted):
            self._filter[self.sorted >> self._shift] = True

    def has(self, hashes: Array) -> Array:
        """Whether each is in the set."""
        found = np.zeros(len(hashes), dtype=bool)
        found[self.places(hashes)[0]] = True
        return found

    def places(self, hashes: Array) -> tuple[Array, Array]:
        """Which of the hashes are in the set, in any order, and their places in the set's."""
        if not len(self.sorted):
            none = np.zeros(0, dtype=np.int64)
            return none, none
        maybe = np.flatnonzero(self._filter[hashes >> self._shift])
        maybe = maybe[np.argsort(hashes[maybe])]  # searching in order stays in the cache
        place = np.minimum(np.searchsorted(self.sorted, hashes[maybe]), len(self.sorted) - 1)
        hit = self.sorted[place] == hashes[maybe]
        return maybe[hit], place[hit]


class _Index:
    """The test prompts' n-grams and short texts, each with the first train prompt that was found to have it."""

    def __init__(self, test: Sequence[str], n: int, most: int) -> None:
        self.test, self.n = test, n
        words = _Words(test, n)
        self.template = _Known(_in_more_than(most, words))
        good, own = words.without(self.template)
        self.grams, self.owner, self.at = words.grams[good], words.owner[: len(good)][good], np.flatnonzero(good)
        self.begin = words.starts
        self.known = _Known(self.grams)
        self.first = np.full(len(self.known.sorted), -1)
        self.short: dict[bytes, list[int]] = {}
        for text, key in words.short(good, own):
            self.short.setdefault(key, []).append(text)
        self.same: dict[int, int] = {}

    def look(self, texts: Sequence[str], number: int) -> None:
        """Note which n-grams and short texts these train prompts have; the first of them is prompt ``number``."""
        words = _Words(texts, self.n)
        good, own = words.without(self.template)
        hit, place = self.known.places(words.grams[good])
        fresh = self.first[place] < 0
        hit, place = hit[fresh], place[fresh]
        last = np.argsort(-hit)  # of several prompts the first is written last
        self.first[place[last]] = words.owner[: len(good)][good][hit[last]] + number
        for text, key in words.short(good, own) if self.short else ():
            for match in self.short.get(key, ()):
                self.same.setdefault(match, text + number)

    def found(self) -> Iterator[Shared]:
        """The contaminated test prompts in order, each with the first words that it shares."""
        hit, place = self.known.places(self.grams)
        train = np.full(len(self.grams), -1)
        train[hit] = self.first[place]
        shared = np.flatnonzero(train >= 0)
        owners, firsts = np.unique(self.owner[shared], return_index=True)
        found = {int(o): (int(train[g]), int(self.at[g])) for o, g in zip(owners, shared[firsts], strict=True)}
        for text in sorted({*found, *self.same}):
            if text in found:
                other, at = found[text]
                at -= int(self.begin[text])
                spans = [m.span() for m in islice(_WORD.finditer(self.test[text].casefold()), at, at + self.n)]
                yield Shared(text, other, self.test[text].casefold()[spans[0][0] : spans[-1][1]])
            else:
                yield Shared(text, self.same[text], self.test[text])


def _in_more_than(most: int, words: _Words) -> Array:
    """The n-grams that stand in more than ``most`` of the texts."""
    grams, owner = words.grams[words.whole], words.owner[: len(words.whole)][words.whole]
    found, count = _counted(grams)
    often = _Known(found[count > most])  # some of them in one text again and again
    at, place = often.places(grams)
    pairs = np.unique(place * (len(words.starts) + 1) + owner[at])
    return often.sorted[np.bincount(pairs // (len(words.starts) + 1), minlength=len(often.sorted)) > most]


def _counted(hashes: Array) -> tuple[Array, Array]:
    """The different hashes in ascending order, and how often each is there; `numpy.unique` is far slower."""
    ordered = np.sort(hashes)
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)])
    return ordered[begins], np.diff(np.append(begins, len(ordered)))


def _mixed(hashes: Array) -> Array:
    """The hashes with their bits stirred, as numbers may come close together (splitmix64's finaliser)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in chunks of about a million words."""
    chunk: list[str] = []
    held = 0
    for text in texts:
        chunk.append(text)
        held += len(text) // 4 + 1
        if held >= _CHUNK_WORDS:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
