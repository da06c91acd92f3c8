"""What the offload engine hides, on this machine's CPU: python -m shardwright.benchmarks.offload_engine.

Device and host are both this machine's memory here, and the engine's streams are threads. Copies and updates are the real ones; the link
between them is memory bandwidth. One thread computes, so that a second core is there for the streams. The rows take turns, a few steps
each, in one process, so that all of them see the same machine. Hidden is the share of copies and updates, timed in sequence, for which no
pass of the overlapped engine waits.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from transformers import AutoConfig, AutoModelForCausalLM

from shardwright.base import units as readable
from shardwright.catalog import load_cluster
from shardwright.costmodel import PlanFile
from shardwright.executor import RunOptions
from shardwright.executor.offload import Streams
from shardwright.executor.parallel import build_engine
from shardwright.executor.training import host_optimizer
from shardwright.specs import ClusterSpec, LayerRun, Mesh, Offload, Plan, Precision, Stage, TrainingSpec

CPU = torch.device("cpu")
LAYERS, HIDDEN, SEQ_LEN = 6, 768, 64
MODEL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": HIDDEN,
    "intermediate_size": 2048,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": SEQ_LEN,
    "tie_word_embeddings": False,
}
ROUNDS, STEPS = 5, 2


class Row(NamedTuple):
    """One way to train: a step, the wait for what runs on behind it, and its streams."""

    step: Callable[[], None]
    settle: Callable[[], None]
    streams: Streams | None


class Turn(NamedTuple):
    """Medians of a row, in seconds of a step: all of it, the work of its streams, and the waits of its passes for them."""

    step: float
    work: float
    waits: float


def plan_file(cluster: ClusterSpec, fraction: float) -> PlanFile:
    """Return a plan for one rank with a share of the optimizer on the host."""
    return PlanFile(
        model_name="llama-46m",
        model_config_json=MODEL,
        cluster=cluster,
        training=TrainingSpec(seq_len=SEQ_LEN, global_batch=1, precision=Precision(compute="fp32", gradients="fp32")),
        plan=Plan(
            mesh=Mesh(),
            micro_batch=1,
            microbatches=1,
            stages=(Stage(layers=(LayerRun(count=LAYERS),)),),
            offload=Offload(optimizer_fraction=fraction),
        ),
    )


def engine_row(file: PlanFile, clip_norm: float | None, *, in_sequence: bool) -> Row:
    """Return a row of this project's engine."""
    streams = Streams(CPU, in_sequence=in_sequence)
    engine = build_engine(file, device=CPU, seed=0, offload_streams=streams)
    options = RunOptions(out=Path(tempfile.gettempdir()), clip_norm=clip_norm)
    optimizer = host_optimizer(engine.model_parts, "adamw", options, engine.offload)
    inputs, labels = tokens()

    def step() -> None:
        optimizer.set_learning_rate(1e-4)
        engine.forward_backward(inputs, labels)
        if clip_norm is not None:
            engine.clip_gradients(clip_norm)
        optimizer.step()
        engine.zero_gradients()

    assert engine.offload is not None
    return Row(step, engine.offload.settle, streams)


def fsdp_row(clip_norm: float | None) -> Row:
    """Return a row of FSDP2 with its own `CPUOffloadPolicy`, which holds all parameters and the optimizer on the host."""
    settings = dict(MODEL)
    factory: Any = AutoModelForCausalLM
    model = factory.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    mesh, policy = init_device_mesh("cpu", (1,)), CPUOffloadPolicy(pin_memory=False)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, offload_policy=policy)
    fully_shard(model, mesh=mesh, offload_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs, labels = tokens()

    def step() -> None:
        logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
        torch.autograd.backward(torch.nn.functional.cross_entropy(logits, labels.flatten()))
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return Row(step, lambda: None, None)


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels of a step, (1, SEQ_LEN)."""
    drawn = torch.randint(MODEL["vocab_size"], (1, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0))
    return drawn[:, :-1], drawn[:, 1:]


def take_turns(rows: dict[str, Row]) -> dict[str, Turn]:
    """Let each row take a few steps, again and again; return the medians over its turns."""
    turns: dict[str, list[Turn]] = {name: [] for name in rows}
    for number in range(ROUNDS + 1):
        for name, row in rows.items():
            begin, (worked, waited) = time.perf_counter(), _so_far(row)
            for _ in range(STEPS):
                row.step()
            row.settle()
            seconds, (work, waits) = time.perf_counter() - begin, _so_far(row)
            if number:  # the first one creates state and learns the order of gathers
                turns[name].append(Turn(seconds / STEPS, (work - worked) / STEPS, (waits - waited) / STEPS))
    return {name: Turn(*map(statistics.median, zip(*of, strict=True))) for name, of in turns.items()}


def _so_far(row: Row) -> tuple[float, float]:
    return (0.0, 0.0) if row.streams is None else (sum(row.streams.busy_seconds.values()), row.streams.waited_seconds)


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        cluster = load_cluster("h100-sxm:1")  # only the bytes that the plan states are of interest
        table = Table(
            "optimizer on the host", title=f"{LAYERS} layers of width {HIDDEN}, {SEQ_LEN} tokens a step, fp32"
        )
        for column in ("clipping", "in sequence", "overlapped", "copies, updates", "waits", "hidden", "FSDP2's own"):
            table.add_column(column, justify="right")
        for fraction in (0.5, 1.0):
            for clip_norm in (None, 1.0):
                table.add_row(*_measured(cluster, fraction, clip_norm))
        Console(width=130).print(table)
        dist.destroy_process_group()


def _measured(cluster: ClusterSpec, fraction: float, clip_norm: float | None) -> tuple[str, ...]:
    file = plan_file(cluster, fraction)
    rows = {
        "in sequence": engine_row(file, clip_norm, in_sequence=True),
        "overlapped": engine_row(file, clip_norm, in_sequence=False),
        **({"FSDP2": fsdp_row(clip_norm)} if fraction == 1 else {}),
    }
    found = take_turns(rows)
    sequence, overlapped = found["in sequence"], found["overlapped"]
    return (
        f"{fraction:.0%}",
        "no" if clip_norm is None else "yes",
        readable.seconds(sequence.step),
        readable.seconds(overlapped.step),
        readable.seconds(sequence.work),
        readable.seconds(overlapped.waits),
        readable.share(1 - overlapped.waits / sequence.work),
        readable.seconds(found["FSDP2"].step) if "FSDP2" in found else "",
    )


if __name__ == "__main__":
    main()
