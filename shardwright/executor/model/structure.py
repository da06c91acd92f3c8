"""Where the parts of a Hugging Face causal model are: its layers, and what runs before and after them.

Nothing is known of single families here. The model's own forward pass runs once on the meta device, with stubs for layers.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, masking_utils

from shardwright.base import SpecError

_BATCH, _SEQ = 2, 6


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Paths in the whole model.

    Attributes:
        layers: the list of layers.
        embedding: the token embedding, head: the linear that gives logits.
        before, after: modules with parameters of their own that run before the first and after the last layer, in order.
        tuple_size: how many values a layer returns, 0 where it returns the hidden states alone.
        divides_sequence: whether the modules after the layers also run on a part of the sequence.
    """

    layers: str
    embedding: str
    head: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    tuple_size: int
    divides_sequence: bool


class PassedLayer(nn.Module):
    """Stands for a layer that another stage holds, and returns its input.

    The forward pass of the model may read attributes of a layer, such as its kind of attention, so they are kept.
    """

    def __init__(self, layer: nn.Module, tuple_size: int) -> None:
        super().__init__()
        self.tuple_size = tuple_size
        for name, value in vars(layer).items():
            if isinstance(value, (str, int, float)) and name not in self.__dict__:
                setattr(self, name, value)

    def forward(self, *given: Any, **options: Any) -> Any:
        hidden = self.passed(given[0] if given else options["hidden_states"])
        return (hidden, *(None,) * (self.tuple_size - 1)) if self.tuple_size else hidden

    def passed(self, hidden: Tensor) -> Tensor:
        return hidden


class ReceivedLayer(PassedLayer):
    """Stands for the last layer of the stage before. It returns the hidden states that were received from there."""

    received: Tensor | None = None

    def passed(self, hidden: Tensor) -> Tensor:
        assert self.received is not None, "the stage sets what it received before it runs"
        return self.received


class SentLayer(PassedLayer):
    """Stands for the first layer of the next stage, and keeps the hidden states to be sent there.

    What follows runs on zeros in the shape of the whole sequence, which take no memory.
    """

    sent: Tensor | None = None
    seq_len = 0

    def passed(self, hidden: Tensor) -> Tensor:
        self.sent = hidden
        return hidden.new_zeros(()).expand(hidden.shape[0], self.seq_len, hidden.shape[-1])


class PassedPart(nn.Module):
    """Stands for a part around the layers that another stage holds. It adds nothing."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.looks_up = isinstance(part, nn.Embedding)

    def forward(self, *given: Any, **options: Any) -> Any:
        first = next(value for value in (*given, *options.values()) if isinstance(value, Tensor))
        return torch.zeros((), device=first.device) if self.looks_up else first


@contextlib.contextmanager
def unpacked_sequences() -> Iterator[None]:
    """Tell transformers that no row packs several documents.

    It would look that up in the position ids, which needs their values: impossible on the meta device, and a
    synchronisation on a GPU.
    """
    original = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = original


def read_structure(model: PreTrainedModel, name: str) -> Structure:
    """Find the parts of `model`, which lies on the meta device and is called `name` in messages.

    Raises:
        SpecError: names the module that stands in the way of a division into stages.
    """
    layers = _layers_path(model, name)
    embedding, head = model.get_input_embeddings(), _output_embeddings(model)
    paths = {module: path for path, module in model.named_modules()}
    if embedding not in paths or head not in paths:
        raise SpecError(f"{name}: {type(model).__name__} has no embedding or no head of its own; it cannot be trained")
    tuple_size, seen = _first_run(model, layers, name)
    unused = [path for path, _ in _owners(model, layers) if path not in (*seen.before, *seen.after)]
    if unused:
        raise SpecError(
            f"{name}: '{unused[0]}' of {type(model).__name__} is no part of its forward pass; not supported"
        )
    return Structure(
        layers=layers,
        embedding=paths[embedding],
        head=paths[head],
        before=tuple(seen.before),
        after=tuple(seen.after),
        tuple_size=tuple_size,
        divides_sequence=_divides_sequence(model, layers, tuple_size, paths[head]),
    )


def _first_run(model: PreTrainedModel, layers: str, name: str) -> tuple[int, "_Seen"]:
    """Return how many values the model expects of a layer (0: no tuple), and what a run saw."""
    detail = "the hidden states lose a dimension on the way"
    for tuple_size in (0, 2):
        try:
            seen = _run(model, layers, tuple_size)
        except Exception as error:  # whatever the code of one of hundreds of classes raises
            detail = " ".join(str(error).split())[:200]
            continue
        if seen.logits_dims == 3 and not seen.collapsed:
            return tuple_size, seen
    raise SpecError(f"{name}: {type(model).__name__} cannot be divided at '{layers}' ({detail})")


def _output_embeddings(model: PreTrainedModel) -> nn.Module | None:
    found: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    return found


def _layers_path(model: PreTrainedModel, name: str) -> str:
    config: Any = model.config
    count: int = config.num_hidden_layers
    counts = {count, getattr(config, "num_layers", count)}  # LongCat-Flash has half as many layers as hidden ones
    lists = [path for path, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) in counts]
    if not lists:
        raise SpecError(f"{name}: {type(model).__name__} has no list of its {count} layers; it cannot be trained")
    outermost: str = min(lists, key=lambda path: path.count("."))
    return outermost


def _owners(model: nn.Module, layers: str) -> list[tuple[str, nn.Module]]:
    """Return the modules outside the layers that hold parameters themselves."""
    return [
        (path, module)
        for path, module in model.named_modules()
        if not path.startswith(f"{layers}.") and next(module.parameters(recurse=False), None) is not None
    ]


@dataclass
class _Seen:
    before: list[str]
    after: list[str]
    logits_dims: int = 0
    collapsed: bool = False
    reached_layers: bool = False
    head_input: tuple[int, ...] = ()


def _run(
    model: PreTrainedModel, layers: str, tuple_size: int, *, head: str | None = None, sequence: int | None = None
) -> _Seen:
    """Run the model with stubs for layers. `sequence` replaces the hidden states after the last by shorter ones."""
    seen, own = _Seen([], []), model.get_submodule(layers)
    assert isinstance(own, nn.ModuleList)
    stubs = [PassedLayer(layer, tuple_size) for layer in own]
    last = ReceivedLayer(own[-1], tuple_size)
    stubs[-1] = last if sequence else stubs[-1]
    last.received = torch.empty(_BATCH, sequence or _SEQ, model.config.hidden_size, device="meta")
    hooks = [module.register_forward_pre_hook(_note(seen, path)) for path, module in _owners(model, layers)]
    hooks.append(stubs[0].register_forward_pre_hook(_note_layers(seen)))
    if head:
        hooks.append(model.get_submodule(head).register_forward_pre_hook(_note_input(seen)))
    _replace(model, layers, nn.ModuleList(stubs))
    try:
        with torch.no_grad(), unpacked_sequences():
            tokens = torch.zeros(_BATCH, _SEQ, dtype=torch.int64, device="meta")
            seen.logits_dims = model(input_ids=tokens, use_cache=False).logits.dim()
    finally:
        _replace(model, layers, own)
        for hook in hooks:
            hook.remove()
    return seen


def _note(seen: _Seen, path: str) -> Any:
    def hook(_module: nn.Module, given: tuple[Any, ...]) -> None:
        places = seen.after if seen.reached_layers else seen.before
        if path not in places:
            places.append(path)
        if seen.reached_layers and given and isinstance(given[0], Tensor) and given[0].dim() != 3:
            seen.collapsed = True

    return hook


def _note_layers(seen: _Seen) -> Any:
    def hook(_module: nn.Module, _given: tuple[Any, ...]) -> None:
        seen.reached_layers = True

    return hook


def _note_input(seen: _Seen) -> Any:
    def hook(_module: nn.Module, given: tuple[Any, ...]) -> None:
        seen.head_input = tuple(given[0].shape)

    return hook


def _divides_sequence(model: PreTrainedModel, layers: str, tuple_size: int, head: str) -> bool:
    half = _SEQ // 2
    try:
        seen = _run(model, layers, tuple_size, head=head, sequence=half)
    except Exception:  # the code after the layers counts on the whole sequence
        return False
    return seen.head_input[:2] == (_BATCH, half)


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
