"""Applies a plan to a real training run on PyTorch, checkpoints it and measures it.

The rooms import torch; this file does not.
"""

from .can_run import check_can_run
from .options import TRACE_FOLDER, Compile, RunOptions

__all__ = ["TRACE_FOLDER", "Compile", "RunOptions", "check_can_run"]
