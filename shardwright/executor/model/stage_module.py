"""One pipeline stage as a module: some layers of a Hugging Face model, under the parameter names of the whole model."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from shardwright.base import SpecError
from shardwright.specs import LayerRun

from .documents import attends_alone, documents
from .hugging_face import Skeleton
from .structure import PassedLayer, PassedPart, ReceivedLayer, SentLayer, unpacked_sequences


class StageModule(nn.Module):
    """The layers of a stage from `first_layer` on, with the embedding on the first stage and the head on the last.

    The forward pass takes tokens (batch, sequence) on the first stage, and hidden states on the others. It returns
    hidden states (batch, sequence / tp under sequence parallelism, hidden). The last stage returns logits (batch,
    sequence, vocabulary / tp). Parameters have the names of the whole model.

    `trains_below`: whether a stage before trains anything. Where none does, no gradient passes through this stage to it; it gets zeros.

    `seq_len`: tokens of a sequence on this rank. `positions`: where they lie in the whole sequence, (seq_len,); None: in order.

    It is the forward pass of the model itself, with stubs in place of what other stages hold. Rotary tables, masks, scales
    and caps are therefore those of transformers.

    Raises:
        SpecError: a layer that is to be recomputed cannot be.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        first_layer: int,
        strategies: Sequence[LayerRun],
        *,
        seq_len: int,
        positions: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.structure = skeleton.structure
        self.strategies = tuple(strategies)
        self.seq_len = seq_len
        self._positions = positions if positions is None else positions[None]
        self.hidden_size = int(skeleton.config.hidden_size)
        end_layer = first_layer + len(self.strategies)
        self.is_first = first_layer == 0
        self.is_last = end_layer == skeleton.layer_count
        self.layer_paths = tuple(f"{self.structure.layers}.{index}" for index in range(first_layer, end_layer))
        self.trains_below = not self.is_first
        self._received: ReceivedLayer | None = None
        self._sent: SentLayer | None = None
        model = self._only_own_parts(skeleton.model, first_layer, end_layer)
        object.__setattr__(self, "_model", model)  # its children are those of this module, and must not be listed twice
        for name, child in model.named_children():
            self.add_module(name, child)
        for path, strategy in zip(self.layer_paths, self.strategies, strict=True):
            if strategy.recompute == "full":
                _recompute(self.get_submodule(path))

    def part(self, path: str) -> nn.Module | None:
        """Return the module at `path` of the whole model, None where this stage does not hold it."""
        try:
            found = self.get_submodule(path)
        except AttributeError:
            return None
        return None if isinstance(found, (PassedPart, PassedLayer)) else found

    def forward(self, given: Tensor, places: Tensor | None = None) -> Tensor:
        """`places`: of the tokens of whole sequences in their documents, (batch, sequence) on the CPU, where several share one."""
        model: Any = self.__dict__["_model"]
        positions, masked = self._positions, self._positions is None and not attends_alone(model)
        if places is not None:
            own = places.to(given.device)
            positions = own if positions is None else own[:, positions[0]]
        given_positions = {} if positions is None else {"position_ids": positions}
        with unpacked_sequences() if places is None else documents(places, given.device, masked=masked):
            if self._received is None:
                output = model(input_ids=given, use_cache=False, **given_positions)
            else:
                self._received.received = given if self.trains_below else given.detach()
                # only its shape is read: the hidden states enter where the layers of this stage begin
                shape = (given.shape[0], self.seq_len, self.hidden_size)
                embedded = torch.zeros((), dtype=given.dtype, device=given.device).expand(shape)
                output = model(inputs_embeds=embedded, use_cache=False, **given_positions)
                self._received.received = None
        if self._sent is None:
            return self._answering(output.logits, given)
        sent, self._sent.sent = self._sent.sent, None
        assert sent is not None, "the forward pass of the model runs through all layers"
        return self._answering(sent, given)

    def _answering(self, output: Tensor, given: Tensor) -> Tensor:
        """Return the output, to which torch's pipeline brings a gradient, and from whose backward pass it takes that of `given`."""
        if self._received is not None and not self.trains_below:
            answered: Tensor = _ZeroGradient.apply(output, given)  # type: ignore[no-untyped-call]  # torch's
            return answered
        return output if output.requires_grad or self._sent is None else output.detach().requires_grad_()

    def _only_own_parts(self, whole: PreTrainedModel, first: int, end: int) -> PreTrainedModel:
        """Return a copy of the model whose other parts are stubs. The parts of this stage are shared with `whole`."""
        model: PreTrainedModel = _shared_copy(
            whole, {self.structure.layers, *self.structure.before, *self.structure.after}
        )
        layers = model.get_submodule(self.structure.layers)
        assert isinstance(layers, nn.ModuleList)
        size = self.structure.tuple_size
        for index in (*range(first), *range(end, len(layers))):
            layers[index] = PassedLayer(layers[index], size)
        if first:
            layers[first - 1] = self._received = ReceivedLayer(layers[first - 1], size)
        if end < len(layers):
            layers[end] = self._sent = SentLayer(layers[end], size)
            self._sent.seq_len = self.seq_len
        absent = (*(() if self.is_first else self.structure.before), *(() if self.is_last else self.structure.after))
        for path in absent:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, PassedPart(whole.get_submodule(path)))
        return model


class _ZeroGradient(torch.autograd.Function):
    """The first tensor; the second one gets a gradient of zeros."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, given: Tensor) -> Tensor:
        ctx.given = given.shape, given.dtype, given.device
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, Tensor]:
        shape, dtype, device = ctx.given
        own = gradients[0] if ctx.needs_input_grad[0] else None
        return own, torch.zeros(shape, dtype=dtype, device=device)


def _shared_copy(module: Any, paths: set[str]) -> Any:
    """Copy the modules above `paths`, and those only, so that their children can be exchanged."""
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    for name in {path.partition(".")[0] for path in paths}:
        below = {path.partition(".")[2] for path in paths if path.startswith(f"{name}.")}
        child = copied._modules[name]
        if below or isinstance(child, nn.ModuleList):
            copied._modules[name] = _shared_copy(child, below)
    return copied


def _recompute(layer: nn.Module) -> None:
    if not isinstance(layer, GradientCheckpointingLayer):
        raise SpecError(f"{type(layer).__name__} cannot be recomputed; plan with --recompute none")
    own: Any = layer
    own.gradient_checkpointing = True
    own._gradient_checkpointing_func = _checkpointed


def _checkpointed(forward: Any, *given: Any) -> Any:
    return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False)
