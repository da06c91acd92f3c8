"""How long a checkpoint holds up the steps, written at once and beside them: python -m shardwright.benchmarks.survival.stalls.

One run of one process takes both in turn, so that they see the same machine and disk. Steps go on while a checkpoint is written; what
they lose then, as the writer takes a core and memory bandwidth, is told beside the stall.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from shardwright.base import units as readable
from shardwright.costmodel import PlanFile
from shardwright.executor import RunOptions
from shardwright.executor.parallel import Engine, build_engine
from shardwright.executor.training import Manifest, Saver, Trainee, host_optimizer
from shardwright.specs import LayerRun, Mesh, Plan, Stage

from .tiny_run import MODEL, plan_file

WIDTH, LAYERS, ROUNDS = 768, 6, 5
TARGET = 0.1


class Stall(NamedTuple):
    """Medians in seconds: how long the steps waited, how long the write took, and a step beside it and without it."""

    stall: float
    write: float
    step_beside: float
    step: float


def model_plan() -> PlanFile:
    """Return the plan of a model of 46M parameters on one rank: 0.55 GB with the state of AdamW."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2048, "num_hidden_layers": LAYERS, "num_attention_heads": 12}
    config = MODEL | sizes | {"num_key_value_heads": 12, "vocab_size": 2048}
    file = plan_file("fsdp")
    plan = Plan(mesh=Mesh(), micro_batch=1, microbatches=1, stages=(Stage(layers=(LayerRun(count=LAYERS),)),))
    training = file.training.model_copy(update={"global_batch": 1})
    return file.model_copy(update={"model_config_json": config, "plan": plan, "training": training})


def measure(folder: Path, file: PlanFile, rounds: int = ROUNDS) -> tuple[Stall, Stall]:
    """Return the stalls of checkpoints written at once and beside the steps. Needs a process group of one rank."""
    engine = build_engine(file, device=torch.device("cpu"), seed=0)
    optimizer = host_optimizer(engine.model_parts, "adamw", RunOptions(out=folder), engine.offload)
    trainee = Trainee(engine.model_parts, optimizer, engine.tied_names)
    savers = [Saver(folder / str(beside), trainee, keep=1, beside=beside) for beside in (False, True)]
    optimizer.set_learning_rate(1e-4)

    def step() -> float:
        begin = time.perf_counter()
        _step(engine, file)
        optimizer.step()
        engine.zero_gradients()
        return time.perf_counter() - begin

    alone = [step() for _ in range(3)][1:]
    stalls: list[list[float]] = [[], []]
    beside: list[float] = []
    for number in range(rounds + 1):
        for saver, held in zip(savers, stalls, strict=True):
            begin = time.perf_counter()
            saver.save(_manifest(file, number))
            if number:  # the first one makes the buffers
                held.append(time.perf_counter() - begin)
            while saver.writes:
                beside.append(step())
            saver.finish()
            alone.append(step())
    writes = [found.write_seconds for saver in savers if (found := saver.measured()) and found.write_seconds]
    without = statistics.median(alone)
    return (
        Stall(statistics.median(stalls[0]), writes[0], without, without),
        Stall(statistics.median(stalls[1]), writes[1], statistics.median(beside), without),
    )


def _step(engine: Engine, file: PlanFile) -> None:
    drawn = torch.randint(2048, (1, file.training.seq_len + 1), generator=torch.Generator().manual_seed(0))
    engine.forward_backward(drawn[:, :-1], drawn[:, 1:])


def _manifest(file: PlanFile, step: int) -> Manifest:
    return Manifest(
        step=step,
        model_name=file.model_name,
        model_config_json=file.model_config_json,
        optimizer="adamw",
        plan_digest="",
        data_digest="",
        seed=0,
        files={},
    )


def main() -> None:
    """Print both; the exit code is 1 where the stall beside the steps is a tenth of the other or more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        sync, beside = measure(folder, model_plan(), rounds)
        dist.destroy_process_group()
    table = Table("checkpoint", title="46M parameters with AdamW's state, fp32")
    for column in ("steps wait", "until on the disk", "a step meanwhile", "a step alone"):
        table.add_column(column, justify="right")
    for label, found in (("sync", sync), ("async", beside)):
        table.add_row(label, *(readable.seconds(each) for each in found))
    console = Console(width=100)
    console.print(table)
    console.print(f"asynchronous checkpoints hold up the steps for {beside.stall / sync.stall:.1%} of the time")
    raise SystemExit(beside.stall >= TARGET * sync.stall)


if __name__ == "__main__":
    main()
