"""One pipeline stage as a module: some layers of a Hugging Face model, under the parameter names of the whole model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shardwright.specs import LayerRun

from .attention import attention_mask
from .hugging_face import Skeleton


class StageModule(nn.Module):
    """The layers of a stage from `first_layer` on, with the embedding on the first stage and the head on the last.

    The forward pass takes tokens (batch, sequence) on the first stage, and hidden states on the others. It returns
    hidden states (batch, sequence / tp under sequence parallelism, hidden). The last stage returns logits (batch,
    sequence, vocabulary / tp). Parameters have the names of the whole model.
    """

    def __init__(self, skeleton: Skeleton, first_layer: int, strategies: Sequence[LayerRun], *, seq_len: int) -> None:
        super().__init__()
        family, model = skeleton.family, skeleton.model
        self.family = family
        self.first_layer = first_layer
        self.strategies = tuple(strategies)
        self.seq_len = seq_len
        self.kernel = str(skeleton.config._attn_implementation)
        end_layer = first_layer + len(self.strategies)
        self.is_first = first_layer == 0
        self.is_last = end_layer == skeleton.config.num_hidden_layers
        paths = [f"{family.layers}.{index}" for index in range(first_layer, end_layer)]
        self.layer_paths = tuple(paths)
        if self.is_first:
            paths += [path for path in (family.embedding, family.positions) if path]
        if self.is_last:
            paths += [family.final_norm, family.head]
        if family.rotary:
            paths.append(family.rotary)
        for path in paths:
            _attach(self, path, model.get_submodule(path))

    def part(self, path: str | None) -> nn.Module | None:
        """Return the module at `path` of the whole model, None where this stage does not hold it."""
        if path is None:
            return None
        try:
            return self.get_submodule(path)
        except AttributeError:
            return None

    def forward(self, given: Tensor) -> Tensor:
        position_ids = torch.arange(self.seq_len, device=given.device)[None]
        hidden = self._embed(given, position_ids) if self.is_first else given
        rotary = self.part(self.family.rotary)
        options = {} if rotary is None else {"position_embeddings": rotary(hidden, position_ids)}
        masks: dict[int | None, Tensor | None] = {}
        for path, strategy in zip(self.layer_paths, self.strategies, strict=True):
            layer = self.get_submodule(path)
            window = getattr(layer.get_submodule(self.family.attention), "sliding_window", None)
            if window not in masks:
                masks[window] = attention_mask(
                    seq_len=self.seq_len, window=window, kernel=self.kernel, dtype=hidden.dtype, device=hidden.device
                )
            options["attention_mask"] = masks[window]
            if strategy.recompute == "full":
                hidden = checkpoint(layer, hidden, use_reentrant=False, preserve_rng_state=False, **options)
            else:
                hidden = layer(hidden, **options)
        return self._logits(hidden) if self.is_last else hidden

    def _embed(self, tokens: Tensor, position_ids: Tensor) -> Tensor:
        hidden: Tensor = self.get_submodule(self.family.embedding)(tokens)
        positions = self.part(self.family.positions)
        return hidden if positions is None else hidden + positions(position_ids)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.get_submodule(self.family.head)(self.get_submodule(self.family.final_norm)(hidden))
        return logits


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register `module` below `root` at `path`, through plain containers, so that parameter names follow the path."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in dict(root.named_children()):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)
