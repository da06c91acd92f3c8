"""The engine: a plan applied to a Hugging Face model on this rank, ready to compute a step's loss and gradients."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from shardwright.costmodel.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile

from .clipping import gradient_norm, scale_gradients
from .data_parallel import DataParallel, GradientSync
from .hugging_face import read_skeleton
from .loss import IGNORED_LABEL, TokenLoss
from .stage_builder import StageBuilder
from .stage_module import StageModule

MESH_AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")


class Engine:
    """This rank's part of a model under a plan.

    `model_parts` are this rank's stages in order; their parameters are named as in the whole Hugging Face model.
    Rank `dp_rank` of `dp_size` reads its own `micro_batch * microbatches` sequences of each global batch.
    """

    def __init__(self, plan_file: PlanFile, stages: list[StageModule], mesh: DeviceMesh, loss: TokenLoss) -> None:
        plan = plan_file.plan
        self.mesh = mesh
        self.model_parts: tuple[nn.Module, ...] = tuple(stages)
        self.dp_size = plan.mesh.dp
        self.dp_rank = mesh.get_local_rank("dp_replicate") * plan.mesh.dp_shard + mesh.get_local_rank("dp_shard")
        self._plan = plan
        self._shape = (plan.micro_batch * plan.microbatches, plan_file.training.seq_len)
        self._loss = loss
        self._stages = stages
        self._syncs = [GradientSync(stage, zero_stage=plan.zero_stage) for stage in stages]
        self._device = (
            torch.device(mesh.device_type, torch.cuda.current_device())
            if mesh.device_type == "cuda"
            else torch.device("cpu")
        )

    def forward_backward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Accumulate the gradients of the mean loss over the global batch's tokens, and return that loss.

        `inputs` and `labels` are int64 of shape (micro_batch * microbatches, seq_len), this data-parallel rank's
        share; `labels[i, t]` is the token that follows `inputs[i, t]`, or -100 to leave it out. The same inputs go to
        every pp and tp rank of the data-parallel rank. The loss is a scalar, equal on all ranks.

        Raises:
            SpecError: a tensor of another shape.
        """
        for name, tensor in (("inputs", inputs), ("labels", labels)):
            if tuple(tensor.shape) != self._shape:
                raise SpecError(f"{name} have shape {tuple(tensor.shape)}; this plan's ranks take {self._shape} each")
        copies = self._plan.mesh.pp * self._plan.mesh.cp * self._plan.mesh.tp
        tokens = (labels != IGNORED_LABEL).sum()
        dist.all_reduce(tokens)
        total = max(int(tokens) // copies, 1)
        self._loss.scale = self.dp_size / total
        local = self._run(inputs, labels)
        dist.all_reduce(local)
        return local / (self.dp_size * self._plan.mesh.tp)

    def _run(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """This rank's share of the step's loss, times the data-parallel ranks; every tp rank has the same."""
        total = torch.zeros((), device=inputs.device)
        (stage,), (sync,) = self._stages, self._syncs
        count = self._plan.microbatches
        with self._loss.active():
            for index, (tokens, targets) in enumerate(zip(inputs.chunk(count), labels.chunk(count), strict=True)):
                sync.before_backward(last=index == count - 1)
                loss = self._loss(stage(tokens), targets)
                loss.backward()
                total += loss.detach()
        return total

    def clip_gradients(self, max_norm: float | None) -> float:
        """Scale all gradients so that their global L2 norm is at most `max_norm` (None: leave them).

        Returns the norm before scaling: over every parameter of the model, a tied weight counted once; equal on all
        ranks. A norm that is not finite is returned as it is.
        """
        parameters = [parameter for stage in self._stages for parameter in stage.parameters()]
        norm = gradient_norm(parameters, ranks_per_stage=self.mesh.size() // self._plan.mesh.pp, device=self._device)
        if max_norm is not None and norm > max_norm:
            scale_gradients(parameters, max_norm / (norm + 1e-6))
        return norm

    def zero_gradients(self) -> None:
        """Forget the gradients of the step before."""
        for stage in self._stages:
            stage.zero_grad(set_to_none=True)


def build_engine(plan_file: PlanFile, *, device: torch.device, seed: int) -> Engine:
    """Build this rank's part of the plan's model with initial weights drawn from `seed`.

    The default process group is up, on a backend for `device`; its ranks are the plan's, numbered as in
    `costmodel.plan.Mesh`. Weights are the same under every plan (on devices of one type).

    Raises:
        SpecError: another number of ranks than the plan's, an unsupported model, or a plan that does not fit it.
    """
    plan, training = plan_file.plan, plan_file.training
    if dist.get_world_size() != plan.mesh.ranks:
        raise SpecError(
            f"the plan is for {plan.mesh.ranks} ranks ({plan.mesh}), {dist.get_world_size()} are running; "
            f"start {plan.mesh.ranks} or plan for {dist.get_world_size()}"
        )
    skeleton = read_skeleton(plan_file)
    degrees = tuple(getattr(plan.mesh, axis) for axis in MESH_AXES)
    mesh = init_device_mesh(device.type, degrees, mesh_dim_names=MESH_AXES)
    builder = StageBuilder(
        plan_file=plan_file,
        skeleton=skeleton,
        mesh=mesh,
        data_parallel=DataParallel(plan, training.precision, mesh),
        device=device,
        seed=seed,
    )
    own = range(mesh.get_local_rank("pp"), len(plan.stages), plan.mesh.pp)
    loss = TokenLoss(vocab_size=skeleton.config.vocab_size, tp_mesh=mesh["tp"] if plan.mesh.tp > 1 else None)
    return Engine(plan_file, [builder.build(index) for index in own], mesh, loss)
