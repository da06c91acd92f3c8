"""Plans in the form of other frameworks: exports to them, imports from them, and what a present setup would gain.

Each target is one table of rows that writes and reads a choice under the framework's own key.
"""

from .choices import Job, Target, choices_of
from .diagnose import Change, Diagnosis, diagnose
from .export import Export, Imported, export_plan, express, import_plan
from .registry import TARGETS, is_setup, named_target, target_of
from .scripts import KINDS, SUFFIXES, imported_script, is_script, script_of

__all__ = [
    "KINDS",
    "SUFFIXES",
    "TARGETS",
    "Change",
    "Diagnosis",
    "Export",
    "Imported",
    "Job",
    "Target",
    "choices_of",
    "diagnose",
    "export_plan",
    "express",
    "import_plan",
    "imported_script",
    "is_script",
    "is_setup",
    "named_target",
    "script_of",
    "target_of",
]
