"""A profile, or the difference of two, in words, tables, figures and on one page."""

from .diff import compare_profiles
from .diff_table import diff_tables
from .report import profile_json, write_profile_report
from .tables import profile_tables, summary_table

__all__ = [
    "compare_profiles",
    "diff_tables",
    "profile_json",
    "profile_tables",
    "summary_table",
    "write_profile_report",
]
