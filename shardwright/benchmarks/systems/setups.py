"""What the checks of this room share: a line of the table, and jobs in the words of the papers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model, model_from_config
from shardwright.planner import TOLERANCE, search
from shardwright.planner.space import asked
from shardwright.specs import ClusterSpec, Estimate, Precision, TrainingSpec
from shardwright.specs.model import ModelSpec


@dataclass(frozen=True)
class Line:
    """What a paper's abstract reports, what we predict for that setup, and where the difference comes from."""

    reported: str
    predicted: str
    cause: str


@dataclass(frozen=True)
class System:
    """One or more rows of the list of systems. `check`: computes its line, None where the abstract has nothing to check; then `words` say
    where the idea is in this project, or that it is not."""

    rows: str
    name: str
    words: str = ""
    check: Callable[[], Line] | None = None


FP16_GRADIENTS_TOO = Precision(
    compute="fp16", gradients="bf16"
)  # two bytes each, as mixed precision of 2019 to 2021 had them
FP8 = Precision(linear="fp8", gather="fp8")


def gpt(layers: int, hidden: int, heads: int, *, vocabulary: int = 51200, positions: int = 2048) -> ModelSpec:
    """A GPT-2 of these widths: Megatron's models have 51,200 rows in their vocabulary."""
    config = {
        "model_type": "gpt2",
        "n_layer": layers,
        "n_embd": hidden,
        "n_head": heads,
        "n_positions": positions,
        "vocab_size": vocabulary,
        "activation_function": "gelu_new",
    }
    return model_from_config(config, name=f"gpt-{layers}x{hidden}", source="benchmarks/systems")


def cluster_like(device: str, devices: int, node: str) -> ClusterSpec:
    """Devices in other nodes than their standard ones, as a cluster file says it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.toml"
        path.write_text(f'device = "{device}"\ndevices = {devices}\nnode_like = "{node}"\n', encoding="utf-8")
        return load_cluster(str(path))


def alone(device: str, *, host_bytes: float, cores: int, host_bytes_per_s: float) -> ClusterSpec:
    """One device with a whole server's host, as the only one in use."""
    cluster = load_cluster(f"{device}:1")
    group = cluster.groups[0]
    changed = {"memory_bytes": host_bytes, "cores": cores, "memory_bytes_per_s": host_bytes_per_s}
    host = group.host.model_copy(update=changed)
    return cluster.model_copy(update={"groups": (group.model_copy(update={"host": host}),)})


def planned(model: ModelSpec | str, cluster: ClusterSpec | str, training: TrainingSpec, **choices: Any) -> Estimate:
    """The planner's choice with these `choices` fixed, by the names of the options of `plan`.

    Raises:
        SpecError, InfeasibleError: nothing divides, or nothing fits.
    """
    model = load_model(model) if isinstance(model, str) else model
    cluster = load_cluster(cluster) if isinstance(cluster, str) else cluster
    return search(model, cluster, training, fixed=asked(choices), tolerance=TOLERANCE, runners_up=0).estimate


def tflops(estimate: Estimate, *, repeated: bool = False) -> float:
    """Model TFLOP/s of a device; with `repeated` those of recomputation count too, as papers before 2023 count them."""
    flops = estimate.hardware_flops if repeated else estimate.model_flops
    return flops / estimate.step_seconds / estimate.device_count / 1e12
