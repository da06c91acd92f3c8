"""Plans the fastest way to train a large model on a cluster, says why, and trains with that plan on PyTorch.

    import shardwright as sw

    model = sw.load_model("llama-3.1-70b")
    cluster = sw.load_cluster("h100-sxm:64")
    training = sw.TrainingSpec(seq_len=8192, global_batch=512)
    found = sw.search(model, cluster, training)
    print(found.estimate.step_seconds, *sw.explain(found, model, cluster, training), sep="\\n")

Training itself needs torch: `shardwright.executor.run.launch.launch`, or `shardwright run`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardwright.costmodel import (
        ClusterSpec,
        Estimate,
        InfeasibleError,
        Measurement,
        ModelSpec,
        Plan,
        PlanFile,
        SpecError,
        Timeline,
        TrainingSpec,
        check_memory,
        check_plan,
        estimate_plan,
        load_cluster,
        load_model,
        read_measurement,
        read_plan_file,
        simulate_plan,
        write_plan_file,
    )
    from shardwright.planner import Fixed, SearchResult, search
    from shardwright.planner.why import explain

__all__ = [
    "ClusterSpec",
    "Estimate",
    "Fixed",
    "InfeasibleError",
    "Measurement",
    "ModelSpec",
    "Plan",
    "PlanFile",
    "SearchResult",
    "SpecError",
    "Timeline",
    "TrainingSpec",
    "check_memory",
    "check_plan",
    "estimate_plan",
    "explain",
    "load_cluster",
    "load_model",
    "read_measurement",
    "read_plan_file",
    "search",
    "simulate_plan",
    "write_plan_file",
]


def __getattr__(name: str) -> Any:
    """Names load when first used (PEP 562): the command line's help must not wait for numpy."""
    if name not in __all__:
        raise AttributeError(f"module 'shardwright' has no attribute '{name}'")
    package = "planner" if name in {"Fixed", "SearchResult", "explain", "search"} else "costmodel"
    return getattr(import_module(f"shardwright.{package}"), name)
