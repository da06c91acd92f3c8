"""The parameters and optimizer state off the device, as a checkpoint holds them: by parameter, divided over ranks as it is."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .engine import OffloadEngine
from .fetching import Source
from .hosted import Hosted

BEFORE_UPDATE = "before_update"
"""The name of the parameters that passes read beside a delayed update, in a checkpoint."""


class Contents:
    """What an engine holds between two steps. A shard that lies in one place is shown as it lies; one in several is put together. Where
    updates are delayed, the parameters that passes read next are shown as a state `BEFORE_UPDATE`.

    `device_state`: the state that the optimizer of the device keeps for each part that stays there.
    """

    def __init__(self, engine: OffloadEngine, device_state: Mapping[Tensor, dict[str, Tensor]]) -> None:
        engine.settle()
        self._engine, self._device_state = engine, device_state
        self._names = ("", *engine.state_names, *([BEFORE_UPDATE] if engine.delays else []))
        self._arrays: dict[int, list[Tensor]] = {}
        self._sources = {source.shard.parameter: source for source in engine.sources()}
        self._whole: dict[nn.Parameter, list[Tensor]] = {}
        self._steps: dict[nn.Parameter, Tensor] = {}

    def of(self, parameter: nn.Parameter) -> dict[str, Tensor] | None:
        """Return a parameter under the name "" and its state under torch's names; None: the engine does not hold it."""
        source = self._sources.get(parameter)
        if source is None:
            return None
        arrays = self._put_together(source)
        found: dict[str, Tensor] = {
            name: source.shard.like(array) for name, array in zip(self._names, arrays, strict=True)
        }
        if self._engine.state_names:
            self._steps[parameter] = found["step"] = torch.tensor(float(source.shard.steps))
        return found

    def write_back(self, *, all_read: bool = True) -> None:
        """Take over what was read into the tensors that `of` returned. Without `all_read` it had no `BEFORE_UPDATE`: passes read the latest."""
        for parameter, step in self._steps.items():
            self._sources[parameter].shard.steps = int(step)
        for parameter, arrays in self._whole.items():
            source = self._sources[parameter]
            for hosted, piece in source.pieces:
                for array, whole in zip(self._arrays_of(hosted), arrays, strict=True):
                    array[piece.offset : piece.end] = whole[piece.start : piece.stop]
            if source.device_part is not None:
                for name, whole in zip(self._names, arrays, strict=True):
                    self._device_array(source.device_part, name).copy_(whole[source.device_start :])
                if parameter in self._steps and source.device_part in self._device_state:  # made by the first update
                    self._device_state[source.device_part]["step"].copy_(self._steps[parameter])
        self._engine.forget_fetched()
        if not all_read:
            self._engine.show_latest()

    def _put_together(self, source: Source) -> list[Tensor]:
        if len(source.pieces) == 1 and source.device_part is None:
            hosted, piece = source.pieces[0]
            return [array[piece.offset : piece.end] for array in self._arrays_of(hosted)]
        device = self._engine.device
        arrays = self._whole[source.shard.parameter] = [
            torch.empty(source.shard.elements, device=device) for _ in self._names
        ]
        for hosted, piece in source.pieces:
            for array, whole in zip(self._arrays_of(hosted), arrays, strict=True):
                whole[piece.start : piece.stop] = array[piece.offset : piece.end]
        if source.device_part is not None:
            for name, whole in zip(self._names, arrays, strict=True):
                whole[source.device_start :] = self._device_array(source.device_part, name)
        return arrays

    def _arrays_of(self, hosted: Hosted) -> list[Tensor]:
        return self._arrays.setdefault(id(hosted), hosted.arrays())

    def _device_array(self, part: Tensor, name: str) -> Tensor:
        """Return a part that stays on the device, or its state, which is zero before the first update."""
        if not name:
            return part.detach()
        if name == BEFORE_UPDATE:  # it is updated at once
            return part.detach().clone()
        state = self._device_state.get(part)
        return state[name] if state else torch.zeros_like(part)
