"""The sections of the page, each from the report's data to HTML. Every text goes through `escape`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from truegain.report import graphs
from truegain.report.escape import escape
from truegain.report.frontier_chart import frontier_chart
from truegain.report.verdict import points, span

Data = Mapping[str, Any]
_MAX_SETTINGS = 300


def section(title: str, intro: str, body: str) -> str:
    """A titled section; nothing when the body is empty."""
    if not body:
        return ""
    lead = f'<p class="intro">{escape(intro, limit=1000)}</p>' if intro else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{body}</section>"


def keep_in_mind(data: Data) -> str:
    """Remarks found in the numbers."""
    items = "".join(f"<li>{spaced(escape(text))}</li>" for text in data["remarks"])
    return section("What to keep in mind", "", f'<ul class="notes">{items}</ul>' if items else "")


def spaced(html_text: str) -> str:
    """Keep a number and its per cent sign on one line."""
    return html_text.replace(" %", "&nbsp;%")


def models(data: Data) -> str:
    """The table of arms, and pass@k beside it."""
    rows = "".join(_arm_row(arm, row) for arm, row in data["arms"].items())
    if not rows:
        return ""
    head = "".join(
        f'<th scope="col"{css}>{text}</th>'
        for text, css in (
            ("Model", ""),
            ("Temperature", ' class="right"'),
            ("Right at that temperature", ' class="right"'),
            ("Right at temperature 1", ' class="right"'),
            ("Trained is ahead by", ' class="right"'),
            ("Tokens", ' class="right"'),
        )
    )
    table = f'<table class="arms"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    note = (
        '<p class="fine">Intervals are 95 % and count problems, not samples. The temperature is the lowest whose dev '
        "accuracy is within one standard error of the best; the same rule serves every model.</p>"
    )
    return section(
        "The models compared",
        "Every model answered the same problems, none of which it was trained on or tuned on.",
        f"{table}{spaced(note)}",
    )


def _arm_row(arm: str, row: Data) -> str:
    heats = sorted({t for t in row["temperatures"] if t is not None})
    heat = " or ".join("0 (greedy)" if t == 0 else f"{t:g}" for t in heats) or "–"
    ahead = row["trained_minus"]
    cells = [
        ("Temperature", heat, ""),
        ("At that temperature", *_rate(row["best"])),
        ("At temperature 1", *_rate(row["t1"])),
        ("Trained is ahead by", *_difference(ahead)),
        ("Tokens", "–" if row["tokens"] is None else f"{row['tokens']:.0f}", ""),
    ]
    tds = "".join(
        f'<td class="right{"" if main != "–" else " none"}" data-label="{name}"><span>{main}'
        f"{f'<small>{small}</small>' if small else ''}</span></td>"
        for name, main, small in cells
    )
    name = f'<span class="swatch {graphs.tone(arm)}"></span>{escape(row["label"])}<small>{escape(row["note"])}</small>'
    return f'<tr><th scope="row">{name}</th>{tds}</tr>'


def _rate(interval: Data | None) -> tuple[str, str]:
    if not interval or interval["mean"] is None:
        return "–", ""
    small = "" if interval["low"] is None else f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f}"
    return f"{100 * interval['mean']:.1f}&nbsp;%", small


def _difference(interval: Data | None) -> tuple[str, str]:
    if not interval or interval["mean"] is None:
        return "–", ""
    small = "" if interval["low"] is None else escape(span(interval))
    return escape(points(interval["mean"])), small


def reach(data: Data) -> str:
    """pass@k, length and calibration."""
    charts = [
        graphs.pass_chart(data) if data["pass_at_k"] else "",
        graphs.length_chart(data) if data["length_matched"] else "",
        frontier_chart(data) if data.get("frontier") else "",
        graphs.calibration_chart(data) if data["calibration"] else "",
    ]
    found = "".join(charts)
    return section(
        "What kind of gain",
        "More right answers can come from new ability, from a sharper choice among answers the base already had, or "
        "from longer answers. These figures tell them apart.",
        f'<div class="grid">{found}</div>' if found else "",
    )


def training(data: Data) -> str:
    """The curves."""
    charts = "".join(graphs.training_charts(data))
    runs = len(data["curves"]["evals"])
    bands = (
        f"Faint lines are the {runs} runs, the strong line their mean, bands 95 % over runs."
        if runs > 1
        else "Bands are 95 % over problems."
    )
    return section("How training went", bands, f'<div class="grid">{charts}</div>' if charts else "")


def examples(data: Data) -> str:
    """Problems won and lost, before and after side by side."""
    found = data["examples"]
    if not found:
        return ""
    counts = found["counts"]
    body = ""
    for key, title in (("won", "Won"), ("lost", "Lost")):
        cards = "".join(_example(pair) for pair in found[key])
        body += f'<h3 class="kind">{title}: {counts[key]} problems</h3>' + (cards or '<p class="fine">None.</p>')
    return section(
        "Examples",
        f"Of the test problems the trained model did better on {counts['won']}, worse on {counts['lost']} and the same "
        f"on {counts['same']}. Shown are the clearest of each kind, not typical ones.",
        body,
    )


def _example(pair: Data) -> str:
    sides = "".join(_side(name, pair[arm]) for name, arm in (("Before", "base"), ("After", "trained")))
    return (
        f'<article class="card example"><header><small>{escape(pair["problem"])}</small>'
        f'<pre tabindex="0">{escape(pair["prompt"], limit=700)}</pre>'
        f"<small>Right answer: <bdi>{escape(pair['answer'])}</bdi></small></header>"
        f'<div class="sides">{sides}</div></article>'
    )


def _side(name: str, sample: Data) -> str:
    good = (sample["gold"] or 0.0) > 0.5
    mark = '<span class="mark right">✓ right</span>' if good else '<span class="mark wrong">✗ wrong</span>'
    final = "no answer found" if sample["final"] is None else f"answer <bdi>{escape(sample['final'])}</bdi>"
    often = f"right in {100 * sample['rate']:.0f} % of {sample['samples']}" if sample["samples"] > 1 else ""
    facts = " · ".join(
        [t for t in (final, f"{sample['tokens']} tokens", f"temperature {sample['temperature']:g}", often) if t]
    )
    cut = " (cut off)" if sample["stop"] == "length" else ""
    return (
        f'<div class="side"><h4>{name} {mark} <small>{spaced(facts)}{cut}</small></h4>'
        f'<pre tabindex="0">{escape(sample["text"], limit=700)}</pre></div>'
    )


_LEDGER_NAMES = {
    "steps": "Training steps",
    "seconds": "Seconds of training",
    "sampled": "Tokens sampled",
    "resampled": "Tokens resampled",
    "probed": "Tokens probed",
    "scored": "Tokens scored",
    "trained": "Tokens trained on",
    "flops": "Floating-point operations",
}


def compute(data: Data) -> str:
    """The compute ledger."""
    total, runs = data["ledger"]["total"], len(data["ledger"]["runs"])
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td class="right">{amount(total[key])}</td></tr>'
        for key, name in _LEDGER_NAMES.items()
        if total.get(key)
    )
    where = f"All {runs} runs together. " if runs > 1 else ""
    body = f'<table class="ledger"><tbody>{rows}</tbody></table>' if rows else ""
    return section("What training cost", where + "Controls and tests come on top.", body)


def amount(value: float) -> str:
    """``276,000``, or ``1.4 × 10¹²`` from a billion on."""
    if value < 1e9:
        return f"{value:,.0f}"
    digits, power = f"{value:.2e}".split("e")
    return f"{digits} × 10{str(int(power)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def recipe(data: Data) -> str:
    """The rule, the command, the settings, the versions."""
    run = data["run"]
    rule = f"{spaced(escape(data['rule'], limit=2000))} Interval: {escape(data['gain'].get('method', 'none yet'))}."
    body = (
        f'<h3 class="kind">Command</h3><pre tabindex="0">{escape(run["command"], limit=2200)}</pre>'
        + _fold("How the verdict is reached", f'<p class="fine">{rule}{_checks(data)}</p>')
        + _fold("Settings", _listed(run["settings"]))
        + _fold("Versions", _listed(run["versions"]))
    )
    return section("How it was made", "", body)


def _fold(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>{body}</details>"


def _listed(nested: Any) -> str:
    """Nested settings as a list of dotted names and values, bounded."""
    items = _flatten(nested) or [("none recorded", "")]
    shown = "".join(f"<dt>{escape(k, limit=200)}</dt><dd>{escape(v)}</dd>" for k, v in items[:_MAX_SETTINGS])
    if len(items) > _MAX_SETTINGS:
        shown += f"<dt>…</dt><dd>{len(items) - _MAX_SETTINGS} more in settings.json</dd>"
    return f'<dl class="settings">{shown}</dl>'


def _checks(data: Data) -> str:
    boot, p = data["gain"].get("bootstrap"), data["gain"].get("sign_flip_p")
    if not boot or p is None or boot["low"] is None:
        return ""
    return f" Beside it, a BCa bootstrap over problems gives {escape(span(boot))}, a sign-flip test p = {p:.2g}."


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and texts."""
    if isinstance(value, Mapping) and value:
        return [pair for k, v in value.items() for pair in _flatten(v, f"{prefix}.{k}" if prefix else str(k))]
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = ", ".join(map(str, value))
    return [(prefix, str(value))] if prefix else []
