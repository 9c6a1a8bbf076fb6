"""The page: one self-contained HTML file without scripts that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from truegain.report import graphs, sections
from truegain.report.escape import escape
from truegain.report.verdict import LOSS, NONE, REAL, SHARPER

_HEADLINES = {
    REAL: ("A real gain", "M4 17 L10 11 L13.5 14.5 L20 7 M15 6.5 H20.5 V12"),
    SHARPER: ("Sharpening only", "M4 20 L12 4 L20 20 M12 4 V13"),
    NONE: ("No gain", "M4 12 H20"),
    LOSS: ("A loss", "M4 7 L10 13 L13.5 9.5 L20 17 M15 17.5 H20.5 V12"),
    None: ("No verdict yet", "M12 4 V13 M12 18.5 V19"),
}


def render_page(data: Mapping[str, Any]) -> str:
    """The whole document from `truegain.report.build`'s data."""
    body = "".join(
        part(data)
        for part in (
            _hero,
            sections.keep_in_mind,
            sections.models,
            sections.reach,
            sections.examples,
            sections.training,
            sections.compute,
            sections.recipe,
        )
    )
    title = f"{_HEADLINES[data['verdict']][0]}: {data['run']['recipe']} on {data['run']['task']}"
    return document(title, f"{body}{_footer(data)}")


def document(title: str, body: str) -> str:
    """A self-contained page without scripts around a body that is HTML; the title is plain text."""
    css = files("truegain.report").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{css}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def _hero(data: Mapping[str, Any]) -> str:
    """Verdict, sentence and the chart of differences."""
    run = data["run"]
    title, icon = _HEADLINES[data["verdict"]]
    css = (data["verdict"] or "no verdict").replace(" ", "-")
    known = [str(s) for s in run["seeds"] if s is not None]
    seeds = f"seed{'s' if len(known) > 1 else ''} {', '.join(known)}" if known else ""
    facts = "".join(f"<span>{escape(t)}</span>" for t in (run["task"], f"model {run['model']}", seeds) if t)
    chart = graphs.difference_chart(data)
    card = (
        '<div class="card"><h3>Trained minus base, in percentage points</h3><p class="about">Dot: the difference. '
        "Thick line: 95&nbsp;% interval. Thin line: the 99&nbsp;% interval that decides. Right of zero is better.</p>"
        f"{chart}</div>"
    )
    return (
        f'<header class="hero {css}"><p class="eyebrow"><b>{escape(run["recipe"])}</b>{facts}</p>'
        f'<h1><svg viewBox="0 0 24 24" aria-hidden="true"><path d="{icon}"/></svg>{title}</h1>'
        f'<p class="lede">{sections.spaced(escape(data["sentence"], limit=1200))}</p>{card if chart else ""}</header>'
    )


def _footer(data: Mapping[str, Any]) -> str:
    version = data["run"]["versions"].get("truegain") if isinstance(data["run"]["versions"], Mapping) else None
    by = f"Written by truegain {escape(version)}" if version else "Written by truegain"
    return (
        f"<footer>{by} from the run folder “{escape(data['run']['name'])}”. An audit, not an oracle: it speaks of "
        "these problems, this checker and these runs. This page loads nothing and runs no script.</footer>"
    )
