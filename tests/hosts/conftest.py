"""Tests of a host are collected where its package is installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("trl") else ["test_trl_*.py"]
