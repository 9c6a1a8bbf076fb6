"""The proof-of-gain page, its data, the one-screen verdict, the comparison of runs, and the page of an audit."""

from truegain.report.audit_page import render_audit, write_audit
from truegain.report.audit_terminal import render_audit_terminal
from truegain.report.build import build
from truegain.report.compare import compare
from truegain.report.terminal import render_compare, render_terminal
from truegain.report.writing import write

__all__ = [
    "build",
    "compare",
    "render_audit",
    "render_audit_terminal",
    "render_compare",
    "render_terminal",
    "write",
    "write_audit",
]
