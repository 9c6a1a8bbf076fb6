"""The proof-of-gain page, its data, the one-screen verdict and the comparison of runs."""

from truegain.report.build import build
from truegain.report.writing import write

__all__ = ["build", "write"]
