"""The cost of one training step: pure functions of specs, without torch.

`evaluate` joins the rooms into the estimate of one plan. `checks` says whether a plan divides and fits.
"""

from .charged import Charge, RankCharges, charged_step
from .checks import (
    MIXED_SCHEDULES,
    check_context_parallel,
    check_expert_parallel,
    check_layer_counts,
    check_memory,
    check_plan,
    check_sequence,
    check_tensor_parallel,
    check_trainable,
    lacking_bytes,
    nodes_of_ranks,
    tensor_parallel_sizes,
    ulysses_degrees,
)
from .evaluate import estimate_plan, simulate_plan
from .intervals import LEVELS, RUN_CLASSES, SAFE, RunClass, class_factors, fits_probability, reserve_for, run_class
from .layers import adapter_parameters, model_flops_per_sequence
from .mixed_ranks import MixedRanks, MixedTimes
from .pass_parts import PassPart, pass_parts
from .pipeline_layout import StageLayers, read_layout, with_layout
from .plan_file import PlanFile, read_plan_file, write_plan_file
from .prediction import EstimatePlan, Prediction, fastest, predict
from .reliability import Goodput, Reliability, goodput
from .variants import step_seconds_by_variant

__all__ = [
    "LEVELS",
    "MIXED_SCHEDULES",
    "RUN_CLASSES",
    "SAFE",
    "Charge",
    "EstimatePlan",
    "Goodput",
    "MixedRanks",
    "MixedTimes",
    "PassPart",
    "PlanFile",
    "Prediction",
    "RankCharges",
    "Reliability",
    "RunClass",
    "StageLayers",
    "adapter_parameters",
    "charged_step",
    "check_context_parallel",
    "check_expert_parallel",
    "check_layer_counts",
    "check_memory",
    "check_plan",
    "check_sequence",
    "check_tensor_parallel",
    "check_trainable",
    "class_factors",
    "estimate_plan",
    "fastest",
    "fits_probability",
    "goodput",
    "lacking_bytes",
    "model_flops_per_sequence",
    "nodes_of_ranks",
    "pass_parts",
    "predict",
    "read_layout",
    "read_plan_file",
    "reserve_for",
    "run_class",
    "simulate_plan",
    "step_seconds_by_variant",
    "tensor_parallel_sizes",
    "ulysses_degrees",
    "with_layout",
    "write_plan_file",
]
