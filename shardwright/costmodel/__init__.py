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
    check_sequence_chunks,
    check_tensor_parallel,
    check_trainable,
    lacking_bytes,
    loses_errors,
    nodes_of_ranks,
    tensor_parallel_sizes,
    ulysses_degrees,
    why_not_agree,
)
from .evaluate import EstimatePlan, Prediction, estimate_plan, fastest, predict, simulate_plan
from .intervals import LEVELS, RUN_CLASSES, SAFE, RunClass, class_factors, fits_probability, run_class, safe_reserve
from .layers import HASH_COORDINATES, HASHES, adapter_parameters, model_flops_per_sequence
from .mixed_ranks import MixedRanks, MixedTimes
from .optimizers import can_update, check_optimizer, off_device, why_not_updated
from .pass_parts import PassPart, pass_parts
from .pipeline_layout import StageLayers, read_layout, with_layout
from .plan_file import PHASES_KIND, PlanFile, load_plan, phase_of, read_plan_file, write_plan_file
from .plan_summary import (
    document_words,
    in_groups,
    job_title,
    labelled_text,
    parameter_words,
    part_words,
    piece_words,
    schedule_words,
    summary_lines,
)
from .reliability import Goodput, Reliability, goodput
from .variants import step_seconds_by_variant

__all__ = [
    "HASHES",
    "HASH_COORDINATES",
    "LEVELS",
    "MIXED_SCHEDULES",
    "PHASES_KIND",
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
    "can_update",
    "charged_step",
    "check_context_parallel",
    "check_expert_parallel",
    "check_layer_counts",
    "check_memory",
    "check_optimizer",
    "check_plan",
    "check_sequence",
    "check_sequence_chunks",
    "check_tensor_parallel",
    "check_trainable",
    "class_factors",
    "document_words",
    "estimate_plan",
    "fastest",
    "fits_probability",
    "goodput",
    "in_groups",
    "job_title",
    "labelled_text",
    "lacking_bytes",
    "load_plan",
    "loses_errors",
    "model_flops_per_sequence",
    "nodes_of_ranks",
    "off_device",
    "parameter_words",
    "part_words",
    "pass_parts",
    "phase_of",
    "piece_words",
    "predict",
    "read_layout",
    "read_plan_file",
    "run_class",
    "safe_reserve",
    "schedule_words",
    "simulate_plan",
    "step_seconds_by_variant",
    "summary_lines",
    "tensor_parallel_sizes",
    "ulysses_degrees",
    "why_not_agree",
    "why_not_updated",
    "with_layout",
    "write_plan_file",
]
