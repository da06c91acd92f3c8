"""What a run checks of a plan, on any number of ranks, before anything starts."""

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor import check_can_run
from shardwright.executor.adapters import check_adapters, check_quantised
from shardwright.executor.context import check_context, check_in_turn
from shardwright.executor.experts import check_experts
from shardwright.executor.model import check_documents, check_tensor_parallel, read_skeleton
from shardwright.executor.optimizers import check_optimizer
from shardwright.executor.passes import check_loss_chunks, check_split_backward
from shardwright.executor.recompute import check_recompute
from shardwright.executor.routers import check_router_loss


def check_plan(plan_file: PlanFile) -> None:
    """Check the plan against the engine and its training.

    Raises:
        SpecError: the engine does not run or train a choice or the model yet; the batch is not that of the training; a
            split backward does not run with the plan.
    """
    check_can_run(plan_file)
    plan, training = plan_file.plan, plan_file.training
    if plan.global_batch != training.global_batch:
        raise SpecError(
            f"the plan makes a global batch of {plan.global_batch} sequences (dp {plan.mesh.dp} x micro_batch {plan.micro_batch} x microbatches {plan.microbatches}) and its training asks for {training.global_batch}; plan again"
        )
    skeleton = read_skeleton(plan_file)
    check_tensor_parallel(plan_file, skeleton)
    check_split_backward(plan, tied=skeleton.tied)
    check_context(plan_file, skeleton)
    check_in_turn(plan_file, skeleton)
    check_experts(plan_file, skeleton)
    check_loss_chunks(plan_file, skeleton)
    check_recompute(plan_file, skeleton)
    check_documents(plan_file, skeleton)
    check_adapters(plan_file, skeleton)
    check_quantised(plan_file, skeleton)
    check_optimizer(plan_file)
    check_router_loss(plan_file, skeleton)
