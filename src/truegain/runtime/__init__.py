"""Worker processes and deadlines: a result, or an abstention with its reason."""

from truegain.runtime.workers import Result, Workers

__all__ = ["Result", "Workers"]
