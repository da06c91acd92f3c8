"""A job as people state it, in names, numbers and options: read into specs, planned, compared, estimated.

The commands and the functions of `import shardwright` both stand on this room.
"""

from typing import TYPE_CHECKING

from shardwright.lazy import lazy_names

from .options import AUTO, PLAN_DEFAULTS, TRAINING_DEFAULTS
from .reading import profiled, read_cluster, read_may_choose, read_training

if TYPE_CHECKING:
    from .compared import AnyPlan, best, compare, estimate, report, searches_of, simulate
    from .drawn import rivals_of, simulated_trace, write_plan_report
    from .phased import PlannedPhases, phases_of, plan_phases_job, read_given_phases
    from .planned import Planned, plan, plan_job

__all__ = [
    "AUTO",
    "PLAN_DEFAULTS",
    "TRAINING_DEFAULTS",
    "AnyPlan",
    "Planned",
    "PlannedPhases",
    "best",
    "compare",
    "estimate",
    "phases_of",
    "plan",
    "plan_job",
    "plan_phases_job",
    "profiled",
    "read_cluster",
    "read_given_phases",
    "read_may_choose",
    "read_training",
    "report",
    "rivals_of",
    "searches_of",
    "simulate",
    "simulated_trace",
    "write_plan_report",
]

# reading a cluster must not wait for the search and the reports
__getattr__ = lazy_names(
    __name__,
    {
        **{name: ".phased" for name in ("PlannedPhases", "phases_of", "plan_phases_job", "read_given_phases")},
        **{name: ".planned" for name in ("Planned", "plan", "plan_job")},
        **{
            name: ".compared"
            for name in ("AnyPlan", "best", "compare", "estimate", "report", "searches_of", "simulate")
        },
        **{name: ".drawn" for name in ("rivals_of", "simulated_trace", "write_plan_report")},
    },
)
