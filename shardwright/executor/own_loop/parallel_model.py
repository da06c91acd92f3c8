"""A model under a plan, as a training loop of one's own sees it: passes, optimizer, checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile, read_plan_file
from shardwright.executor import RunOptions
from shardwright.executor.model import read_skeleton
from shardwright.executor.optimizers import check_clipping
from shardwright.executor.parallel import Engine, build_engine
from shardwright.executor.passes import LossFunction
from shardwright.executor.training import (
    HostedOptimizer,
    Manifest,
    Trainee,
    host_optimizer,
    load_checkpoint,
    plan_digest,
    save_checkpoint,
)

_UNREAD_CONFIG_KEYS = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}


class StepOptimizer:
    """The plan's optimizer. `step` clips, updates and deletes the gradients."""

    def __init__(self, engine: Engine, hosted: HostedOptimizer, clip_norm: float | None) -> None:
        self._engine, self.hosted, self._clip_norm = engine, hosted, clip_norm

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the rate of a step, before its passes: with offload updates may run beside them."""
        self.hosted.set_learning_rate(learning_rate)

    def step(self) -> float:
        """Update once, and return the norm of the gradients before clipping, equal on all ranks.

        Under fp16 gradients whose norm is not finite are not applied, and the next step's loss is scaled by less.
        """
        norm = self._engine.clip_gradients(self._clip_norm)
        if self._engine.accepts(norm):
            self.hosted.step()
        self._engine.zero_gradients()
        return norm


class ParallelModel:
    """This rank's part of a model under a plan. `parallelize` makes it.

    Data-parallel rank `dp_rank` of `dp_size` takes its own `sequences` of each global batch. All its ranks of pp, tp and cp take the same.
    """

    def __init__(self, engine: Engine, plan_file: PlanFile) -> None:
        self.engine, self.plan_file = engine, plan_file
        self.dp_rank, self.dp_size = engine.dp_rank, engine.dp_size
        self.sequences = plan_file.plan.micro_batch * plan_file.plan.microbatches
        self._optimizer: StepOptimizer | None = None

    def forward_backward(self, batch: Sequence[Tensor]) -> Tensor:
        """Accumulate the gradients of one step, and return the mean loss over the global batch's tokens with a label, a scalar equal on all
        ranks.

        `batch`: inputs and labels, int64 of (`sequences`, seq_len) each; a label is the token after its input, or -100. A third
        tensor gives the place of each token in its document, where sequences hold several.

        Raises:
            SpecError: a tensor has another shape.
        """
        return self.engine.forward_backward(*batch)

    def optimizer(
        self,
        *,
        learning_rate: float,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        clip_norm: float | None = 1.0,
    ) -> StepOptimizer:
        """Return the optimizer that the plan names, over this rank's parameters. Norms and biases do not decay.

        Raises:
            SpecError: a value is not valid, or there is one already.
        """
        if self._optimizer is not None:
            raise SpecError("this model has an optimizer already; use that one")
        values = {"out": ".", "learning_rate": learning_rate, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        options = RunOptions.parse({**values, "clip_norm": clip_norm}, source="optimizer")
        method = self.plan_file.training.method
        check_clipping(method, clip_norm)
        scaled = self.engine.loss_scale is not None
        hosted = host_optimizer(self.engine.model_parts, method, options, self.engine.offload, scaled=scaled)
        if hosted.layerwise is not None:
            self.engine.gradient_of = hosted.layerwise.norm_of
        hosted.set_learning_rate(learning_rate)
        self._optimizer = StepOptimizer(self.engine, hosted, clip_norm)
        return self._optimizer

    def save(self, folder: Path | str, step: int, *, keep: int = 2) -> Path:
        """Write `folder/step-NNNNNN`, which any plan of the model can load, and keep the newest `keep`. Every rank calls this.

        Raises:
            RunFailedError: it cannot be written.
            SpecError: there is no optimizer yet.
        """
        manifest = Manifest(
            step=step,
            model_name=self.plan_file.model_name,
            model_config_json=self.plan_file.model_config_json,
            optimizer=str(self.plan_file.training.method),
            plan_digest=plan_digest(self.plan_file),
            data_digest="",
            seed=0,
            files={},
            loss_scale=self.engine.loss_scale,
        )
        return save_checkpoint(Path(folder), self._trainee(), manifest, keep=keep)

    def load(self, checkpoint: Path | str) -> int:
        """Load parameters and optimizer from a checkpoint of any plan; return its step. Every rank calls this.

        Raises:
            SpecError: it is damaged, or of another model or optimizer; there is no optimizer yet.
        """
        manifest = load_checkpoint(Path(checkpoint), self._trainee(), self.plan_file)
        if self.engine.loss_scale is not None and manifest.loss_scale is not None:
            self.engine.loss_scale = manifest.loss_scale
        return manifest.step

    def _trainee(self) -> Trainee:
        if self._optimizer is None:
            raise SpecError("a checkpoint holds the optimizer's state, too; call optimizer() first")
        return Trainee(self.engine.model_parts, self._optimizer.hosted, self.engine.tied_names)


def parallelize(
    model: PreTrainedModel,
    plan: PlanFile | Path | str,
    *,
    device: torch.device | None = None,
    loss: LossFunction | None = None,
) -> ParallelModel:
    """Apply a plan to a causal language model of transformers, whose weights are taken over.

    The default process group must be up, with the plan's number of ranks, and each rank gives the whole model with the same
    weights, on any device. It is not changed, and may be deleted afterwards. `device`: this rank's; None: the group's.

    `loss`: in place of cross-entropy, a function from logits (batch, sequence, vocabulary), fp32, and labels (batch, sequence) to the sum of
    the loss over these tokens, a scalar. It is called with a microbatch, or where the plan has `loss_chunks` with a part of one. What it returns
    is divided by the global batch's number of labels other than -100, which it has to leave out itself.

    Raises:
        SpecError: the model is not that of the plan, there is no process group, or the plan does not run here (`build_engine`).
    """
    plan_file = plan if isinstance(plan, PlanFile) else read_plan_file(Path(plan))
    if not dist.is_initialized():
        raise SpecError("there is no process group; call torch.distributed.init_process_group first, under torchrun")
    if not plan_file.training.trainable.trains_all:
        raise SpecError(
            f"the plan trains {plan_file.training.trainable}, and parallelize trains every weight; plan without --trainable, or use shardwright run"
        )
    if plan_file.plan.sync.approximate:
        raise SpecError(
            f"the plan's replicas agree approximately ({plan_file.plan.sync}), which takes steps of its own beside the optimizer; use "
            "shardwright run, or plan with --sync exact"
        )
    _check_model(model, plan_file)
    if device is None:
        on_gpu = "nccl" in dist.get_backend()
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return ParallelModel(build_engine(plan_file, device=device, seed=0, source=model, loss=loss), plan_file)


def _check_model(model: PreTrainedModel, plan_file: PlanFile) -> None:
    """Compare class, configuration, and names and shapes of parameters with those of the plan's model.

    Raises:
        SpecError: names the first difference.
    """
    planned = read_skeleton(plan_file).model
    if type(model) is not type(planned):
        raise SpecError(f"the model is a {type(model).__name__} and the plan is for a {type(planned).__name__}")
    ours, theirs = ({name: tuple(each.shape) for name, each in of.named_parameters()} for of in (model, planned))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise SpecError(
                f"parameter '{name}' has shape {ours.get(name, 'absent')} and the plan's model {theirs.get(name, 'absent')}; plan for this model"
            )
    own, wanted = model.config.to_diff_dict(), planned.config.to_diff_dict()
    for key in sorted((own.keys() | wanted.keys()) - _UNREAD_CONFIG_KEYS):
        if own.get(key) != wanted.get(key) and "dropout" not in key and "drop" not in key:
            raise SpecError(
                f"the model's config has {key} {own.get(key)} and the plan's {wanted.get(key)}; plan for this model"
            )
