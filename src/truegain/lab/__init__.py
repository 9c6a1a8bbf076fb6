"""Synthetic settings in which the truth is known: what optimising a learned proxy does to it."""
