"""Worker processes, deadlines, the sandbox: a result, or an abstention with its reason."""

from truegain.runtime.box import Limits, Ran
from truegain.runtime.sandbox import Check, Program, Sandbox, Verdict
from truegain.runtime.workers import Result, Workers

__all__ = ["Check", "Limits", "Program", "Ran", "Result", "Sandbox", "Verdict", "Workers"]
