"""The cost of one training step: pure functions of specs, without torch.

`evaluate` joins the rooms into the estimate of one plan. `checks` says whether a plan divides and fits.
"""

from .checks import (
    check_context_parallel,
    check_expert_parallel,
    check_memory,
    check_plan,
    check_sequence,
    check_tensor_parallel,
    lacking_bytes,
    tensor_parallel_sizes,
)
from .evaluate import estimate_plan, is_unsettled, simulate_plan
from .plan_file import PlanFile, read_plan_file, write_plan_file
from .prediction import EstimatePlan, Prediction, fastest, predict
from .reliability import Goodput, Reliability, goodput
from .variants import step_seconds_by_variant

__all__ = [
    "EstimatePlan",
    "Goodput",
    "PlanFile",
    "Prediction",
    "Reliability",
    "check_context_parallel",
    "check_expert_parallel",
    "check_memory",
    "check_plan",
    "check_sequence",
    "check_tensor_parallel",
    "estimate_plan",
    "fastest",
    "goodput",
    "is_unsettled",
    "lacking_bytes",
    "predict",
    "read_plan_file",
    "simulate_plan",
    "step_seconds_by_variant",
    "tensor_parallel_sizes",
    "write_plan_file",
]
