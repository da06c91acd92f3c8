"""The answer to a question about many jobs, as a table and as a figure."""

from .answer import Answer, answer_table
from .curve import Curve, write_curve

__all__ = ["Answer", "Curve", "answer_table", "write_curve"]
