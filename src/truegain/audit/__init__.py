"""Is a reward fit to be optimised? Probes, checks and verdicts, before any training."""

from truegain.audit.evidence import Evidence, Second, read_evidence
from truegain.audit.references import problems_of
from truegain.audit.run import Plan, Progress, audit
from truegain.audit.subject import Said, Subject
from truegain.audit.verdicts import Rules

__all__ = [
    "Evidence",
    "Plan",
    "Progress",
    "Rules",
    "Said",
    "Second",
    "Subject",
    "audit",
    "problems_of",
    "read_evidence",
]
