import pytest
import torch

from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.profiler.probes.compute.layer_check import check_layer, kept_bytes, one_rank
from shardwright.profiler.probes.compute.real_layer import layer_skeleton
from shardwright.profiler.timing.live_bytes import LiveBytes
from shardwright.profiler.timing.probe import UnavailableError, Work
from shardwright.specs.plan import POLICIES
from shardwright.specs.profile import LayerCheck
from shardwright.specs.training import Precision, TrainingSpec
from tests.catalog.huggingface.small_configs import LLAMA
from tests.costmodel.fakes import RoundTimes, round_cluster
from tests.profiler.kernel_trace import kernels_of
from tests.profiler.probes.compute.test_real_layer import FAMILIES, build, read
from tests.profiler.steady_machine import SteadyMachine

_MODEL = read(LLAMA)
_TRAINING = TrainingSpec(seq_len=32, global_batch=8, precision=Precision(compute="fp32"))
_TIMES = RoundTimes(node=round_cluster(nodes=1, devices_per_node=1).node)


def _matmuls(work: Work) -> float:
    """A clock of a second a matmul."""
    return float(sum(name.startswith("mm") for name, _ in kernels_of(work)))


def _checks(machine: SteadyMachine, family: str = "llama") -> list[LayerCheck]:
    return check_layer(read(FAMILIES[family]), _TRAINING, 2, machine=machine, times=_TIMES)


def test_seconds_are_those_of_the_forward_the_backward_and_the_recomputed_pass() -> None:
    plain, full = _checks(SteadyMachine(seconds_of=_matmuls))
    assert (plain.recompute, full.recompute) == ("none", "full")
    assert (plain.forward_seconds, plain.backward_seconds) == (7.0, 14.0)
    # recompute stops before the last matmul, whose output no gradient reads
    assert (full.forward_seconds, full.backward_seconds) == (7.0, 20.0)


def test_beside_them_stands_what_the_cost_model_says_of_one_rank() -> None:
    plain, full = _checks(SteadyMachine())
    row = WorkModel(_MODEL, _TRAINING, _TIMES, one_rank(2)).layer(_MODEL.layer_classes[0])
    again = row.recompute_seconds_by_policy[0, POLICIES.index("full")]
    assert plain.predicted_forward_seconds == full.predicted_forward_seconds == row.forward_seconds[0]
    assert plain.predicted_backward_seconds == row.backward_seconds[0]
    assert full.predicted_backward_seconds == row.backward_seconds[0] + again > plain.predicted_backward_seconds
    assert (plain.model, plain.seq_len, plain.micro_batch, plain.format) == ("small", 32, 2, "fp32")


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_what_autograd_keeps_is_what_the_cost_model_says(compute: str) -> None:
    training = _TRAINING.model_copy(update={"precision": Precision(compute=compute)})
    plain, full = check_layer(_MODEL, training, 2, machine=SteadyMachine(), times=_TIMES)
    assert plain.activation_bytes == plain.predicted_activation_bytes
    assert full.activation_bytes == full.predicted_activation_bytes == 64 * 64 * (4 if compute == "fp32" else 2)


def test_what_is_kept_is_what_stays_alive() -> None:
    """Found another way: storages that a forward pass leaves behind, but for its result, and with its input."""
    layer = build(_MODEL, seq_len=32)
    with LiveBytes() as live:
        out = layer.forward()
        left = live.now - out.untyped_storage().nbytes() + layer.hidden.untyped_storage().nbytes()
    assert kept_bytes(layer) == left


def test_layer_classes_are_told_apart() -> None:
    checks = _checks(SteadyMachine(), "deepseek_v3")
    assert [check.model for check in checks] == ["small (layer 0)"] * 2 + ["small (layer 1)"] * 2


def test_nothing_is_left_of_the_rehearsal_in_what_is_measured() -> None:
    skeleton = layer_skeleton(_MODEL, _MODEL.layer_classes[0], _TRAINING, 2, torch.float32)
    before = [weight.device.type for weight in skeleton.layer.parameters()]
    one, other = skeleton.build(torch.device("cpu")), skeleton.build(torch.device("cpu"))
    assert [weight.device.type for weight in skeleton.layer.parameters()] == before == ["meta"] * 9
    addresses = {weight.data_ptr() for layer in (one, other) for weight in layer.layer.parameters()}
    assert len(addresses) == 18


def test_memory_is_asked_for_before_it_is_taken() -> None:
    with LiveBytes() as live:
        layer = build(_MODEL, seq_len=32)
        out = layer.forward()
        torch.autograd.grad(out, layer.leaves, torch.randn_like(out))
    built: list[bool] = []

    def clock(_: Work) -> float:
        built.append(True)
        return 1.0

    with pytest.raises(UnavailableError, match=r"one layer of small needs .* GB are free; give a smaller micro batch"):
        _checks(SteadyMachine(free_bytes=0.9 * live.peak, seconds_of=clock))
    assert built == []
    assert len(_checks(SteadyMachine(free_bytes=1.5 * live.peak, seconds_of=clock))) == 2


def test_a_long_sequence_under_a_fused_kernel_asks_for_no_scores() -> None:
    training = TrainingSpec(seq_len=65536, global_batch=8, precision=Precision(compute="fp32"))
    scores_bytes = 4.0 * 4 * 65536**2
    with pytest.raises(UnavailableError, match="needs 0") as caught:
        check_layer(_MODEL, training, 1, machine=SteadyMachine(free_bytes=1e6), times=_TIMES)
    assert float(str(caught.value).split("needs ")[1].split()[0]) * 1e9 < 0.05 * scores_bytes


def test_experts_in_fp32_ask_for_twice_what_those_in_bf16_do() -> None:
    def needed_gigabytes(compute: str) -> float:
        training = TrainingSpec(seq_len=4096, global_batch=8, precision=Precision(compute=compute))
        with pytest.raises(UnavailableError) as caught:
            check_layer(
                read(FAMILIES["mixtral"]),
                training,
                4,
                machine=SteadyMachine(free_bytes=1.0),
                times=_TIMES,
            )
        return float(str(caught.value).split("needs ")[1].split()[0])

    assert needed_gigabytes("fp32") == pytest.approx(2 * needed_gigabytes("bf16"), rel=0.15)
