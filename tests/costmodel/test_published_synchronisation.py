"""1-bit Adam on the network of its paper (Tang et al. 2021, arXiv 2102.02888): where its 3.3 times come from.

The paper states up to 5 times less volume over a whole run, its warm-up included, and 3.3 times more throughput for BERT-Large. With a
share s of communication, volume / 5 gives 1 / (1 - s + s / 5), so 3.3 needs s = 0.871. Its table 1 states the share on 16 nodes of 4 V100
with Ethernet: 93% with one microbatch of 16 sequences of 128 tokens a step and rank, and 83% with four.
"""

from functools import cache, partial

import pytest
from scipy.optimize import brentq

from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel import estimate_plan
from shardwright.specs import ClusterSpec, Estimate, LayerRun, Mesh, Plan, Precision, Stage, Sync, TrainingSpec

BERT_LARGE = load_model("gpt2-355m")
"""As many layers, heads and hidden states; 5% more parameters, in a larger vocabulary."""

NODES, ALL_REDUCE_SECONDS = 16, 2.2754  # table 1, Ethernet, 16 nodes, batch 16, one microbatch


def cluster(rate: float) -> ClusterSpec:
    """Nodes of 4 V100 with one NIC of so many bytes/s."""
    found = load_cluster("v100-sxm-32gb:64@ethernet-10g")
    group = found.groups[0]
    assert group.nic is not None
    nic = group.nic.model_copy(update={"bytes_per_s": rate})
    node = group.model_copy(update={"devices_per_node": 4, "nodes": NODES, "nic": nic, "nics_per_node": 1})
    return found.model_copy(update={"groups": (node,)})


@cache
def published_network() -> ClusterSpec:
    """The NICs with which the all-reduce takes as long as table 1 says; everything else is the cost model's own."""
    seconds = partial(estimate, 1, Sync())
    rate = brentq(lambda rate: seconds(cluster(rate)).step.data_parallel - ALL_REDUCE_SECONDS, 1e8, 5e9)
    return cluster(rate)


def estimate(microbatches: int, sync: Sync, on: ClusterSpec) -> Estimate:
    plan = Plan(
        mesh=Mesh(dp_replicate=64),
        micro_batch=16,
        microbatches=microbatches,
        stages=(Stage(layers=(LayerRun(count=24),)),),
        sync=sync,
    )
    training = TrainingSpec(
        seq_len=128, global_batch=plan.global_batch, precision=Precision(compute="fp16", gradients="bf16")
    )
    return estimate_plan(BERT_LARGE, on, training, plan)


def share(microbatches: int) -> float:
    found = estimate(microbatches, Sync(), published_network())
    return found.step.data_parallel / found.step_seconds


def test_the_share_that_3_3_times_needs() -> None:
    needed = brentq(lambda s: 1 / (1 - s + s / 5) - 3.3, 0, 1)
    assert needed == pytest.approx(0.871, abs=5e-4)
    assert brentq(lambda s: 1 / (1 - s + s / 5) - 2.9, 0, 1) == pytest.approx(0.819, abs=5e-4)


def test_compute_is_that_of_table_1() -> None:
    """35.71 ms forward and 60.81 ms backward."""
    assert estimate(1, Sync(), published_network()).step.compute == pytest.approx(0.0965, rel=0.1)


def test_the_shares_of_table_1() -> None:
    """Ours are 2% of a step higher: DeepSpeed's step takes 76 ms there, and ours 19."""
    assert share(1) == pytest.approx(0.93, abs=0.03)
    assert share(4) == pytest.approx(0.83, abs=0.04)


def test_the_point_lies_between_one_and_four_microbatches() -> None:
    """The share falls with the compute of a step, and passes 87.1% there; a fifth of the exchange then gives 3.3 times."""
    shares = {count: share(count) for count in range(1, 5)}
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert shares[1] > 0.871 > shares[4]
    near = min(shares, key=lambda count: abs(shares[count] - 0.871))
    step = estimate(near, Sync(), published_network())
    fifth = step.step_seconds - 0.8 * step.step.data_parallel
    assert step.step_seconds / fifth == pytest.approx(3.3, rel=0.06)


def test_after_the_warm_up_more_is_gained_than_over_the_whole_run() -> None:
    """One bit moves a sixteenth of fp16 gradients. With 14.7% of the steps in full, that is the fifth of the paper's volume."""
    exact, one_bit = (estimate(2, sync, published_network()) for sync in (Sync(), Sync(bits=1, warmup_steps=23_000)))
    assert 3.3 < exact.step_seconds / one_bit.step_seconds < 16
    warm = brentq(lambda w: w + (1 - w) / 16 - 1 / 5, 0, 1)
    assert warm == pytest.approx(0.147, abs=5e-4)
