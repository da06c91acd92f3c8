"""The engine: a plan applied to a Hugging Face model on this rank, ready to compute a step's loss and gradients."""

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor import check_can_run
from shardwright.executor.adapters import AdapterSettings, DrawnAdapters, InitialAdapters, check_quantised_device
from shardwright.executor.context import attend_in_turn, see_whole_sequence, sequence_pieces
from shardwright.executor.low_precision import Scaling, check_linear_precision
from shardwright.executor.model import MeshRanks, Skeleton, StageModule, attend_within_documents, read_skeleton
from shardwright.executor.offload import OffloadEngine, Room, Streams, streamed_layers
from shardwright.executor.replicas import Agreement, agreement
from shardwright.executor.routers import RouterLoss, router_spec
from shardwright.specs import Plan, runs_by_chunk

from .accumulation import Accumulation
from .clipping import gradient_norm, gradient_norms, local_gradient, scale_gradients
from .data_parallel import DataParallel, GradientSync
from .forward_only import ForwardOnly
from .loss import IGNORED_LABEL, LossFunction, TokenLoss
from .pipeline import Pipeline, TiedEmbedding
from .precision import COMPUTE_DTYPES, LossScale, check_precision
from .split_backward import check_split_backward
from .stage_builder import StageBuilder

MESH_AXES = ("pp", "dp_replicate", "dp_shard", "tp")
"""Axes of the engine's mesh. Ranks of cp are part of dp_shard, or under ZeRO-0 of dp_replicate: their gradients are summed too."""


class _Runner(Protocol):
    def run(self, inputs: Tensor, labels: Tensor, places: Tensor | None) -> Tensor: ...


class Engine:
    """This rank's part of a model under a plan. `build_engine` makes it.

    `model_parts` are this rank's stages in order. Their parameters are named as in the whole Hugging Face model. Rank
    `dp_rank` of `dp_size` reads its own `micro_batch * microbatches` sequences of each global batch. `tied_names` maps
    the name of a copied weight to the name of its original. With tied embeddings in a pipeline the last stage holds
    such a copy. `offload` holds what left the device, if anything did. `agreement` is between
    replicas that do not reduce every gradient in full; None where they do. `gradient_of` returns this rank's part of a parameter's gradient after
    the backward pass, or what has its norm. `loss_scale` multiplies the loss of the next step; None unless
    the plan computes in fp16.
    """

    def __init__(
        self,
        builder: StageBuilder,
        stages: Mapping[int, StageModule],
        offload_folder: Path = Path("offload"),
        offload_streams: Streams | None = None,
    ) -> None:
        plan_file, skeleton, mesh = builder.plan_file, builder.skeleton, builder.mesh
        plan = plan_file.plan
        self.mesh = mesh
        self.model_parts: tuple[nn.Module, ...] = tuple(stages.values())
        self.dp_size = plan.mesh.dp
        data_rank = mesh.get_local_rank("dp_replicate") * mesh["dp_shard"].size() + mesh.get_local_rank("dp_shard")
        self.dp_rank = data_rank // plan.mesh.cp
        self.tied_names: Mapping[str, str] = skeleton.tied_names
        self.loss_scale = LossScale() if plan_file.training.precision.compute == "fp16" else None
        self._plan, self._positions = plan, builder.positions
        self._shape = (plan.micro_batch * plan.microbatches, plan_file.training.seq_len)
        self._loss = builder.loss
        if builder.loss.routers is not None:
            builder.loss.routers.watch(self.model_parts)
        syncs = {
            index: GradientSync(
                stage, zero_stage=plan.zero_stage, offload=plan.offload, by_chunk=runs_by_chunk(plan.schedule)
            )
            for index, stage in stages.items()
        }
        self._runner = _runner(builder, stages, syncs)
        hidden = _hidden_example(builder) if plan.mesh.pp > 1 else None
        self._forward = ForwardOnly(plan, stages, builder.loss, mesh, hidden)
        self._tied: TiedEmbedding | None = None
        self._counted = [parameter for part in self.model_parts for parameter in part.parameters()]
        copy = _tied_copy(stages, skeleton) if skeleton.tied and plan.mesh.pp > 1 else None
        if copy is not None and not copy.requires_grad:
            copy = None  # frozen: nothing is summed
        if copy is not None:
            self._tied = TiedEmbedding(mesh, copy)
            if len(plan.stages) - 1 in stages:  # the norm counts the first stage's copy
                self._counted = [parameter for parameter in self._counted if parameter is not copy]
        self.offload = _offload(builder, stages, folder=offload_folder, streams=offload_streams, late=copy)
        self.gradient_of: Callable[[nn.Parameter], Tensor | None] = (
            local_gradient if self.offload is None else self.offload.gradient_of
        )
        for sync in syncs.values():
            sync.engine = self.offload
        self.agreement: Agreement | None = None
        if plan.sync.approximate:
            self.agreement = agreement(plan, tuple(stages.values()), _replica_group(mesh), builder.device)

    def forward_backward(self, inputs: Tensor, labels: Tensor, places: Tensor | None = None) -> Tensor:
        """Accumulate the gradients of the mean loss over the global batch's tokens, times the loss scale, and return that loss.

        `inputs` and `labels` are int64 of shape (micro_batch * microbatches, seq_len), this data-parallel rank's share.
        `labels[i, t]` is the token that follows `inputs[i, t]`, or -100 to ignore it. Every pp and tp rank of the
        data-parallel rank gets the same inputs, and so does every cp rank, which takes its own tokens of them. The loss is a scalar, equal on all ranks.
        `places`, of the same shape: where each token lies in its document, from 0, if sequences hold several documents;
        on the CPU, so that nothing waits for it.

        Raises:
            SpecError: a tensor has another shape.
        """
        mesh = self._plan.mesh
        tokens_per_step = self._count_tokens(inputs, labels, places)
        self._loss.scale = self._loss_factor * mesh.data_ranks / tokens_per_step
        if self._loss.routers is not None:  # the mean over microbatches; a rank of cp has its part of it
            self._loss.routers.scale = self._loss_factor * mesh.cp / self._plan.microbatches
        if self._positions is not None:
            inputs, labels = inputs[:, self._positions], labels[:, self._positions]
        with self._tied.summed() if self._tied is not None else contextlib.nullcontext():
            loss = self._runner.run(inputs, labels, places)
        if self.offload is not None:
            self.offload.collect_late()
        dist.all_reduce(loss)
        return loss / (mesh.data_ranks * mesh.tp * self._loss_factor)

    @property
    def _loss_factor(self) -> float:
        return 1.0 if self.loss_scale is None else self.loss_scale.value

    def evaluate(self, inputs: Tensor, labels: Tensor, places: Tensor | None = None) -> tuple[float, int]:
        """Return the summed loss over the global batch's tokens that have a label, and their number, both equal on all ranks. Nothing
        is trained: no gradient is computed.

        Arguments are those of `forward_backward`.

        Raises:
            SpecError: a tensor has another shape.
        """
        tokens = self._count_tokens(inputs, labels, places)
        self._loss.scale = 1.0
        if self._positions is not None:
            inputs, labels = inputs[:, self._positions], labels[:, self._positions]
        with contextlib.nullcontext() if self.offload is None else self.offload.forward_only():
            loss = self._forward.run(inputs, labels, places).double()
        dist.all_reduce(loss)
        return float(loss) / self._plan.mesh.tp, tokens

    def _count_tokens(self, inputs: Tensor, labels: Tensor, places: Tensor | None) -> int:
        """Return the number of the global batch's tokens that have a label, at least 1.

        Raises:
            SpecError: a tensor has another shape than this rank's share.
        """
        for name, tensor in (("inputs", inputs), ("labels", labels), ("places", places)):
            if tensor is not None and tuple(tensor.shape) != self._shape:
                raise SpecError(f"{name} have shape {tuple(tensor.shape)}; this plan's ranks take {self._shape} each")
        mesh = self._plan.mesh
        tokens = (labels != IGNORED_LABEL).sum()
        dist.all_reduce(tokens)
        return max(int(tokens) // (mesh.pp * mesh.cp * mesh.tp), 1)

    def clip_gradients(self, max_norm: float | None) -> float:
        """Take the loss scale out of all gradients, and scale them so that their global L2 norm is at most `max_norm` (None: do not scale).

        Returns the norm before the second scaling, over every parameter of the model, with a tied weight counted once. It is equal
        on all ranks. Where it is not finite, nothing is scaled. Replicas whose gradients are their own scale them by their own norm, and
        the largest is returned.
        """
        device = torch.device(self.mesh.device_type)
        ranks_per_stage = self.mesh.size() // self._plan.mesh.pp
        gradients = ((parameter, self.gradient_of(parameter)) for parameter in self._counted)
        if self.agreement is None:
            norm = largest = (
                gradient_norm(gradients, ranks_per_stage=ranks_per_stage, device=device) / self._loss_factor
            )
        else:
            replicas, replica = self._plan.mesh.dp_replicate, self.replica
            of_all = gradient_norms(
                gradients,
                ranks_per_stage=ranks_per_stage // replicas,
                device=device,
                replica=replica,
                replicas=replicas,
            )
            norm, largest = of_all[replica] / self._loss_factor, max(map(_size, of_all)) / self._loss_factor
        factor = 1.0 / self._loss_factor
        if max_norm is not None and max_norm < norm:
            factor *= max_norm / (norm + 1e-6)
        if factor != 1.0 and largest < torch.inf:
            scale_gradients([parameter for part in self.model_parts for parameter in part.parameters()], factor)
            if self.offload is not None:
                self.offload.scale_gradients(factor)
        return largest

    @property
    def replica(self) -> int:
        """The number of this rank's replica along dp_replicate."""
        return self.mesh.get_local_rank("dp_replicate")

    def accepts(self, norm: float) -> bool:
        """Return whether the gradients, whose norm `clip_gradients` returned, are to be applied, and set the loss scale of the next step.

        Under fp16 those that are not finite are not. The norm is equal on all ranks, and so is the decision. In other formats all are applied.
        """
        if self.loss_scale is None:
            return True
        finite = math.isfinite(norm)
        self.loss_scale = self.loss_scale.after(finite=finite)
        return finite

    def zero_gradients(self) -> None:
        """Delete the gradients of the previous step."""
        for part in self.model_parts:
            part.zero_grad(set_to_none=True)
        if self.offload is not None:
            self.offload.end_step()


def _size(norm: float) -> float:
    """A norm, or infinity in place of one that is no number."""
    return math.inf if math.isnan(norm) else norm


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
    check_can_run(plan_file)
    plan = plan_file.plan
    if dist.get_world_size() != plan.mesh.ranks:
        raise SpecError(
            f"the plan is for {plan.mesh.ranks} ranks ({plan.mesh}), {dist.get_world_size()} are running; "
            f"start {plan.mesh.ranks} or plan for {dist.get_world_size()}"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    check_precision(plan_file.training.precision, device)
    check_linear_precision(plan_file.training.precision, device)
    check_quantised_device(plan_file.training.trainable, device)
    trainable = plan_file.training.trainable
    if adapters is None and trainable.has_adapters:
        adapters = DrawnAdapters(AdapterSettings(rank=trainable.rank, alpha=trainable.rank), seed, device)
    skeleton = read_skeleton(plan_file)
    check_split_backward(plan, tied=skeleton.tied)
    mesh = _mesh(plan, device)
    expert_mesh = _expert_mesh(plan, device) if plan.mesh.ep > 1 else None
    builder = StageBuilder(
        plan_file=plan_file,
        skeleton=skeleton,
        mesh=mesh,
        data_parallel=DataParallel(plan, plan_file.training.precision, mesh, expert_mesh),
        device=device,
        seed=seed,
        loss=TokenLoss(
            vocab_size=skeleton.config.vocab_size,
            tp_mesh=mesh["tp"] if plan.mesh.tp > 1 else None,
            chunks=plan_file.training.loss_chunks,
            function=loss,
        ),
        positions=_arrange_attention(plan_file, skeleton, device),
        pieces=sequence_pieces(plan_file, device.type),
        expert_mesh=expert_mesh,
        compile_layers=compile_layers,
        draw=draw,
        source=source,
        adapters=adapters,
        scaling=None if plan_file.training.precision.linear is None else Scaling(_sharing_ranks(plan, device)),
    )
    routers = router_spec(skeleton)
    if routers is not None:
        tokens = plan.micro_batch * plan_file.training.seq_len
        builder.loss.routers = RouterLoss(
            routers, tokens=tokens, ranks=_sharing_ranks(plan, device, ("cp",)), device=device
        )
    own = [index for index, rank in enumerate(plan.stage_ranks) if rank == mesh.get_local_rank("pp")]
    return Engine(builder, {index: builder.build(index) for index in own}, offload_folder, offload_streams)


def _arrange_attention(plan_file: PlanFile, skeleton: Skeleton, device: torch.device) -> Tensor | None:
    """Let attention reach over ranks or stay within documents; return the positions of this rank's tokens, None: all."""
    plan, training = plan_file.plan, plan_file.training
    if plan.mesh.cp > 1:
        return see_whole_sequence(skeleton.model, plan, seq_len=training.seq_len, device_type=device.type)
    if training.sequence_chunks > 1:
        attend_in_turn(skeleton.model)
    elif training.documents is not None and skeleton.config._attn_implementation == "sdpa":
        attend_within_documents(skeleton.model)
    return None


def _mesh(plan: Plan, device: torch.device) -> DeviceMesh:
    degrees = plan.mesh
    replicas = degrees.dp_replicate * (1 if plan.zero_stage else degrees.cp)
    shape = (degrees.pp, replicas, degrees.data_ranks // replicas, degrees.tp)
    return _laid_out(plan, device, shape, MESH_AXES)


def _sharing_ranks(plan: Plan, device: torch.device, axes: tuple[str, ...] = ("cp", "tp")) -> list[MeshRanks]:
    """Return the groups of ranks that hold parts of one microbatch, those of cp, and of its weights, those of tp."""
    degrees = plan.mesh
    mesh = _laid_out(plan, device, (degrees.pp, degrees.dp, degrees.cp, degrees.tp), ("pp", "dp", "cp", "tp"))
    return [MeshRanks(mesh[axis]) for axis in axes if mesh[axis].size() > 1]


def _expert_mesh(plan: Plan, device: torch.device) -> DeviceMesh:
    """Return the mesh of the layers' experts, over the same ranks: dp_shard is what holds the same experts."""
    degrees = plan.mesh
    replicas = degrees.dp_replicate if plan.zero_stage else degrees.same_experts
    shape = (degrees.pp, replicas, degrees.same_experts // replicas, degrees.ep, degrees.expert_tp)
    return _laid_out(plan, device, shape, (*MESH_AXES[:-1], "ep", "etp"))


def _replica_group(mesh: DeviceMesh) -> dist.ProcessGroup:
    """Return a process group of the ranks with this rank's part in every replica, which nothing else uses: its exchanges may run beside
    the steps. That of the mesh is the default group where the axis spans all ranks."""
    lines = mesh.mesh.movedim(MESH_AXES.index("dp_replicate"), -1).flatten(0, -2)
    own: list[int] = next(line for line in lines.tolist() if dist.get_rank() in line)
    group: dist.ProcessGroup = dist.new_group(own, use_local_synchronization=True, group_desc="mesh_dp_replicate")
    return group


def _laid_out(plan: Plan, device: torch.device, shape: tuple[int, ...], axes: tuple[str, ...]) -> DeviceMesh:
    """Return a mesh whose ranks lie as the plan's order says: neighbours along its axes are neighbours in `shape`."""
    ranks = torch.from_numpy(plan.mesh.numbered().reshape(shape))
    return DeviceMesh(device.type, ranks, mesh_dim_names=axes)


def _offload(
    builder: StageBuilder,
    stages: Mapping[int, StageModule],
    *,
    folder: Path,
    streams: Streams | None,
    late: nn.Parameter | None,
) -> OffloadEngine | None:
    """Return the engine for what leaves the device, within the bytes that the plan's estimate states for this pipeline rank."""
    plan_file = builder.plan_file
    plan = plan_file.plan
    shares = {stage: _activation_shares(stage, builder, len(stages)) for stage in stages.values()}
    if not plan.offload.optimizer_fraction and not any(map(any, shares.values())):
        return None
    estimate, rank = plan_file.estimated(), builder.mesh.get_local_rank("pp")
    several = plan.microbatches > 1 and (plan.zero_stage >= 2 or plan.offload.gradient_fraction > 0)
    engine = OffloadEngine(
        list(stages.values()),
        plan.offload,
        plan_file.training.optimizer,
        room=Room(estimate.host_bytes[rank], estimate.nvme_bytes[rank] if estimate.nvme_bytes else 0.0),
        folder=folder,
        device=builder.device,
        sums=several,
        late=late,
        streams=streams,
    )
    for stage, of_layers in shares.items():
        before = None
        for path, share in zip(stage.layer_paths, of_layers, strict=True):
            if share:
                layer = stage.get_submodule(path)
                engine.activations.take(layer, share, before=before)
                before = layer
    return engine


def _activation_shares(stage: StageModule, builder: StageBuilder, rank_stages: int) -> list[float]:
    """Return the share of each layer's activations that goes to the host: the plan's, or all of the training's number of layers, evenly
    spread over the rank's stages and layers."""
    whole = builder.plan_file.training.activation_offload_layers
    if not whole:
        return [run.activation_offload for run in stage.strategies]
    layers = len(stage.strategies)
    return [float(goes) for goes in streamed_layers(layers, min(1.0, whole / (rank_stages * layers)))]


def _runner(builder: StageBuilder, stages: Mapping[int, StageModule], syncs: Mapping[int, GradientSync]) -> _Runner:
    plan, training = builder.plan_file.plan, builder.plan_file.training
    skeleton, mesh, loss = builder.skeleton, builder.mesh, builder.loss
    if plan.mesh.pp == 1:
        return Accumulation(stages[0], syncs[0], loss, microbatches=plan.microbatches)
    dtype = COMPUTE_DTYPES[training.precision.compute]
    own_vocabulary = _own_vocabulary(plan, mesh, skeleton.config.vocab_size)
    own_tokens = training.seq_len // plan.mesh.cp
    logits = _example(plan.micro_batch, own_tokens, own_vocabulary, dtype=dtype)
    if loss.chunks > 1:
        logits = _example(1, 1, 1, dtype=torch.float32)
    return Pipeline(
        plan,
        stages,
        syncs,
        loss,
        mesh=mesh,
        tokens=torch.empty(plan.micro_batch, own_tokens, dtype=torch.int64, device="meta"),
        hidden=_hidden_example(builder),
        logits=logits,
    )


def _hidden_example(builder: StageBuilder) -> Tensor:
    """Return what stages exchange, (micro_batch, sequence / cp, or / cp / tp, hidden), on the meta device."""
    plan, training = builder.plan_file.plan, builder.plan_file.training
    own_tokens = training.seq_len // plan.mesh.cp
    streamed = own_tokens // plan.mesh.tp if plan.sequence_parallel else own_tokens
    dtype = COMPUTE_DTYPES[training.precision.compute]
    return _example(plan.micro_batch, streamed, builder.skeleton.config.hidden_size, dtype=dtype)


def _example(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)


def _own_vocabulary(plan: Plan, mesh: DeviceMesh, vocab_size: int) -> int:
    """Return the rows of the vocabulary on this tp rank. DTensor cuts like
    `torch.chunk`, so the last rank may hold fewer."""
    chunk = -(-vocab_size // plan.mesh.tp)
    return max(0, min(chunk, vocab_size - chunk * mesh.get_local_rank("tp")))


def _tied_copy(stages: Mapping[int, StageModule], skeleton: Skeleton) -> nn.Parameter | None:
    """Return this rank's copy of a weight that the first and the last stage share."""
    for stage in stages.values():
        for path in (skeleton.structure.embedding, skeleton.structure.head):
            if (module := stage.part(path)) is not None:
                return module.get_parameter("weight")
    return None
