"""The bytes that the cost model says a layer with adapters keeps, beside those that torch's autograd saves."""

from typing import Literal

import pytest

from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.frozen.adapters import Adapters
from shardwright.profiler.probes.compute.real_layer import RealLayer, layer_skeleton
from shardwright.specs.plan import POLICIES
from shardwright.specs.trainable import Trainable
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import RoundTimes
from tests.costmodel.layers.counted_layers import DTYPES, META, SEQ, Layout, _counting, _tensors, on_a_gpu
from tests.costmodel.layers.test_saved_tensors import read
from tests.specs.test_candidates import candidates

from .peft_layer import adapt

TOLERANCE = 0.01
RANK = 4


def counted(name: str, training: TrainingSpec) -> int:
    """Bytes that autograd saves of transformers' layer with PEFT's adapters."""
    model = read(name)
    dtype, layout = DTYPES[training.precision.compute], Layout()
    built = layer_skeleton(model, model.layer_classes[0], training, layout.batch, dtype).build(META)
    real = RealLayer(built.layer.train(), layout.hidden(model.hidden_size, dtype), built.arguments, built.options)
    adapt(real.layer, training.trainable.modules, training.trainable.rank)
    shared = [tensor for value in (*real.arguments, *real.options.values()) for tensor in _tensors(value)]
    with _counting(real.layer, *shared) as sizes, on_a_gpu():
        real.forward(recompute=False)
    return sum(sizes.values())


def job(
    targets: str,
    kernel: Literal["flash", "unfused"] = "flash",
    compute: Literal["bf16", "fp32"] = "bf16",
    rank: int = RANK,
) -> TrainingSpec:
    trainable = Trainable.model_validate(f"lora:r={rank},targets={targets}")
    return TrainingSpec(
        seq_len=SEQ, global_batch=2, attention=kernel, precision=Precision(compute=compute), trainable=trainable
    )


def modelled(name: str, training: TrainingSpec) -> float:
    model = read(name)
    work = WorkModel(model, training, RoundTimes(), candidates(micro_batch=2))
    return float(work.layer(model.layer_classes[0]).activation_bytes_by_policy[0, POLICIES.index("none")])


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("targets", ["attention", "q_proj+v_proj", "o_proj", "mlp", "down_proj", "all-linear"])
@pytest.mark.parametrize("kernel", ["flash", "unfused"])
@pytest.mark.parametrize("compute", ["bf16", "fp32"])
def test_kept_bytes_are_those_of_autograd(
    name: str, targets: str, kernel: Literal["flash", "unfused"], compute: Literal["bf16", "fp32"]
) -> None:
    training = job(targets, kernel, compute)
    assert modelled(name, training) == pytest.approx(counted(name, training), rel=TOLERANCE)


def test_inputs_that_no_gradient_reads_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    training = job("q_proj+v_proj")
    saved = counted("llama", training)
    monkeypatch.setattr(Trainable, "keeps_input", lambda self, *names: True)
    assert modelled("llama", training) != pytest.approx(saved, rel=TOLERANCE)


def test_the_input_of_b_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    training = job("all-linear", rank=64)
    saved = counted("llama", training)
    assert modelled("llama", training) == pytest.approx(saved, rel=TOLERANCE)
    monkeypatch.setattr(Adapters, "kept_bytes", 0.0)
    assert modelled("llama", training) != pytest.approx(saved, rel=TOLERANCE)
