"""Answers of the planner's questions in words, as rows and as plain data for programs."""

from .devices import cost_answer, deadline_answer
from .packings import packing_answer, packing_json
from .plain import case_json, time_json
from .sizes import batch_answer, model_answer, sequence_answer, shape_answer

__all__ = [
    "batch_answer",
    "case_json",
    "cost_answer",
    "deadline_answer",
    "model_answer",
    "packing_answer",
    "packing_json",
    "sequence_answer",
    "shape_answer",
    "time_json",
]
