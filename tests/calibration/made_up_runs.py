"""Training runs made up from chosen constants, for a fit to find these again."""

from dataclasses import replace

from shardwright.calibration.known_constants import KNOWN
from shardwright.calibration.training_fit import Run
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.op_times.datasheet import CatalogTimes
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.training import TrainingSpec
from shardwright.validation.layout.plans import Reading
from shardwright.validation.rows.measured_run import MeasuredRun
from shardwright.validation.rows.metrics import MeasuredStep, Metric

MODEL = load_model("llama-3.1-8b")
CHANGED = {
    "matmul_fraction": 1.0,
    "blackwell_matmul_fraction": 0.75,
    "broadcast_seconds": 3e-3,
}
TRUE = {name: known.value for name, known in KNOWN.items()} | CHANGED


def made_up_run(cluster_name: str, seq_len: int, tp: int = 1, *, stack: str = "fsdp", zero: int = 3) -> Run:
    """Of Llama 3.1 8B: as measured, what `TRUE` predicts. Every cluster and length is a source, every device a framework."""
    cluster = load_cluster(cluster_name)
    ranks = cluster.devices
    training = TrainingSpec(seq_len=seq_len, global_batch=ranks, stack=stack)
    layers = LayerRun.parse({"count": 32, "recompute": "full", "zero_stage": zero if tp < ranks else 0}, source="test")
    plan = Plan(
        mesh=Mesh(dp_shard=ranks // tp, tp=tp), micro_batch=1, microbatches=tp, stages=(Stage(layers=(layers,)),)
    )
    times = CatalogTimes(cluster.node, training, replace(CALIBRATED, **TRUE))
    seconds = estimate_plan(MODEL, cluster, training, plan, times).step_seconds
    name, device = f"{cluster_name} {seq_len}", cluster_name.partition(":")[0]
    measured = MeasuredRun(
        id=f"{name} tp{tp}",
        source=name,
        framework=device,
        core=True,
        unit="s",
        value=seconds,
        memory_bytes=None,
        model=MODEL,
        cluster=cluster,
        training=training,
        readings=(Reading(plan, ()),),
        unknown=(),
        assumptions=(),
        device=device,
        job=name,
        notes=None,
        step=MeasuredStep(Metric("step_time_s", 1.0, is_rate=False), seconds),
        memory_reading=None,
    )
    return Run(measured, plan, seconds, fitted=True)


def relabelled(run: Run, **labels: object) -> Run:
    """The same run as of another source or framework, or outside of the core."""
    return run._replace(measured=replace(run.measured, **labels))  # type: ignore[arg-type] # any of its fields


def made_up_runs() -> list[Run]:
    """Two devices, three lengths and two plans each, and one run whose updates 256 owners broadcast."""
    return [
        *(
            made_up_run(f"{device}:8", seq_len, tp)
            for device in ("a100-sxm-80gb", "b200-sxm")
            for seq_len in (1024, 4096, 32768)
            for tp in (1, 8)
        ),
        made_up_run("a100-sxm-80gb:256", 1024, stack="internevo", zero=1),
    ]
