"""The answer to a question about many jobs, as a table and as a page."""

from .answer import Answer, answer_table, write_answer_report
from .curve import Curve

__all__ = ["Answer", "Curve", "answer_table", "write_answer_report"]
