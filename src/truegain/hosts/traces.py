"""The traces of verifiers 0.4 (``traces.jsonl``) as our `Rollout`s: token ids, masks, log-probs, rewards as facts.

Reads plain JSON and needs no verifiers. A file may come from anywhere: every size is bounded, and what does not fit
together is an error that names the file, the line and the trace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from truegain.core.draws import draw_key
from truegain.core.errors import DataError
from truegain.core.types import Problem, Rollout, Stop, Turn
from truegain.hosts.data import RECORD, from_record
from truegain.tasks._file_rows import digest
from truegain.tasks._rows import jsonable, read_rows

MAX_NODES = 100_000
MAX_TOKENS = 50_000_000
"""Tokens of one trace over all its branches: each branch repeats the nodes that it shares."""
MAX_STEPS = 5_000_000
"""Nodes of one trace over all its branches."""
MAX_TEXT = 500_000_000
"""Characters of one trace over all its branches."""
MAX_ID = 2**31
_LIMITS = ("max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens", "compaction_failed")
_STREAMS = {"reference_logprobs": "ref_logp", "trainer_logprobs": "old_logp", "entropies": "entropy",
            "advantages": "advantage"}  # fmt: skip
"""Per-token numbers of a node, and the columns that they are."""
Json = Mapping[str, Any]


def read_traces(path: str | Path) -> Iterator[Rollout]:
    """The rollouts of a ``traces.jsonl``, or of the run folder that holds one, in the file's order.

    Each line is an episode or a single trace. Raises DataError for what cannot be used, naming file and line.
    """
    file = Path(path)
    file = file / "traces.jsonl" if file.is_dir() else file
    if file.suffix != ".jsonl":
        raise DataError(f"{file}: traces are JSON lines; name a file that ends in .jsonl, or the run's folder")
    seen: dict[str, int] = {}
    for place, row in read_rows(file):
        for rollout in rollouts_of(row, f"{file}, {place}"):
            number = seen.get(rollout.problem.id, 0)
            seen[rollout.problem.id] = number + 1
            yield replace(rollout, sample=number, key=draw_key(0, "traces", 0, rollout.problem.id, 0, number))


def rollouts_of(record: Any, place: str = "the trace") -> list[Rollout]:
    """The rollouts of one episode or trace: what ``to_record()`` gives, or the object itself.

    One rollout for each branch that verifiers would train on. ``prompt_ids`` end before the first token that the model
    chose. ``facts`` hold ``score`` (the weighted sum that verifiers calls the reward; absent where a reward is), its
    parts as ``rewards``, ``metrics``, ``agent``, ``errors``, ``trace`` (its id), and, where the trace has them,
    ``ref_logp``, ``old_logp``, ``entropy`` and ``advantage``, a number for each token. Rounded to four decimals by
    verifiers when it writes files.
    """
    row: Any = record.to_record(float_decimals=None) if hasattr(record, "to_record") else record
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: no episode and no trace")
    traces = row.get("traces", [row])
    if not isinstance(traces, list):
        raise DataError(f"{place}: 'traces' is no list")
    return [one for n, trace in enumerate(traces) for one in _of_trace(trace, f"{place}, trace {n}", row)]


def _of_trace(trace: Any, place: str, episode: Json) -> list[Rollout]:
    if not isinstance(trace, Mapping) or not isinstance(trace.get("nodes", []), list):
        raise DataError(f"{place}: no trace; it has no list of 'nodes'")
    nodes = _nodes(trace.get("nodes", []), place)
    problem = _problem(trace.get("task") or episode.get("task"), place)
    facts, stop = _facts(trace, place), _stop(trace)
    found: list[Rollout] = []
    total = said = 0
    for path in _branches(nodes, place):
        own = [nodes[n] for n in path]
        total += sum(len(node["token_ids"]) for node in own)
        if total > MAX_TOKENS:
            raise DataError(f"{place}: its branches hold more than {MAX_TOKENS} tokens")
        found.append(_rollout(problem, own, facts, stop))
        said += len(found[-1].text)
        if said > MAX_TEXT:
            raise DataError(f"{place}: its branches hold more than {MAX_TEXT} characters")
    return found


def _nodes(given: Sequence[Any], place: str) -> list[dict[str, Any]]:
    """The nodes, each stream checked against its mask. A parent stands before its child, so there is no ring."""
    if len(given) > MAX_NODES:
        raise DataError(f"{place}: {len(given)} nodes; at most {MAX_NODES} are read")
    nodes: list[dict[str, Any]] = []
    for n, node in enumerate(given):
        where = f"{place}, node {n}"
        if not isinstance(node, Mapping) or not isinstance(node.get("message"), Mapping):
            raise DataError(f"{where}: no message")
        parent = node.get("parent")
        if parent is not None and (isinstance(parent, bool) or not isinstance(parent, int) or not 0 <= parent < n):
            raise DataError(f"{where}: its parent {str(parent)[:40]} is no node before it")
        ids, mask = node.get("token_ids") or [], node.get("mask") or []
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < MAX_ID for i in ids):
            raise DataError(f"{where}: 'token_ids' are no list of token numbers")
        if not isinstance(mask, list) or len(mask) != len(ids) or not all(type(m) is bool for m in mask):
            raise DataError(f"{where}: 'mask' is no true or false for each of its {len(ids)} tokens")
        kept: dict[str, Any] = {**node, "token_ids": ids, "mask": mask}
        for name in ("logprobs", *_STREAMS):
            kept[name] = _spread(node.get(name), mask, f"{where}: {name!r}", name)
        nodes.append(kept)
    return nodes


def _spread(values: Any, mask: Sequence[bool], what: str, name: str) -> list[float] | None:
    """Numbers of the chosen tokens at their places, 0.0 at the others; None where there are none."""
    if values is None or (values == [] and name == "logprobs" and not any(mask)):
        return None
    chosen = sum(mask)
    right = isinstance(values, list) and all(map(_finite, values))
    if not right or (len(values) != chosen and values):
        raise DataError(f"{what} are no finite number for each of its {chosen} sampled tokens")
    numbers = iter(values)
    return [float(next(numbers, 0.0)) if m else 0.0 for m in mask] if values else None


def _finite(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 2**53
    return isinstance(value, float) and math.isfinite(value)


def _branches(nodes: Sequence[Json], place: str) -> list[list[int]]:
    """Paths from a root to a leaf, the leaves in order. A compaction that the harness did not take up is left out."""
    inner = {node.get("parent") for node in nodes}
    links = [_links(node) for node in nodes]
    taken = (link.get("node") for own in links for link in own if link.get("type") == "compaction")
    accepted = {node for node in taken if isinstance(node, int)}
    paths: list[list[int]] = []
    steps = 0
    for leaf in range(len(nodes)):
        attempt = any(link.get("type") == "compaction_attempt" for link in links[leaf])
        if leaf in inner or (attempt and leaf not in accepted):
            continue
        path: list[int] = []
        at: int | None = leaf
        while at is not None:
            path.append(at)
            at = cast("int | None", nodes[at].get("parent"))
            steps += 1
            if steps > MAX_STEPS:
                raise DataError(f"{place}: its branches hold more than {MAX_STEPS} nodes")
        paths.append(path[::-1])
    return paths


def _links(node: Json) -> list[Json]:
    given = node.get("semantic_parents") or []
    return [link for link in given if isinstance(link, Mapping)] if isinstance(given, list) else []


def _rollout(problem: Problem, nodes: Sequence[Json], facts: Json, stop: Stop) -> Rollout:
    """One branch. The completion begins at the first token that the model chose."""
    tokens = [token for node in nodes for token in node["token_ids"]]
    mask = [chosen for node in nodes for chosen in node["mask"]]
    first = mask.index(True) if True in mask else len(mask)
    streams = {name: _joined(nodes, name)[first:] for name in _STREAMS if any(node[name] for node in nodes)}
    return Rollout(
        problem,
        tuple(tokens[:first]),
        tuple(tokens[first:]),
        tuple(_joined(nodes, "logprobs")[first:]),
        _text(nodes),
        stop,
        _turns(mask[first:]),
        facts={**facts, **{_STREAMS[name]: values for name, values in streams.items()}},
    )


def _joined(nodes: Sequence[Json], name: str) -> list[float]:
    return [value for node in nodes for value in (node[name] or [0.0] * len(node["mask"]))]


def _turns(mask: Sequence[bool]) -> tuple[Turn, ...]:
    """Runs of tokens of one author."""
    turns: list[Turn] = []
    start = 0
    for at in range(1, len(mask) + 1):
        if at == len(mask) or mask[at] != mask[start]:
            turns.append(Turn("policy" if mask[start] else "tool", start, at))
            start = at
    return tuple(turns)


def _text(nodes: Sequence[Json]) -> str:
    """What was said from the model's first message on; a thought that is kept apart stands in think marks."""
    first = next((n for n, node in enumerate(nodes) if node.get("sampled") is True), len(nodes))
    parts: list[str] = []
    for node in nodes[first:]:
        message = node["message"]
        thought = message.get("reasoning_content")
        parts += [f"<think>{thought}</think>"] if isinstance(thought, str) and thought else []
        parts.append(_content(message.get("content")))
    return "\n".join(part for part in parts if part)


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _problem(task: Any, place: str) -> Problem:
    """The problem of a trace: the one that our taskset put there, else prompt and answer of the task's data."""
    data = task.get("data") if isinstance(task, Mapping) else None
    if not isinstance(data, Mapping):
        raise DataError(f"{place}: no task with its data")
    if isinstance(data.get(RECORD), str):
        return from_record(data[RECORD], place)[1]
    given = data.get("prompt")
    if isinstance(given, list) and given and all(isinstance(m, Mapping) for m in given):
        prompt: Any = tuple({"role": str(m.get("role", "user")), "content": _content(m.get("content"))} for m in given)
    else:
        prompt = given if isinstance(given, str) else ""
    answer = next((data[key] for key in ("answer", "solution", "ground_truth") if isinstance(data.get(key), str)), None)
    ident = next((t for t in (task.get("key"), data.get("id")) if isinstance(t, str)), digest(place, prompt).hex())
    return Problem(ident, prompt, answer, {str(k): jsonable(v) for k, v in data.items() if k != "prompt"})


def _facts(trace: Json, place: str) -> dict[str, Any]:
    rewards, parts = trace.get("rewards") or {}, dict[str, float]()
    missing = not rewards
    if not isinstance(rewards, Mapping):
        raise DataError(f"{place}: 'rewards' is no object")
    for name, one in rewards.items():
        if one is None:  # it was to be judged, and was not
            missing = True
            continue
        score, weight = (one.get("score"), one.get("weight", 1.0)) if isinstance(one, Mapping) else (None, None)
        if not _finite(score) or not _finite(weight):
            raise DataError(f"{place}: the reward {str(name)[:80]!r} has no finite score and weight")
        parts[str(name)] = cast(float, score) * cast(float, weight)
    metrics = trace.get("metrics") if isinstance(trace.get("metrics"), Mapping) else {}
    agent = trace.get("agent") if isinstance(trace.get("agent"), Mapping) else {}
    errors = trace.get("errors") if isinstance(trace.get("errors"), list) else []
    facts: dict[str, Any] = {} if missing else {"score": float(sum(parts.values()))}
    facts |= {"rewards": parts, "metrics": dict(cast(Json, metrics)), "agent": cast(Json, agent).get("name", "agent")}
    facts["errors"] = [str(e.get("message"))[:500] for e in cast(list[Any], errors) if isinstance(e, Mapping)]
    return {**facts, "trace": str(trace.get("id", ""))}


def _stop(trace: Json) -> Stop:
    given = trace.get("calls")
    calls = [c for c in given if isinstance(c, Mapping) and c.get("error") is None] if isinstance(given, list) else []
    if trace.get("is_timeout") is True:
        return "deadline"
    cut = trace.get("stop_condition") in _LIMITS or (bool(calls) and calls[-1].get("finish_reason") == "length")
    return "length" if cut else "eos"
