"""What a call replaces does not outlast it, so that calls may share a world."""

import torch.distributed as dist

from shardwright.executor.experts import exchange as experts
from shardwright.executor.model import tensor_parallel
from shardwright.executor.passes import pipeline
from tests.parity import sabotage
from tests.parity.putting_back import PutBack


def _replace_in_a_module() -> None:
    sabotage.forget_norm_reduction()


def test_modules_classes_and_torch_are_as_before() -> None:
    before = (
        tensor_parallel.replicate,
        vars(experts._Uneven)["backward"],
        vars(pipeline._SyncedStage).get("perform_reduce_grad"),
        dist.all_reduce,
    )
    with PutBack() as put_back:
        sabotage.forget_norm_reduction()
        sabotage.lose_gradients_of_sent_tokens()
        sabotage.scale_by_microbatches()
        sabotage.norm_of_this_rank()
        assert dist.all_reduce is not before[-1]
    assert before == (
        tensor_parallel.replicate,
        vars(experts._Uneven)["backward"],
        vars(pipeline._SyncedStage).get("perform_reduce_grad"),
        dist.all_reduce,
    )
    assert len(put_back.replaced) == len(before)
    assert put_back.whole
