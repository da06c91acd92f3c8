"""A pipeline stage's receive buffers: torch's stage holds all of them, this project's those of messages on their way."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining._utils import InferenceMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from shardwright.executor.passes.receive_buffers import LeanStage

MICROBATCHES = 6
META = torch.zeros(2, 8, requires_grad=True)


@pytest.fixture
def middle_of_three() -> Iterator[None]:
    """This process is rank 1 of 3 whose messages arrive at once and hold anything."""
    dist.init_process_group("fake", rank=1, world_size=3, store=FakeStore())
    yield
    dist.destroy_process_group()


def held(stage: PipelineStage) -> int:
    """How many receive buffers `stage` holds."""
    infos = [*stage.args_recv_info.values(), *stage.grad_recv_info.values()]
    return sum(info.buffer is not None for each in infos for info in each)


def run_1f1b(stage: PipelineStage) -> list[int]:
    """Run a forward and its backward of each microbatch; return how many buffers are held after each."""
    stage._prepare_forward_infra(MICROBATCHES, (), has_backward=True)
    stage._prepare_backward_infra(MICROBATCHES)
    found = [held(stage)]
    for chunk in range(MICROBATCHES):
        stage.get_fwd_recv_ops(chunk)
        stage.forward_one_chunk(chunk, ())
        stage.get_bwd_recv_ops(chunk)
        stage.backward_one_chunk(chunk, last_backward=chunk == MICROBATCHES - 1)
        found.append(held(stage))
    return found


def stage_of(kind: type[PipelineStage]) -> PipelineStage:
    class Doubling(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return given * 2

    stage = kind(Doubling(), 1, 3, torch.device("cpu"), input_args=META, output_args=META, group=dist.group.WORLD)
    stage.has_backward, stage._inference_mode = True, InferenceMode.STATIC
    return stage


@pytest.mark.usefixtures("middle_of_three")
def test_a_stage_between_others_holds_no_buffer_that_is_not_due() -> None:
    assert run_1f1b(stage_of(LeanStage)) == [0] * (MICROBATCHES + 1)


@pytest.mark.usefixtures("middle_of_three")
def test_torchs_own_stage_holds_two_for_each_microbatch() -> None:
    """The figure that the cost model counts for stacks of torch's stages."""
    assert run_1f1b(stage_of(PipelineStage)) == [2 * MICROBATCHES] * (MICROBATCHES + 1)
