"""A model larger than its device: python -m shardwright.benchmarks.offload_large [--layers 29] [--steps 3].

All weights are streamed, and parameters and AdamW's state lie on drives; the host's memory holds gradients and a few buffers. With 29 layers the
model has 1.5G parameters in fp32, 24 GB with gradients and state. On a CPU device and host are the same memory. What is on the device is
therefore measured as the peak of the resident memory in the steps, without what the process held before and what the engine holds on the
host. With `--compare` the same steps of transformers and torch alone follow, which hold all of it.
"""

import argparse
import ctypes
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from shardwright.base import return_freed_memory
from shardwright.base import units as readable
from shardwright.catalog import load_cluster
from shardwright.costmodel import PlanFile
from shardwright.executor import RunOptions
from shardwright.executor.model import materialise, read_skeleton
from shardwright.executor.parallel import build_engine
from shardwright.executor.training import MemoryMeter, host_optimizer
from shardwright.specs import LayerRun, Mesh, Offload, Plan, Precision, Stage, TrainingSpec

CPU = torch.device("cpu")
HIDDEN, VOCABULARY, SEQ_LEN, LEARNING_RATE = 2048, 8192, 64, 1e-4


def plan_file(layers: int) -> PlanFile:
    """Return a plan for one rank with everything off the device that may be there."""
    config: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 5632,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": SEQ_LEN,
        "tie_word_embeddings": False,
    }
    return PlanFile(
        model_name=f"llama of {layers} layers",
        model_config_json=config,
        cluster=load_cluster("h100-sxm:1"),  # only the bytes that the plan states are of interest
        training=TrainingSpec(seq_len=SEQ_LEN, global_batch=1, precision=Precision(compute="fp32", gradients="fp32")),
        plan=Plan(
            mesh=Mesh(),
            micro_batch=1,
            microbatches=1,
            stages=(Stage(layers=(LayerRun(count=layers),)),),
            offload=Offload(optimizer_fraction=1, parameter_fraction=1, nvme_fraction=1),
        ),
    )


def tokens(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels of a step, (1, SEQ_LEN)."""
    drawn = torch.randint(VOCABULARY, (1, SEQ_LEN + 1), generator=torch.Generator().manual_seed(step))
    return drawn[:, :-1], drawn[:, 1:]


def train_streamed(file: PlanFile, steps: int, folder: Path) -> list[float]:
    """Train by the engine; print each step and the bytes that were held. Return the losses."""
    _return_freed_memory()
    before_bytes = psutil.Process().memory_info().rss
    engine = build_engine(file, device=CPU, seed=0, offload_folder=folder)
    options = RunOptions(out=folder, clip_norm=None, weight_decay=0.1)
    optimizer = host_optimizer(engine.model_parts, "adamw", options, engine.offload)
    assert engine.offload is not None
    _return_freed_memory()
    meter, losses = MemoryMeter(CPU), []
    for step in range(steps):
        begin = time.perf_counter()
        optimizer.set_learning_rate(LEARNING_RATE)
        losses.append(float(engine.forward_backward(*tokens(step))))
        optimizer.step()
        engine.zero_gradients()
        print(f"step {step + 1}: loss {losses[-1]:.6f}, {readable.seconds(time.perf_counter() - begin)}", flush=True)
    engine.offload.settle()
    ledger = engine.offload.ledger
    on_device = meter.read().peak - before_bytes - ledger.peak_bytes("host")
    parameters = file.model().parameter_count
    print(
        f"parameters: {readable.amount(parameters)}, {readable.size(16 * parameters)} with gradients and state in fp32"
    )
    for place, held in (
        ("device", on_device),
        ("host", ledger.peak_bytes("host")),
        ("drives", ledger.peak_bytes("nvme")),
    ):
        print(f"{place}: {readable.size(held)} at most", flush=True)
    engine.offload.close()
    return losses


def train_whole(file: PlanFile, steps: int) -> list[float]:
    """Train by transformers and torch alone, from the same weights. Return the losses."""
    model = read_skeleton(file).model
    materialise(model, name="", model=model, seed=0, device=CPU)
    decays = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    losses = []
    for step in range(steps):
        inputs, labels = tokens(step)
        logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, labels.flatten())
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


_M_MMAP_THRESHOLD = -3  # malloc.h


def _return_freed_memory() -> None:
    """Give the system back what is freed, now and at once from now on, so that the resident memory is what is in use (mallopt(3))."""
    gc.collect()
    ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, 2**16)
    return_freed_memory()


def main() -> None:
    """Print steps, bytes by place and, if asked for, the losses of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=29)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the drives")
    parser.add_argument(
        "--compare", action="store_true", help="train without the engine too: needs 16 bytes a parameter"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        file = plan_file(given.layers)
        streamed = train_streamed(file, given.steps, given.folder)
        if given.compare:
            _return_freed_memory()
            whole = train_whole(file, given.steps)
            print("losses of transformers and torch alone:", ", ".join(f"{loss:.6f}" for loss in whole))
            print("equal to the last digit" if whole == streamed else "NOT equal to the last digit")
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
