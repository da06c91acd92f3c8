"""The choices of a plan, each once: what the space lists, what a user may fix, what a plan says of it.

A new dimension is one row here, with its values in the planner's space and its bound.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

from .mesh import ORDERS
from .plan import CONTEXT_PARALLEL, EXPERT_DISPATCH, POLICIES, VOCABULARY, Plan
from .schedules import ScheduleName


class Choice(NamedTuple):
    """One choice.

    Attributes:
        name: as messages, options and `Fixed` name it.
        of_plan: what a plan chose; None where its layers differ.
        columns: whether it is the same for all layers, and so a column of `Candidates`.
        values: where it is a name, the names, in the order that columns number them.
        fraction: whether it is a share from 0 to 1; otherwise a number is whole.
    """

    name: str
    of_plan: Callable[[Plan], Any]
    columns: bool = True
    values: tuple[str, ...] = ()
    fraction: bool = False

    def number(self, value: Any) -> int | float:
        """A value as a column holds it."""
        if self.fraction:
            return float(value)
        return self.values.index(value) if self.values else int(value)


def _recompute(plan: Plan) -> str | None:
    policies = {run.recompute for stage in plan.stages for run in stage.layers}
    return policies.pop() if len(policies) == 1 else None


def _offloaded(plan: Plan) -> float | None:
    shares = {run.activation_offload for stage in plan.stages for run in stage.layers}
    return shares.pop() if len(shares) == 1 else None


def _axis(name: str) -> Choice:
    return Choice(name, lambda plan: getattr(plan.mesh, name))


AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp", "ep", "etp")
"""Of the mesh, outermost first; `ep` and `etp` regroup those of dp_shard, cp and tp."""

CHOICES: tuple[Choice, ...] = (
    *map(_axis, AXES),
    Choice("order", lambda plan: plan.mesh.order, values=ORDERS),
    Choice("micro_batch", lambda plan: plan.micro_batch),
    Choice("stages_per_rank", lambda plan: plan.stages_per_rank),
    Choice("zero_stage", lambda plan: plan.zero_stage),
    Choice("sequence_parallel", lambda plan: plan.sequence_parallel if plan.mesh.tp > 1 else None),
    Choice("offload_optimizer", lambda plan: plan.offload.optimizer_fraction, fraction=True),
    Choice("offload_gradients", lambda plan: plan.offload.gradient_fraction, fraction=True),
    Choice("offload_parameters", lambda plan: plan.offload.parameter_fraction, fraction=True),
    Choice("offload_nvme", lambda plan: plan.offload.nvme_fraction, fraction=True),
    Choice("delayed_update", lambda plan: plan.offload.delayed_update),
    Choice("context_parallel", lambda plan: plan.context_parallel, values=CONTEXT_PARALLEL),
    Choice("ulysses_degree", lambda plan: plan.ulysses_degree),
    Choice("expert_dispatch", lambda plan: plan.expert_dispatch, values=EXPERT_DISPATCH),
    Choice("schedule", lambda plan: plan.schedule, columns=False, values=get_args(ScheduleName)),
    Choice("vocabulary_parallel", lambda plan: plan.vocabulary_parallel, columns=False, values=VOCABULARY),
    Choice("recompute", _recompute, columns=False, values=POLICIES),
    Choice("offload_activations", _offloaded, columns=False, fraction=True),
    Choice("even_stages", lambda plan: None, columns=False),
    Choice("stages", lambda plan: plan.stages, columns=False),
    Choice("sync", lambda plan: plan.sync, columns=False),
)
COLUMNS = tuple(choice for choice in CHOICES if choice.columns)
