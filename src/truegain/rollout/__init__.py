"""Engines, and the way from problems to rollouts to columns."""
