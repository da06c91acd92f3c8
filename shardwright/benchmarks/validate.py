"""Predictions held against a table of measured runs, row by row, none left out."""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from shardwright.costmodel.cluster import ClusterSpec
from shardwright.costmodel.errors import InfeasibleError, SpecError
from shardwright.costmodel.estimate import Estimate
from shardwright.costmodel.model import ModelSpec
from shardwright.costmodel.plan import Plan
from shardwright.costmodel.spec import Spec
from shardwright.costmodel.training import TrainingSpec

from .accuracy import (
    ErrorSummary,
    RankAgreement,
    Trial,
    constant_efficiency_errors,
    rank_agreement,
    summarise_errors,
)
from .metrics import Metric, metric_of_row
from .row_cluster import StandardNode
from .row_setup import RowSetup, setup_of_row
from .skipped_row import SkippedRowError
from .table import TableRow, read_table
