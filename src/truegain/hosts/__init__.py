"""Thin shells that run our components inside other trainers: TRL, verl, verifiers."""
