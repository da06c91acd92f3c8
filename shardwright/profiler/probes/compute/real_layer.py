"""One real transformer layer of a model, built by transformers from the model's own configuration."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shardwright.base import SpecError
from shardwright.profiler.timing import UnavailableError
from shardwright.specs import TrainingSpec
from shardwright.specs.model import Block, ModelSpec

_KERNELS = {"flash": "sdpa", "unfused": "eager"}
_INITIAL_DEVIATION = 0.02
_META = torch.device("meta")


@dataclass(frozen=True)
class RealLayer:
    """A layer with its weights and its arguments. `hidden`: (batch, sequence, hidden), with a gradient."""

    layer: nn.Module
    hidden: Tensor
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """Return the tensors whose gradients a backward pass computes."""
        return (self.hidden, *self.layer.parameters())

    def forward(self, *, recompute: bool = False) -> Tensor:
        """Return hidden states. Under `recompute` only the input is kept, as in the executor."""
        if recompute:
            options = {"use_reentrant": False, "preserve_rng_state": False, **self.options}
            out = checkpoint(self.layer, self.hidden, *self.arguments, **options)
        else:
            out = self.layer(self.hidden, *self.arguments, **self.options)
        first: Tensor = out[0] if isinstance(out, tuple) else out
        return first


def _initial_weight(weight: Tensor, device: torch.device) -> Tensor:
    """Return initial values: matrices as in a model, so that numbers stay in
    range; norms' weights and biases are ones."""
    if weight.ndim == 1:
        return torch.ones_like(weight, device=device)
    return torch.randn_like(weight, device=device) * _INITIAL_DEVIATION


@dataclass(frozen=True)
class LayerSkeleton:
    """The layer without storage (meta device), and the arguments of its call without the hidden states."""

    layer: nn.Module
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    mask: "AttentionMask"
    shape: tuple[int, int, int]
    dtype: torch.dtype

    def build(self, device: torch.device) -> RealLayer:
        """Build it with storage on `device` and random weights.

        Tables of positions are random too, which takes equally long.
        """
        tensors = [*self.layer.parameters(), *self.layer.buffers()]
        layer = copy.deepcopy(self.layer, {id(tensor): tensor for tensor in tensors})  # all replaced below
        for part in layer.modules():  # by hand, because Module.to_empty does not accept tensors without storage
            for name, weight in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(_initial_weight(weight, device)))
            for name, buffer in list(part.named_buffers(recurse=False)):
                setattr(part, name, torch.zeros_like(buffer, device=device))
        hidden = torch.randn(self.shape, dtype=self.dtype, device=device, requires_grad=True)
        arguments = tuple(self._real(value, device) for value in self.arguments)
        return RealLayer(
            layer, hidden, arguments, {name: self._real(value, device) for name, value in self.options.items()}
        )

    def _real(self, value: Any, device: torch.device) -> Any:
        if isinstance(value, tuple):
            return tuple(self._real(each, device) for each in value)
        if not isinstance(value, Tensor):
            return value
        if self.mask.stands_at(value):
            return self.mask.tensor(device, self.dtype)
        if value.is_floating_point() or value.is_complex():
            return torch.randn(value.shape, dtype=value.dtype, device=device)
        return torch.arange(value.shape[-1], device=device).expand(value.shape)


@dataclass(frozen=True)
class AttentionMask:
    """The mask of a layer: none where the kernel is causal by itself, as in transformers."""

    seq_len: int
    window: int | None
    fused: bool

    def placeholder(self) -> Tensor:
        """Return a tensor that replaces the mask while the model's arguments are recorded."""
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=_META)

    def stands_at(self, value: Tensor) -> bool:
        return value.dtype == torch.bool and value.shape == (1, 1, 1, 1)

    def tensor(self, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """Return the additive mask, (1, 1, sequence, sequence)."""
        reach = self.seq_len if self.window is None else min(self.window, self.seq_len)
        if self.fused and reach == self.seq_len:
            return None
        position = torch.arange(self.seq_len, device=device)
        distance = position[:, None] - position[None, :]
        hidden = (distance < 0) | (distance >= reach)
        mask = torch.zeros(self.seq_len, self.seq_len, dtype=dtype, device=device)
        return mask.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]


def layer_skeleton(
    model: ModelSpec, block: Block, training: TrainingSpec, micro_batch: int, dtype: torch.dtype
) -> LayerSkeleton:
    """Return the first layer of `model` that is a `block`.

    The model is built on the meta device. It runs there up to that layer, whose arguments are recorded.

    Raises:
        SpecError: transformers cannot build the model, or builds another one than the configuration describes.
        UnavailableError: transformers is not installed.
    """
    if not model.config:
        raise SpecError(
            f"{model.name} was not read from a Hugging Face config, so no layer of it can be built; give one that was"
        )
    try:
        whole = _whole_model(model, training, dtype)
        return _layer_of(whole, model, block, training, micro_batch, dtype)
    except ImportError as error:
        raise UnavailableError(f"a real layer needs transformers: {error}") from None
    except (SpecError, UnavailableError):
        raise
    except Exception as error:  # transformers raises a dozen kinds of errors for models it cannot build
        detail = " ".join(str(error).split())[:200]
        raise SpecError(f"{model.name}: transformers cannot build a layer of it: {detail}") from None


def _whole_model(model: ModelSpec, training: TrainingSpec, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = type(AutoConfig.for_model(model.config["model_type"])).from_dict(dict(model.config))
    config.use_cache = False
    with _META:
        build: Any = AutoModelForCausalLM.from_config
        whole = build(config, attn_implementation=_KERNELS[training.attention], dtype=dtype)
    return whole.train(training.software.dropout)


class _FoundError(Exception):
    """Ends the model's forward pass when it reaches the layer."""


def _layer_of(
    whole: Any, model: ModelSpec, block: Block, training: TrainingSpec, micro_batch: int, dtype: torch.dtype
) -> LayerSkeleton:
    base, seq_len = whole.base_model, training.seq_len
    path, layers = next(
        (path, part)
        for path, part in base.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == model.layer_count
    )
    layer = layers[model.class_of_layer.index(model.layer_classes.index(block))]
    parent, _, name = path.rpartition(".")
    setattr(base.get_submodule(parent), name, nn.ModuleList([layer]))
    mask = AttentionMask(seq_len, block.attention.window, training.attention == "flash")
    called: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def read(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        called.append((arguments, options))
        raise _FoundError

    handle = layer.register_forward_pre_hook(read, with_kwargs=True)
    width = base.get_input_embeddings().embedding_dim
    given = torch.empty(micro_batch, seq_len, width, dtype=dtype, device=_META)
    positions = torch.arange(seq_len, device=_META)[None]
    try:
        base(inputs_embeds=given, attention_mask=mask.placeholder(), position_ids=positions, use_cache=False)
    except _FoundError:
        pass
    finally:
        handle.remove()
    (hidden, *arguments), options = _positional(called[0])
    shape = (micro_batch, seq_len, int(hidden.shape[-1]))
    return LayerSkeleton(layer, tuple(arguments), options, mask, shape, dtype)


def _positional(called: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put the hidden states first, whichever way the model passes them."""
    arguments, options = called
    if arguments:
        return arguments, options
    options = dict(options)
    return (options.pop("hidden_states"),), options
