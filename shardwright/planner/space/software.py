"""What the training software can run, as a bound on what a search may fix and choose.

The rest of the space follows `Stack.runs` where a choice is open. A whole plan that is given may be priced on any software.
"""

from shardwright.base import SpecError, listed
from shardwright.specs import TrainingSpec

from .fixed import Fixed


def kept_by(fixed: Fixed, training: TrainingSpec) -> Fixed:
    """Return `fixed` with even stages, where the software has no others and no stages are given."""
    if fixed.even_stages is None and fixed.stages is None and not training.software.runs.uneven_stages:
        return fixed.but(even_stages=True)
    return fixed


def check_runs(training: TrainingSpec, fixed: Fixed) -> None:
    """Refuse fixed choices that the software cannot run.

    Raises:
        SpecError: names the choice and what the software runs.
    """
    runs, stack = training.software.runs, training.stack
    asked: list[tuple[str, object, tuple[object, ...]]] = [
        ("order", fixed.order, runs.orders),
        ("schedule", fixed.schedule, (*runs.schedules, *(() if runs.schedules else ("1f1b",)))),
        ("zero_stage", fixed.zero_stage, runs.zero_stages),
        ("offload_optimizer", fixed.offload_optimizer, (0, 1) if runs.offload_optimizer else (0,)),
        ("context_parallel", fixed.context_parallel, runs.context_parallel),
        ("expert_dispatch", fixed.expert_dispatch, runs.expert_dispatch),
        ("even_stages", fixed.even_stages, (True, False) if runs.uneven_stages else (True,)),
    ]
    limited = {
        "pp": runs.schedules,
        "tp": runs.tensor_parallel,
        "cp": runs.context_parallel,
        "ep": runs.expert_dispatch,
    }
    asked += [(axis, getattr(fixed, axis), (1,)) for axis, allowed in limited.items() if not allowed]
    for name, value, allowed in asked:
        if value is not None and value not in allowed:
            only = f"only {listed(allowed)}; choose that" if allowed else "nor any other; leave it out"
            raise SpecError(f"stack '{stack}' does not run {name} {value}, {only}, or choose another --stack")
