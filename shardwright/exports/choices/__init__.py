"""The choices of a plan file as a flat table and back, the plan without axes that a framework lacks, and what a target is."""

from .flat import Choices, Job, assembled, canonical, choices_of, facts_of
from .folding import folded
from .target import WORKLOAD, Found, Target
from .words import in_words

__all__ = [
    "WORKLOAD",
    "Choices",
    "Found",
    "Job",
    "Target",
    "assembled",
    "canonical",
    "choices_of",
    "facts_of",
    "folded",
    "in_words",
]
