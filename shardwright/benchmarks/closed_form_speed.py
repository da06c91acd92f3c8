"""How many plans a second the closed form evaluates on one core: python -m shardwright.benchmarks.closed_form_speed.

Start it with `one_thread` in the environment, or matrix products spread over all cores.
"""

import os
import statistics
import time

from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel.even import evaluate_even
from shardwright.costmodel.op_times import CatalogTimes
from shardwright.specs import TrainingSpec

from .exhaustive_space import exhaustive_space

_DEVICES = [512, 768, 1024, 1536, 2048, 3072, 4096]
_THREAD_COUNTS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_RUNS = 8


def one_thread() -> dict[str, str]:
    """This process's environment with one thread for whatever library multiplies NumPy's matrices."""
    return {**os.environ, **dict.fromkeys(_THREAD_COUNTS, "1")}


def main() -> None:
    """Print the rate, by the time that the core worked: the machine may have other work."""
    model, cluster = load_model("gpt3-175b"), load_cluster(f"h100-sxm:{_DEVICES[-1]}")
    training = TrainingSpec(seq_len=2048, global_batch=1536)
    space, times = exhaustive_space(model, training, _DEVICES, most_tp=8), CatalogTimes(cluster, training)
    rates = []
    for _ in range(_RUNS):
        start = time.process_time()
        evaluate_even(
            model, cluster, training, space.candidates, times, schedule=space.schedule, recompute=space.recompute
        )
        rates.append(len(space) / (time.process_time() - start))
    print(
        f"Closed form: {statistics.median(rates[1:]) / 1e6:.2f} million plans per second of one core, tables included "
        f"(of {_RUNS - 1} runs; {min(rates[1:]) / 1e6:.2f} to {max(rates[1:]) / 1e6:.2f}; {rates[0] / 1e6:.2f} in the first, "
        f"which lays out the paths of every pipeline shape).\nEach run: step and memory of {len(space):,} plans, all with "
        f"even stages of gpt3-175b on {_DEVICES[0]} to {_DEVICES[-1]} H100, sequence 2048, global batch 1536."
    )


if __name__ == "__main__":
    main()
