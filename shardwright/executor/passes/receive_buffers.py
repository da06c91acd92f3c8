"""Pipeline stages that hold what they receive only as long as they need it, and label their passes for torch.profiler."""

import copy
from collections.abc import Iterable
from typing import Any

from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining._utils import _make_tensor_from_meta
from torch.distributed.pipelining.stage import _RecvInfo
from torch.profiler import record_function


class LeanStage(PipelineStage):
    """A stage whose receive buffers are made when a message is due, and belong to the pass that reads them.

    torch's own stage holds a buffer for each microbatch's hidden states and one for its gradients, from the first step on. With M
    microbatches of s bytes these are 2 M s bytes, which no plan counts: many gigabytes for hundreds of microbatches.
    """

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **options: Any) -> Any:
        with record_function(f"{self.stage_index}F{fwd_chunk_id}"):
            return super().forward_one_chunk(fwd_chunk_id, *args, **options)

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> Any:
        with record_function(f"{self.stage_index}{'B' if full_backward else 'I'}{bwd_chunk_id}"):
            return super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> Any:
        with record_function(f"{self.stage_index}W{bwd_chunk_id}"):
            return super().backward_weight_one_chunk(bwd_chunk_id, last_backward)

    def _setup_forward_recv_info(self, num_microbatches: int, has_backward: bool) -> None:
        super()._setup_forward_recv_info(1, has_backward)  # type: ignore[no-untyped-call, unused-ignore]  # torch's
        infos = _emptied(self.args_recv_info[0])
        self.args_recv_info = {chunk: tuple(map(copy.copy, infos)) for chunk in range(num_microbatches)}

    def _create_grad_recv_info(self, act_send_info: dict[int, list[int]]) -> tuple[_RecvInfo, ...]:
        return _emptied(super()._create_grad_recv_info(act_send_info))

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[Any]:
        self._fill(self.args_recv_info[fwd_chunk_id])
        return super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[Any]:
        if self.has_backward and not self.is_last:
            self._fill(self.grad_recv_info[bwd_chunk_id])
        return super().get_bwd_recv_ops(bwd_chunk_id)

    def _retrieve_recv_activations(self, fwd_chunk_id: int) -> Any:
        received = super()._retrieve_recv_activations(fwd_chunk_id)
        _emptied(self.args_recv_info[fwd_chunk_id])
        return received

    def _retrieve_recv_grads(self, bwd_chunk_id: int) -> Any:
        received = super()._retrieve_recv_grads(bwd_chunk_id)
        _emptied(self.grad_recv_info[bwd_chunk_id])
        return received

    def _fill(self, infos: Iterable[_RecvInfo]) -> None:
        for info in infos:
            if info.tensor_meta is not None and not info.is_root_arg:
                info.buffer = _make_tensor_from_meta(info.tensor_meta, self.device)


def _emptied(infos: tuple[_RecvInfo, ...]) -> tuple[_RecvInfo, ...]:
    """Take the buffers away from `infos`, and return these."""
    for info in infos:
        info.buffer = None
    return infos
