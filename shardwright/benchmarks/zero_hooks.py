"""What DeepSpeed's hooks take of the host for each linear: python -m shardwright.benchmarks.zero_hooks, in an environment with deepspeed.

Two ranks on this machine's CPU train a row of linears so small that only the host's work is left. `forward` and `backward` are the
processor seconds of the first rank for one linear, beside those of the same linears without DeepSpeed. A GPU's host does the same work.
Pip builds deepspeed without its kernels where DS_BUILD_OPS=0 is set.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from shardwright.base import units

LINEARS, WIDTH = 64, 16
ROUNDS, RANKS = 12, 2
STAGES = (None, 1, 2, 3)  # None is without DeepSpeed


def main() -> None:
    """Print one row for each ZeRO stage, and how many plain linears its hooks are worth.

    Raises:
        SystemExit: deepspeed is not installed.
    """
    try:
        import deepspeed  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    except ImportError:
        raise SystemExit("deepspeed is not installed here: DS_BUILD_OPS=0 pip install deepspeed") from None
    os.environ["DS_ACCELERATOR"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        ranks = [get_context("spawn").Process(target=_rank, args=(rank, folder)) for rank in range(RANKS)]
        for each in ranks:
            each.start()
        for each in ranks:
            each.join()


def _rank(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    taken = {stage: _seconds_of_linear(stage) for stage in STAGES}
    if rank == 0:
        Console().print(_table(taken))
    dist.destroy_process_group()


def _seconds_of_linear(stage: int | None) -> tuple[float, float]:
    """Least processor seconds of a forward and a backward of one linear over some rounds."""
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LINEARS)))
    forward, backward, end_step = _plain(model) if stage is None else _with_zero(model, stage)
    tokens, taken = torch.randn(4, WIDTH, dtype=torch.bfloat16), []
    for _ in range(ROUNDS):
        dist.barrier()
        start = time.process_time()
        loss = forward(tokens).float().square().mean()
        between = time.process_time()
        backward(loss)
        taken.append((between - start, time.process_time() - between))
        end_step()
    settled = taken[ROUNDS // 3 :]
    return min(each[0] for each in settled) / LINEARS, min(each[1] for each in settled) / LINEARS


_Training = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Any], Callable[[], Any]]


def _plain(model: nn.Module) -> _Training:
    return model.to(torch.bfloat16), lambda loss: loss.backward(), lambda: None


def _with_zero(model: nn.Module, stage: int) -> _Training:
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1000,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "torch_adam": True}},
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": True},
    }
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    return engine, engine.backward, engine.step


def _table(taken: Mapping[int | None, tuple[float, float]]) -> Table:
    plain = taken[None]
    table = Table("", "forward", "backward", "hooks, in plain linears", title=f"One of {LINEARS} linears")
    for stage, seconds in taken.items():
        worth = " and ".join(f"{one / own - 1:.1f}" for one, own in zip(seconds, plain, strict=True))
        name = "without DeepSpeed" if stage is None else f"ZeRO-{stage}"
        table.add_row(name, *map(units.seconds, seconds), "" if stage is None else worth)
    return table


if __name__ == "__main__":
    main()
