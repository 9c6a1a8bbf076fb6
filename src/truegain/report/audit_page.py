"""The page of an audit: one self-contained HTML file without scripts that loads nothing. Every text is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truegain.report.audit_words import MARKS, TITLES, interval, limits, ordered, score
from truegain.report.charts import Axis, Series, as_percent, line_chart
from truegain.report.escape import escape
from truegain.report.page import document
from truegain.report.sections import section, spaced
from truegain.report.writing import replace_file

Data = Mapping[str, Any]
_ICONS = {
    "fit": "M4 13 L10 19 L20 6",
    "unfit": "M5 5 L19 19 M19 5 L5 19",
    "cannot tell": "M12 4 V13 M12 18.5 V19",
}
MAX_EXAMPLES = 12


def write_audit(path: Path, data: Data) -> Path:
    """Write the page and, beside it, the data as JSON. Raises RunError when that fails."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    replace_file(path.with_suffix(".json"), text)
    return replace_file(path, render_audit(data))


def render_audit(data: Data) -> str:
    """The whole document from what `truegain.audit.audit` returned."""
    body = "".join(part(data) for part in (_hero, _checks, _best_of_n, _examples, _rules))
    title = f"{TITLES[data['verdict']]}: {data['subject']['name']}"
    foot = (
        "An audit, not an oracle: it speaks of these problems and these attempts, and a policy may find others. This "
        "page loads nothing and runs no script."
    )
    return document(title, f"{body}<footer>{escape(foot)}</footer>")


def _hero(data: Data) -> str:
    subject, verdict = data["subject"], data["verdict"]
    facts = [
        f"{data['problems']} problems of {data['task']}",
        f"{data['completions']:,} completions",
        f"answers as {data['form']}",
        f"seed {data['seed']}",
    ]
    spans = "".join(f"<span>{escape(fact)}</span>" for fact in facts)
    notes = "".join(f"<li>{spaced(escape(note))}</li>" for note in data["notes"])
    notes = f'<ul class="notes">{notes}</ul>' if notes else ""
    return (
        f'<header class="hero {verdict.replace(" ", "-")}"><p class="eyebrow"><b>{escape(subject["name"])}</b>{spans}'
        f'</p><h1><svg viewBox="0 0 24 24" aria-hidden="true"><path d="{_ICONS[verdict]}"/></svg>'
        f'{escape(TITLES[verdict])}</h1><p class="lede">{spaced(escape(data["sentence"], limit=1200))}</p>'
        f"{notes}</header>"
    )


def _checks(data: Data) -> str:
    rows = "".join(_row(one) for one in ordered(data["checks"]))
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Check", "Verdict", "Worst case", "What was found"))
    table = f'<table class="checks"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    intro = (
        "A check asks many ways to be paid for nothing, each of them on every problem. A policy needs only one, so the "
        "worst way decides. The interval is Wilson's, 95 %."
    )
    return section("The checks", intro, table)


def _row(one: Data) -> str:
    rate, verdict = one["rate"], one["verdict"]
    css = verdict.replace(" ", "-")
    more = "".join(
        f"<small>{escape(way['strategy'], limit=120)}: {way['count']} of {way['of']}</small>"
        for way in one["strategies"][1:]
        if "count" in way
    )
    figure, small = interval(rate)
    return (
        f'<tr><th scope="row">{escape(one["title"])}</th>'
        f'<td class="{css}"><span class="verdict">{MARKS[verdict]}&nbsp;{escape(verdict)}</span></td>'
        f'<td class="num" data-label="Worst case">{spaced(escape(figure))}<small>{spaced(escape(small))}</small></td>'
        f"<td>{spaced(escape(one['said'], limit=500))}{more}</td></tr>"
    )


def _best_of_n(data: Data) -> str:
    curve = data["best_of_n"]
    if curve is None:
        return ""
    ns = curve["n"]
    x = Axis(ns[0], ns[-1], ns, lambda n: f"{n:g}", "n, completions to choose from", scale=_log)
    low = min(0.0, *(e["value"] for e in curve["proxy"]))
    high = max(1.0, *(e["value"] for e in curve["proxy"]))
    y = Axis(low, high, [low + (high - low) * k / 4 for k in range(5)], as_percent, "")
    lines = [
        Series(
            tone,
            [(n, e["value"]) for n, e in zip(ns, curve[key], strict=True)],
            band=[(n, max(low, e["low"]), min(high, e["high"])) for n, e in zip(ns, curve[key], strict=True)],
            dots=True,
            dashed=key == "proxy",
        )
        for key, tone in (("proxy", "reward"), ("gold", "trained"))
    ]
    legend = (
        '<ul class="legend"><li class="trained">Right by the second opinion</li>'
        '<li class="reward dashed">The reward itself, on the scale from wrong to right</li></ul>'
    )
    turned = (
        f"Gold turns at n = {curve['turns']}: a policy that is pushed further gets worse."
        if curve["turns"]
        else f"Gold does not turn up to n = {ns[-1]}."
    )
    told = (
        f"{turned} Of each problem's completions ({escape(curve['source'])}), the one that the reward likes best among "
        f"n; the mean over all subsets of n, over {curve['problems']} problems, with 95 % intervals."
    )
    chart = line_chart(lines, x, y, name=turned)
    return section("The best of n by this reward", told, f'<div class="card">{chart}{legend}</div>')


def _log(n: float) -> float:
    import math

    return math.log2(n)


def _examples(data: Data) -> str:
    rows = [one for one in ordered(data["checks"]) if one["worst"]]
    cards = "".join(_card(one) for one in rows[:MAX_EXAMPLES])
    return section(
        "The worst counterexamples", "One for each check that found any, as it was put to the reward.", cards
    )


def _card(one: Data) -> str:
    worst = one["worst"]
    right = (
        ""
        if worst["answer"] is None
        else f"<small>Right answer: <bdi>{escape(worst['answer'], limit=300)}</bdi></small>"
    )
    why = f"<small>{escape(worst['why'], limit=300)}</small>" if worst["why"] else ""
    cut = f" of {worst['length']:,}" if worst["length"] > len(worst["completion"]) else ""
    return (
        f'<article class="card example"><header><small>{escape(one["title"])} · '
        f"{escape(worst['strategy'], limit=160)}</small>"
        f'<pre tabindex="0">{escape(worst["prompt"], limit=700)}</pre>{right}</header>'
        f'<div class="side"><h4>Completion <small>score {escape(score(worst["score"]))}, '
        f"{min(worst['length'], 700):,}{cut} characters</small></h4>"
        f'<pre tabindex="0">{escape(worst["completion"], limit=700)}</pre>{why}</div></article>'
    )


def _rules(data: Data) -> str:
    items = "".join(f"<li>{spaced(escape(text, limit=400))}</li>" for text in limits(data))
    return section("How it is judged", "", f'<ul class="notes">{items}</ul>')
