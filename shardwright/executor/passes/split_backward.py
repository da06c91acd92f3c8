"""Schedules whose backward passes are split into input and weight gradients: which of them can run, and how."""

from typing import Any

from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _Action, _PipelineScheduleRuntime

from shardwright.base import SpecError
from shardwright.costmodel.pipeline import make_schedule
from shardwright.specs import Plan, splits_backward

from .loss import TokenLoss


def check_split_backward(plan: Plan, *, tied: bool) -> None:
    """Refuse choices with which a split backward does not run. `tied`: embedding and head share their weights.

    torch computes the gradients of weights outside the backward hooks in which FSDP reduces. They are reduced
    explicitly once a step, as under ZeRO-1. A recomputed layer would be computed again for every weight.

    Raises:
        SpecError: one line that names what to change.
    """
    if not splits_backward(plan.schedule) or plan.mesh.pp == 1:
        return
    runs = [run for stage in plan.stages for run in stage.layers]
    if plan.zero_stage > 1:
        raise SpecError(
            f"{plan.schedule} reduces gradients once a step, which is ZeRO 0 or 1, and the plan has zero_stage {plan.zero_stage}; set 1, or plan with 1f1b"
        )
    if again := next((run.recompute for run in runs if run.recompute != "none"), None):
        raise SpecError(
            f"{plan.schedule} does not run with recompute '{again}': each weight's gradient would compute the layer again; set 'none', or plan with 1f1b"
        )
    if tied and plan.stage_ranks[0] == plan.stage_ranks[-1]:
        raise SpecError(
            f"{plan.schedule} puts the first and the last stage on one rank, which does not run with tied embeddings; plan with zb-h1 or interleaved-1f1b"
        )


class SplitBackwardSchedule(_PipelineScheduleRuntime):
    """torch's pipeline runtime over the orders of `make_schedule`, which the cost model simulates.

    The stages are torch's own and their modules are FSDP modules. The runtime therefore gathers parameters before the
    first forward, and reduces gradients after the last weight gradient.
    """

    def __init__(self, plan: Plan, stages: list[PipelineStage], loss: TokenLoss, **options: Any) -> None:
        super().__init__(stages, plan.microbatches, loss_fn=loss, **options)  # type: ignore[no-untyped-call]  # torch's
        schedule = make_schedule(plan.schedule, plan.mesh.pp, plan.stages_per_rank, plan.microbatches)
        self.pipeline_order = {
            rank: [_Action.from_str(str(work)) for work in order] for rank, order in enumerate(schedule.orders)
        }
        self._prepare_schedule_with_comms(self.pipeline_order)
