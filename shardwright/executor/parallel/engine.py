"""The engine: this rank's part of a plan at work, which computes a step's loss and gradients."""

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shardwright.base import SpecError
from shardwright.executor.model import Skeleton, StageModule
from shardwright.executor.offload import Streams
from shardwright.executor.passes import IGNORED_LABEL, ForwardOnly, GradientSync, TiedEmbedding
from shardwright.executor.replicas import Agreement, agreement
from shardwright.specs import runs_by_chunk

from .clipping import gradient_norm, gradient_norms, local_gradient, scale_gradients
from .meshes import replica_group
from .offloading import offload_engine
from .precision import LossScale
from .runner import hidden_example, runner_of
from .stage_builder import StageBuilder


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
        self._runner = runner_of(builder, stages, syncs)
        hidden = hidden_example(builder) if plan.mesh.pp > 1 else None
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
        self.offload = offload_engine(builder, stages, folder=offload_folder, streams=offload_streams, late=copy)
        self.gradient_of: Callable[[nn.Parameter], Tensor | None] = (
            local_gradient if self.offload is None else self.offload.gradient_of
        )
        for sync in syncs.values():
            sync.engine = self.offload
        self.agreement: Agreement | None = None
        if plan.sync.approximate:
            self.agreement = agreement(plan, tuple(stages.values()), replica_group(mesh), builder.device)

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


def _tied_copy(stages: Mapping[int, StageModule], skeleton: Skeleton) -> nn.Parameter | None:
    """Return this rank's copy of a weight that the first and the last stage share."""
    for stage in stages.values():
        for path in (skeleton.structure.embedding, skeleton.structure.head):
            if (module := stage.part(path)) is not None:
                return module.get_parameter("weight")
    return None
