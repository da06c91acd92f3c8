"""A plan applied to a Hugging Face model on this rank: its meshes, its stages and its engine."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor import check_can_run
from shardwright.executor.adapters import AdapterSettings, DrawnAdapters, InitialAdapters, check_quantised_device
from shardwright.executor.context import arrange_attention, sequence_pieces
from shardwright.executor.low_precision import Scaling, check_linear_precision
from shardwright.executor.model import Skeleton, read_skeleton
from shardwright.executor.offload import Streams
from shardwright.executor.passes import LossFunction, TokenLoss, check_split_backward
from shardwright.executor.routers import RouterLoss, router_spec

from .data_parallel import DataParallel
from .engine import Engine
from .meshes import dense_mesh, expert_mesh, sharing_ranks
from .precision import check_precision
from .stage_builder import StageBuilder


def build_engine(
    plan_file: PlanFile,
    *,
    device: torch.device,
    seed: int,
    compile_layers: bool = False,
    offload_folder: Path = Path("offload"),
    offload_streams: Streams | None = None,
    draw: bool = True,
    source: nn.Module | None = None,
    adapters: InitialAdapters | None = None,
    loss: LossFunction | None = None,
) -> Engine:
    """Build this rank's part of the plan's model with initial weights drawn from `seed`, with `compile_layers` by torch.compile.

    The default process group must exist, on a backend for `device`. Its ranks are those of the plan, numbered as in
    `specs.Mesh`. Weights are the same under every plan (on devices of one type). `offload_folder` lies on the drives that a
    plan with state on drives uses. `offload_streams`: threads of the offload engine; None: new ones. Without `draw` parameters
    are undefined until a checkpoint or pretrained weights are loaded. `source`: a model of the same class and sizes, on every rank, whose
    weights are taken. `adapters`: the values that adapters start from; None: those of PEFT, with a scale of 1, where the plan has adapters.
    `loss`: in place of the cross-entropy of the labels.

    Raises:
        SpecError: the plan has a choice that is not run yet, or another number of ranks; the model is not supported, or
            the plan does not fit it; a split backward does not run with the plan.
    """
    _check(plan_file, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    plan, trainable = plan_file.plan, plan_file.training.trainable
    if adapters is None and trainable.has_adapters:
        adapters = DrawnAdapters(AdapterSettings(rank=trainable.rank, alpha=trainable.rank), seed, device)
    skeleton = read_skeleton(plan_file)
    check_split_backward(plan, tied=skeleton.tied)
    mesh = dense_mesh(plan, device)
    of_experts = expert_mesh(plan, device) if plan.mesh.ep > 1 else None
    builder = StageBuilder(
        plan_file=plan_file,
        skeleton=skeleton,
        mesh=mesh,
        data_parallel=DataParallel(plan, plan_file.training.precision, mesh, of_experts),
        device=device,
        seed=seed,
        loss=_token_loss(plan_file, skeleton, mesh, loss),
        positions=arrange_attention(plan_file, skeleton, device),
        pieces=sequence_pieces(plan_file, device.type),
        expert_mesh=of_experts,
        compile_layers=compile_layers,
        draw=draw,
        source=source,
        adapters=adapters,
        scaling=None if plan_file.training.precision.linear is None else Scaling(sharing_ranks(plan, device)),
    )
    own = [index for index, rank in enumerate(plan.stage_ranks) if rank == mesh.get_local_rank("pp")]
    return Engine(builder, {index: builder.build(index) for index in own}, offload_folder, offload_streams)


def _token_loss(plan_file: PlanFile, skeleton: Skeleton, mesh: DeviceMesh, function: LossFunction | None) -> TokenLoss:
    """Return the loss of a microbatch's tokens, with that on routers where the model has one."""
    plan, device = plan_file.plan, torch.device(mesh.device_type)
    found = TokenLoss(
        vocab_size=skeleton.config.vocab_size,
        tp_mesh=mesh["tp"] if plan.mesh.tp > 1 else None,
        chunks=plan_file.training.loss_chunks,
        function=function,
    )
    routers = router_spec(skeleton)
    if routers is not None:
        tokens = plan.micro_batch * plan_file.training.seq_len
        found.routers = RouterLoss(routers, tokens=tokens, ranks=sharing_ranks(plan, device, ("cp",)), device=device)
    return found


def _check(plan_file: PlanFile, device: torch.device) -> None:
    """
    Raises:
        SpecError: the plan has a choice that this executor or the device does not run, or another number of ranks.
    """
    check_can_run(plan_file)
    mesh, training, running = plan_file.plan.mesh, plan_file.training, dist.get_world_size()
    if running != mesh.ranks:
        raise SpecError(
            f"the plan is for {mesh.ranks} ranks ({mesh}), {running} are running; start {mesh.ranks} or plan for {running}"
        )
    check_precision(training.precision, device)
    check_linear_precision(training.precision, device)
    check_quantised_device(training.trainable, device)
