"""What autograd saves in the forward passes of a step, without parameters."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, UntypedStorage, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


class SavedBytes:
    """Counts each storage once that autograd saves inside `counting`, also of what is recomputed: the inputs of that. What is saved while
    `leaves_out` holds is not counted."""

    def __init__(self, leaves_out: Callable[[], bool] = lambda: False) -> None:
        self._storages: dict[int, tuple[UntypedStorage, int]] = {}
        self._leaves_out = leaves_out

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def of_activations(self, model_parts: Iterable[nn.Module]) -> int:
        """Return the bytes of all storages that hold no weights of `model_parts`."""
        weights = {storage._cdata for part in model_parts for storage in _weights(part)}
        return sum(size for key, (_, size) in self._storages.items() if key not in weights)

    def _pack(self, tensor: Tensor) -> Tensor:
        if self._leaves_out():
            return tensor
        for local in _locals(tensor):
            storage = local.untyped_storage()
            # a weight's storage is empty between its uses; kept here, so that no other storage gets its number
            self._storages.setdefault(storage._cdata, (storage, storage.nbytes()))
        return tensor


def _locals(tensor: Tensor) -> list[Tensor]:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return [getattr(local, "elem", local)]  # of a collective that nothing has waited for


def _weights(part: nn.Module) -> Iterator[UntypedStorage]:
    """Yield the storages of the gathered weights that FSDP keeps for its modules, and of the shards."""
    for parameter in part.parameters():
        yield _locals(parameter.detach())[0].untyped_storage()
    for module in part.modules():
        if not isinstance(module, FSDPModule):
            continue
        for group in module._get_fsdp_state()._fsdp_param_groups:
            for sharded in group.fsdp_params:
                for gathered in (*sharded.all_gather_outputs, getattr(sharded, "_unsharded_param", None)):
                    if gathered is not None:
                        yield _locals(gathered.detach())[0].untyped_storage()
