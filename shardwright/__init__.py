"""Plans the fastest way to train a large model on a cluster, says why, and trains with that plan on PyTorch.

    import shardwright as sw

    model = sw.load_model("llama-3.1-70b")
    cluster = sw.load_cluster("h100-sxm:64")
    training = sw.TrainingSpec(seq_len=8192, global_batch=512)
    found = sw.search(model, cluster, training)
    print(found.estimate.step_seconds, *sw.explain(found, model, cluster, training), sep="\\n")

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
    "SearchResult",
    "Shapes",
    "SpecError",
    "Timeline",
    "TrainingSpec",
    "check_memory",
    "check_plan",
    "costs",
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
    "read_lengths",
    "read_measurement",
    "search",
    "shapes",
    "simulate_plan",
    "write_plan_file",
]


def __dir__() -> list[str]:
    return sorted(__all__)


# the command line's help must not wait for numpy
__getattr__ = lazy_names(__name__, {name: f".{room}" for room, names in _ROOMS.items() for name in names})
