"""When in a step each part of a stage reduces its gradients and frees what it gathered, under ZeRO and HSDP through FSDP2."""

from collections.abc import Iterator

from torch import nn
from torch.distributed.fsdp import FSDPModule

from shardwright.executor.model import StageModule
from shardwright.executor.offload import OffloadEngine, streamed_layers
from shardwright.specs import Offload


class GradientSync:
    """The times in a step at which each part of a stage reduces its gradients and frees its gathered parameters.

    ZeRO-3 gathers the parameters for each use, and reduces the gradients of every microbatch into this rank's shard.
    ZeRO-2 keeps the parameters gathered until the last microbatch. ZeRO-1 also sums whole gradients over the
    microbatches and reduces them once; so does ZeRO-0. Between replicas (dp_replicate) gradients are reduced once a
    step.

    With `by_chunk` all forward passes of the stage follow each other, and so do all backward passes (breadth-first). ZeRO-3 then gathers once for
    each of the two, and ZeRO-2 and 3 reduce once, after the last.

    Offload changes two of these: layers whose weights are streamed are freed after every pass, and gradients that the host sums
    are handed out after every microbatch.
    """

    def __init__(
        self, stage: StageModule, *, zero_stage: int, offload: Offload | None = None, by_chunk: bool = False
    ) -> None:
        offload = offload or Offload()
        by_path = dict(zip(stage.layer_paths, (run.zero_stage for run in stage.strategies), strict=True))
        streams = streamed_layers(len(stage.layer_paths), offload.parameter_fraction)
        streamed = {path for path, comes in zip(stage.layer_paths, streams, strict=True) if comes}
        layers = f"{stage.structure.layers}."
        depth = layers.count(".") + 1
        self._root, self._by_chunk = stage, by_chunk
        self._host_sums = offload.gradient_fraction > 0
        named = [
            (".".join(inner.split(".")[:depth]), module)
            for inner, module in stage.named_modules()
            if isinstance(module, FSDPModule)
        ]
        self._parts = [(module, by_path.get(path, zero_stage), path in streamed) for path, module in named]
        freed = {
            *(path for path, stage in by_path.items() if stage == 3),
            *([stage.structure.embedding] * (zero_stage == 3)),
        }
        self._freed_forward = [module for path, module in named if path in freed - streamed]
        self.engine: OffloadEngine | None = None
        _prefetch_within_microbatch(stage, from_the_first=stage.trains_below)

    def before_forward(self, *, last: bool) -> None:
        """Set every part up for the forward pass of one microbatch; `last`: no other one follows before the backward passes."""
        if self._by_chunk:
            for part in self._freed_forward:
                part.set_reshard_after_forward(last, recurse=False)

    def before_backward(self, *, last: bool) -> None:
        """Set every part up for the backward pass of one microbatch; `last`: it is the last of the step."""
        for part, zero_stage, is_streamed in self._parts:
            reduces, frees = (not self._by_chunk and zero_stage >= least for least in (2, 3))
            part.set_requires_gradient_sync(last or reduces or self._host_sums, recurse=False)
            part.set_requires_all_reduce(last, recurse=False)
            part.set_reshard_after_backward(last or frees or is_streamed, recurse=False)
        if self.engine is not None:
            self.engine.before_backward(self._root, last=last)
        assert isinstance(self._root, FSDPModule)
        self._root.set_is_last_backward(last)


def _prefetch_within_microbatch(stage: StageModule, *, from_the_first: bool = True) -> None:
    """Let each part gather ahead, in a backward pass, the part before it in the forward pass, and the first one nothing.

    By itself FSDP goes on to the last part of the microbatch before, whose backward pass is over: it gathers weights that no one
    needs (torch 2.13, _fsdp_param_group.py, _backward_prefetch: the order of forwards is kept to the last backward pass).

    Parts that come before every trained weight have no backward pass, unless `from_the_first`, and are not gathered for it.
    """
    parts = list(
        {id(part._get_fsdp_state()): part for part in _in_order(stage)}.values()
    )  # modules sharded as one count once
    trained = (index for index, part in enumerate(parts) if _trains(part))
    first = 0 if from_the_first else next(trained, len(parts))
    for index, part in enumerate(parts):
        # itself, which is gathered: an empty list would mean FSDP's own choice
        part.set_modules_to_backward_prefetch([parts[index - 1] if index > first else part])


def _trains(part: FSDPModule) -> bool:
    assert isinstance(part, nn.Module)
    return any(parameter.requires_grad for parameter in part.parameters())


def _in_order(module: nn.Module) -> Iterator[FSDPModule]:
    """Yield the sharded modules in the order in which their forward passes end."""
    for child in module.children():
        yield from _in_order(child)
    if isinstance(module, FSDPModule):
        yield module
