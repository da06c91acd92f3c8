"""Cases as plain data for `json.dumps`."""

from typing import Any

from shardwright.planner.questions import Case, TokenTime


def case_json(case: Case) -> dict[str, Any]:
    """The job, the plan and the main figures of a case, in SI units."""
    estimate = case.estimate
    return {
        "value": case.value,
        "model": {
            "name": case.model.name,
            "parameters": case.model.parameter_count,
            "active_parameters": case.model.active_parameter_count,
            "layers": case.model.layer_count,
            "hidden_size": case.model.hidden_size,
        },
        "devices": case.cluster.devices,
        "training": case.training.model_dump(mode="json"),
        "plan": case.plan.model_dump(mode="json"),
        "step_seconds": estimate.step_seconds,
        "step_seconds_intervals": [each.model_dump(mode="json") for each in estimate.step_seconds_intervals],
        "tokens_per_s": estimate.tokens_per_s,
        "mfu": estimate.mfu,
        "peak_memory_bytes": estimate.peak_memory_bytes,
    }


def time_json(case: Case, time: TokenTime) -> dict[str, Any]:
    """A case with what it takes for a number of tokens."""
    return {**case_json(case), **time._asdict()}
