"""The page of the over-optimisation laboratory: proxy and gold against sqrt(KL), the laws, what each remedy gains."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from truegain.methods import evaluation as ev
from truegain.report.charts import Axis, Row, Series, as_number, forest, line_chart, nice_ticks, span_axis
from truegain.report.escape import escape
from truegain.report.graphs import figure
from truegain.report.sections import section, spaced

Data = Mapping[str, Any]
PLAIN = "single"
_TONES = {"single": "reward", "mean": "base", "worst case": "trained", "uncertainty": "sft", "median": "random"}
_KINDS = {"bon": "Best-of-n", "rl": "RL"}


def render_overopt(data: Data) -> str:
    """The whole document from a summary of `truegain.lab.overopt`."""
    css = files("truegain.report").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    body = "".join(part(data) for part in (_hero, _paths, _remedies, _tables, _setting))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>Over-optimisation of a learned reward</title><style>{css}</style></head>\n<body><main>{body}"
        f"{_footer(data)}</main></body></html>\n"
    )


def sentence(data: Data) -> str:
    """What happened to gold under the single reward model, in numbers, and the remedy that gained the most."""
    plain = _row(data, "rl", PLAIN)
    fell = plain["fall"]["low"] is None or plain["fall"]["low"] > 0
    best = max((row for row in data["rl_table"] if row["arm"] != PLAIN), key=lambda row: row["end_gain"]["value"])
    text = (
        f"Optimised by RL against one reward model, gold climbs to {_short(plain['peak'])} deviations of the base "
        f"policy and {'falls' if fell else 'moves'} by {_short(plain['fall'])} to {_short(plain['end'])}, while the "
        f"proxy ends at {_short(plain['proxy_end'])}. "
    )
    sure = best["end_gain"]["low"] is not None and best["end_gain"]["low"] > 0
    return text + (
        f"The most is kept by “{best['arm']}”: gold ends {_signed(best['end_gain'])} higher"
        f"{'' if sure else ', which these seeds cannot tell from nothing'}."
    )


def _hero(data: Data) -> str:
    rows = [_forest_row(row) for row in data["rl_table"] if row["arm"] != PLAIN and row["end_gain"]["low"] is not None]
    about = (
        '<p class="about">RL. Dot: gold at the end, less that of the single reward model without a penalty, in '
        "deviations of the base policy. Line: 95&nbsp;% interval over seeds, paired.</p>"
    )
    chart = forest(rows, unit=lambda v: f"{v:+.2g}" if v else "0") if rows else ""
    card = f'<div class="card"><h3>What each remedy gains</h3>{about}{chart}</div>' if chart else ""
    seeds = len(data["setting"]["seeds"])
    facts = f"<span>rubric task</span><span>{seeds} seeds</span><span>{data['setting']['members']} reward models</span>"
    icon = "M4 18 Q10 2 20 16"
    return (
        f'<header class="hero no-verdict"><p class="eyebrow"><b>over-optimisation laboratory</b>{facts}</p>'
        f'<h1><svg viewBox="0 0 24 24" aria-hidden="true"><path d="{icon}"/></svg>Proxy and truth</h1>'
        f'<p class="lede">{spaced(escape(sentence(data), limit=1200))}</p>{card}</header>'
    )


def _forest_row(row: Data) -> Row:
    gain = row["end_gain"]
    note = f"gold {_short(row['end'])}, √KL {math.sqrt(max(row['kl_end']['value'], 0.0)):.1f}"
    return Row(row["arm"], note, gain["value"], gain["low"], gain["high"], _signed(gain), _span(gain))


def _paths(data: Data) -> str:
    """Proxy and gold of the single reward model with the fitted law, for both optimisers."""
    charts = [_path_chart(data, kind) for kind in _KINDS]
    intro = (
        "One reward model, no penalty. The proxy is the reward model's score, on the scale of the base policy. The "
        "dashed line is the law of Gao et al. fitted to gold."
    )
    return section("Proxy and gold against distance", intro, f'<div class="grid">{"".join(charts)}</div>')


def _path_chart(data: Data, kind: str) -> str:
    arm = data[kind][PLAIN]
    law, text = arm["law"], "Too few points for a law."
    series = [_line(arm, "proxy", "reward"), _line(arm, "gold", "trained")]
    legend = [("reward", "Proxy"), ("trained", "Gold")]
    if law:
        fit = ev.LawFit(**{k: math.inf if v is None else v for k, v in law.items()})
        d = [max(arm["distance"]) * i / 60 for i in range(61)]
        curve = (ev.law_bon if kind == "bon" else ev.law_rl)(_array(d), fit)
        start = arm["gold"][0]["value"]
        series.append(Series("base", [(x, start + float(y)) for x, y in zip(d, curve, strict=True)], dashed=True))
        legend.append(("base dashed", "Fitted law"))
        form = "d (a − b d)" if kind == "bon" else "d (a − b log d)"
        peak = f"peak at {fit.peak:.2f}" if math.isfinite(fit.peak) else "no peak"
        found = f"a = {fit.alpha:.2f} ± {fit.alpha_se:.2f}, b = {fit.beta:.3f} ± {fit.beta_se:.3f}"
        text = f"{form}: {found}, {peak}; R² {fit.r2:.2f}."
    return _chart(_KINDS[kind], text, legend, series)


def _remedies(data: Data) -> str:
    """Gold of every remedy: aggregates without and with a KL penalty, KL against chi-squared, best-of-n."""
    rl = data["rl"]
    bare = {name: name for name in rl if name in _TONES}
    first = next((name.partition(", ")[2] for name in rl if name.startswith("mean, KL")), "")
    penalised = {name.partition(",")[0]: name for name in rl if name.endswith(f", {first}") and first}
    charts = [
        _compare("RL without a penalty", "Gold by what the five reward models are made into.", rl, bare),
        _compare(f"RL with a penalty of {first} per nat", "The same with a KL penalty in the reward.", rl, penalised),
        _strengths(rl),
        _compare(
            "Best-of-n",
            "Gold of the best of n by each aggregate.",
            data["bon"],
            {n: n for n in data["bon"] if n in _TONES},
        ),
    ]
    return section("Gold under each remedy", "", f'<div class="grid">{"".join(charts)}</div>')


def _compare(title: str, text: str, arms: Data, shown: Mapping[str, str]) -> str:
    series = [_line(arms[name], "gold", _TONES[base], band=base == PLAIN) for base, name in shown.items()]
    return _chart(title, text, [(_TONES[base], base) for base in shown], series)


def _strengths(rl: Data) -> str:
    """KL against chi-squared, each at its strengths, for the single reward model."""
    series = [_line(rl[PLAIN], "gold", "reward")]
    legend = [("reward", "no penalty")]
    for what, css in (("KL", "trained"), ("chi2", "sft")):
        found = (name for name in rl if name.startswith(f"{PLAIN}, {what}"))
        names = sorted(found, key=lambda name: float(name.rpartition(" ")[2]))
        series += [_line(rl[name], "gold", css, band=False) for name in names]
        legend.append((css, f"{what.replace('chi2', 'χ²')}: {', '.join(name.rpartition(' ')[2] for name in names)}"))
    return _chart(
        "RL, KL against χ²",
        "One reward model. Each line is a strength and ends where it comes to rest.",
        legend,
        series,
    )


def _line(arm: Data, key: str, css: str, *, band: bool = True) -> Series:
    points = [(d, row["value"]) for d, row in zip(arm["distance"], arm[key], strict=True)]
    bands = [
        (d, row["low"], row["high"])
        for d, row in zip(arm["distance"], arm[key], strict=True)
        if band and row["low"] is not None
    ]
    return Series(css, points, bands)


def _chart(title: str, text: str, legend: Sequence[tuple[str, str]], series: Sequence[Series]) -> str:
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    x = Axis(
        0.0,
        max(xs),
        [t for t in nice_ticks(0.0, max(xs)) if t <= max(xs)],
        as_number,
        "√KL from the base policy, √nats",
    )
    chart = line_chart(series, x, span_axis(ys, "", as_number), name=f"{title}: against the root of the KL divergence")
    return figure(title, text, legend, chart)


def _tables(data: Data) -> str:
    return section(
        "In numbers",
        "Means over seeds with 95 % intervals; gains are paired with the single reward model without a penalty.",
        "".join(_table(kind, data[f"{kind}_table"]) for kind in ("rl", "bon")),
    )


def _table(kind: str, rows: Sequence[Data]) -> str:
    head = (_KINDS[kind], "Gold at its peak", "Gold at the end", "Fall", "Gain at the end", "Gain at the peak")
    top = "".join(f'<th scope="col"{" class=right" if i else ""}>{escape(h)}</th>' for i, h in enumerate(head))
    body = ""
    for row in rows:
        names = ("peak", "end", "fall", "end_gain", "peak_gain")
        cells = "".join(
            f'<td class="right num">{(_signed if "gain" in n else _short)(row[n])}<small>{_span(row[n])}</small></td>'
            for n in names
        )
        body += f'<tr><th scope="row">{escape(row["arm"])}</th>{cells}</tr>'
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _setting(data: Data) -> str:
    s, f = data["setting"], data["facts"]
    text = (
        f"The truth is a rubric over {s['letters']} letters: letter k is worth v, drawn from a normal, and mentioned c "
        f"times it earns v (1 − ½^c). The base policy is a first-order table that writes {s['tokens']} letters. "
        f"{s['members']} one-layer transformers are fitted on the same {s['pairs']} pairs of its texts, of which "
        f"{100 * s['flip']:.0f} % carry the wrong label; they differ by {s['vary']}. On fresh pairs they agree with "
        f"the truth {100 * f['accuracy']['value']:.0f} % of the time. RL is REINFORCE with a leave-one-out baseline: "
        f"{s['steps']} steps of {s['samples']} texts. Best-of-n is the exact estimator over {s['pool']} texts. On the "
        f"base policy's texts the reward models' ranks correlate by {f['rank_correlation_base']['value']:.2f} and "
        f"differ by {f['difference_base']['value']:.2f} deviations; on the texts that the first rates highest, by "
        f"{f['rank_correlation_top']['value']:.2f} and {f['difference_top']['value']:.2f}."
    )
    return section("What was run", "", f"<p>{spaced(escape(text, limit=3000))}</p>")


def _footer(data: Data) -> str:
    return (
        f"<footer>Written by truegain {escape(str(data['versions'].get('truegain', '')))}. A toy in which the truth is "
        "known: it shows the mechanism, not the size of the effect at scale. This page loads nothing and runs no "
        "script.</footer>"
    )


def _row(data: Data, kind: str, arm: str) -> Data:
    return next(row for row in data[f"{kind}_table"] if row["arm"] == arm)


def _short(found: Data) -> str:
    return f"{found['value']:.2f}".replace("-", "−")


def _signed(found: Data) -> str:
    return f"{found['value']:+.2f}".replace("-", "−")


def _span(found: Data) -> str:
    if found["low"] is None:
        return "one seed"
    return f"{found['low']:.2f} to {found['high']:.2f}".replace("-", "−")


def _array(values: Sequence[float]) -> Any:
    import numpy as np

    return np.array(values, dtype=np.float64)
