"""Attention of a profile: the kernel that stands for the software's, and heads of latent attention."""

import pytest

from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.measured import ProfileTimes, attention_variants
from shardwright.specs.device import Device
from shardwright.specs.profile import Profile, Series
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import round_cluster
from tests.costmodel.op_times.made_up_profile import attention_rule, made_up_profile, series

AXES = ("batch", "heads", "kv_heads", "length", "head_size")


def kernel(variant: str, factor: float, head_size: float = 128.0, computed: float = 128.0) -> Series:
    """A forward pass that takes `factor` times the rule for heads of `computed`."""
    sizes = [(1.0, heads, heads, length, head_size) for heads in (8.0, 32.0) for length in (512.0, 2048.0, 8192.0)]
    return series(
        "attention",
        f"forward-{variant}",
        "bf16",
        AXES,
        sizes,
        lambda batch, heads, kv_heads, length, _: factor * attention_rule(batch, heads, kv_heads, length, computed),
    )


def since_hopper() -> Device:
    device = round_cluster().node.device
    found = device.model_copy(update={"peak_flops_per_s": {"bf16": 989e12, "fp32": 67e12}})
    assert found.since_hopper
    assert not device.since_hopper
    return found


def times(stack: str, *kernels: Series, device: Device | None = None) -> ProfileTimes:
    profile: Profile = made_up_profile()
    held = profile.model_copy(update={"series": (*profile.series, *kernels)})
    group = round_cluster().groups[0].model_copy(update={"profile": held})
    group = group.model_copy(update={"device": device or group.device})
    cluster = round_cluster().model_copy(update={"groups": (group,)})
    found = op_times(cluster, TrainingSpec(seq_len=2048, global_batch=8, stack=stack))
    assert isinstance(found, ProfileTimes)
    return found


def ratio(found: ProfileTimes) -> float:
    """Seconds of 16 heads of 128 over those of the rule, which torch's own choice follows."""
    flops = 2.0 * 4 * 16 * 2048 * 2049 * 128
    seconds = found.attention_seconds(flops, head_size=128, seq_len=2048, backward=False, value_size=128)
    return float(seconds) / attention_rule(4, 16, 16, 2048, 128)


def test_software_of_hopper_runs_kernels_written_for_it() -> None:
    """megatron-core runs cuDNN or FlashAttention-3, torchtitan torch's FlashAttention-2; before Hopper both run the latter."""
    kernels = kernel("flash", 2.0), kernel("cudnn", 3.0), kernel("flash3", 4.0)
    assert ratio(times("megatron-core", *kernels, device=since_hopper())) == pytest.approx(4, rel=0.05)
    assert ratio(times("megatron-core", *kernels[:2], device=since_hopper())) == pytest.approx(3, rel=0.05)
    assert ratio(times("megatron-core", *kernels)) == pytest.approx(2, rel=0.05)
    assert ratio(times("shardwright", *kernels, device=since_hopper())) == pytest.approx(2, rel=0.05)


def test_without_its_kernel_torchs_choice_counts() -> None:
    assert ratio(times("megatron-core", kernel("flash", 2.0), device=since_hopper())) == pytest.approx(1, rel=0.05)
    assert ratio(times("shardwright", kernel("cudnn", 3.0))) == pytest.approx(1, rel=0.05)


def test_the_first_generation_is_no_kernel_of_torchs() -> None:
    assert attention_variants("flash-1", since_hopper()) == ("",)


class TestLatent:
    """16 heads of 192 with values of 128: as many FLOPs as 16 heads of 160."""

    flops = 2.0 * 4 * 16 * 2048 * 2049 * 160

    def seconds(self, *kernels: Series, value_size: float = 128) -> float:
        found = times("shardwright", *kernels)
        how = {"head_size": 192, "seq_len": 2048, "backward": False, "value_size": value_size}
        return float(found.attention_seconds(self.flops, **how))  # type: ignore[arg-type]  # by name

    def test_its_own_series(self) -> None:
        seconds = self.seconds(kernel("mla", 3.0, 192.0, 160.0))
        assert seconds == pytest.approx(3 * attention_rule(4, 16, 16, 2048, 160), rel=0.05)

    def test_values_of_another_size_are_no_latent_heads(self) -> None:
        latent = kernel("mla", 3.0, 192.0, 160.0)
        assert self.seconds(latent, value_size=192) == self.seconds(value_size=192)

    def test_without_it_other_heads_count(self) -> None:
        assert self.seconds() == self.seconds(value_size=192)
