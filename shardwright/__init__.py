"""Plans the fastest way to train a large model on a cluster, says why, and trains with that plan on PyTorch.

    import shardwright as sw

    found = sw.plan("llama-3.1-70b", "h100-sxm:64", seq_len=8192, global_batch=512)
    print(found.summary())
    found.save("plan.json")

Training itself needs torch: `shardwright run`, or `sw.parallelize(model, "plan.json")` in a loop of your own.
"""

from typing import TYPE_CHECKING

from shardwright.lazy import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from shardwright.base import InfeasibleError, SpecError
    from shardwright.catalog import load_cluster, read_lengths
    from shardwright.catalog.huggingface import load_model
    from shardwright.costmodel import (
        PlanFile,
        check_memory,
        check_plan,
        estimate_plan,
        load_plan,
        simulate_plan,
        write_plan_file,
    )
    from shardwright.executor.own_loop import parallelize
    from shardwright.jobs import Planned, compare, estimate, plan, report, simulate
    from shardwright.planner import Fixed, OpenChoices, SearchResult, explain, search
    from shardwright.planner.questions import (
        Costs,
        FewestDevices,
        Largest,
        Packings,
        Shapes,
        costs,
        fewest_devices,
        largest_global_batch,
        largest_micro_batch,
        largest_model,
        longest_sequence,
        packings,
        shapes,
    )
    from shardwright.specs import ClusterSpec, Estimate, Measurement, Plan, Timeline, TrainingSpec, read_measurement
    from shardwright.specs.model import ModelSpec

_ROOMS = {
    "base": ["InfeasibleError", "SpecError"],
    "catalog": ["load_cluster", "read_lengths"],
    "catalog.huggingface": ["load_model"],
    "costmodel": [
        *["PlanFile", "check_memory", "check_plan", "estimate_plan", "load_plan", "simulate_plan"],
        "write_plan_file",
    ],
    "executor.own_loop": ["parallelize"],
    "jobs": ["Planned", "compare", "estimate", "plan", "report", "simulate"],
    "planner": ["Fixed", "OpenChoices", "SearchResult", "explain", "search"],
    "planner.questions": [
        *["Costs", "FewestDevices", "Largest", "Packings", "Shapes", "costs", "fewest_devices", "largest_global_batch"],
        *["largest_micro_batch", "largest_model", "longest_sequence", "packings", "shapes"],
    ],
    "specs": ["ClusterSpec", "Estimate", "Measurement", "Plan", "Timeline", "TrainingSpec", "read_measurement"],
    "specs.model": ["ModelSpec"],
}

__all__ = [
    "ClusterSpec",
    "Costs",
    "Estimate",
    "FewestDevices",
    "Fixed",
    "InfeasibleError",
    "Largest",
    "Measurement",
    "ModelSpec",
    "OpenChoices",
    "Packings",
    "Plan",
    "PlanFile",
    "Planned",
    "SearchResult",
    "Shapes",
    "SpecError",
    "Timeline",
    "TrainingSpec",
    "check_memory",
    "check_plan",
    "compare",
    "costs",
    "estimate",
    "estimate_plan",
    "explain",
    "fewest_devices",
    "largest_global_batch",
    "largest_micro_batch",
    "largest_model",
    "load_cluster",
    "load_model",
    "load_plan",
    "longest_sequence",
    "packings",
    "parallelize",
    "plan",
    "read_lengths",
    "read_measurement",
    "report",
    "search",
    "shapes",
    "simulate",
    "simulate_plan",
    "write_plan_file",
]


def __dir__() -> list[str]:
    return sorted(__all__)


# the command line's help must not wait for numpy
__getattr__ = lazy_names(__name__, {name: f".{room}" for room, names in _ROOMS.items() for name in names})
