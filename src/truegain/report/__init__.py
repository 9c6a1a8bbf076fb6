"""The proof-of-gain page, its data, the one-screen verdict and the comparison of runs."""

from truegain.report.build import build
from truegain.report.compare import compare
from truegain.report.terminal import render_compare, render_terminal
from truegain.report.writing import write

__all__ = ["build", "compare", "render_compare", "render_terminal", "write"]
