"""Random plans that each framework's file can express, and the files handed to the frameworks' own parsers and configurations.

`python -m shardwright.benchmarks.framework_files [TARGET ...]` runs the checks of the packages that are installed.
"""

from .checks import CHECKS, Checked, check_target
from .random_plans import random_plan

__all__ = ["CHECKS", "Checked", "check_target", "random_plan"]
