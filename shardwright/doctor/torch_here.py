"""torch, and the GPUs that the driver and torch see."""

from collections.abc import Iterator

from shardwright.base import units
from shardwright.catalog import devices
from shardwright.profiler.machine import ReportedGpu, reported_gpus, reported_value

from .finding import Finding


def torch_here() -> Iterator[Finding]:
    """Yield the GPUs of this machine, and what torch can use of them."""
    gpus = reported_gpus()
    yield from (_gpu(gpu) for gpu in gpus)
    if not gpus:
        told = "none; plans for --cluster local are for the CPU"
        yield Finding("training", "GPU", "there", told)
    try:
        import torch
        import torch.distributed as dist
    except ModuleNotFoundError:
        return  # told among the packages
    except (ImportError, OSError) as error:
        yield Finding("training", "torch", "limited", "installed, but import fails", str(error).splitlines()[0])
        return
    yield _cuda(len(gpus), torch.version.cuda, torch.cuda.device_count())
    backends = [
        name for name, there in (("nccl", dist.is_nccl_available()), ("gloo", dist.is_gloo_available())) if there
    ]
    lacking = "nccl" if gpus and "nccl" not in backends else "gloo" if "gloo" not in backends else None
    yield Finding(
        "training",
        "collectives",
        "limited" if lacking else "there",
        ", ".join(backends) or "none",
        f"this build of torch has no {lacking}; install another build" if lacking else None,
    )


def _gpu(gpu: ReportedGpu) -> Finding:
    told = f"{gpu.name}, {units.size(gpu.memory_bytes)}"
    name = devices.device_reported_as(gpu.name, gpu.memory_bytes)
    if name is None:
        advice = "not in the catalog; describe it in a cluster file (docs/cluster.md)"
        return Finding("training", f"GPU {gpu.index}", "limited", told, advice)
    return Finding("training", f"GPU {gpu.index}", "there", f"{told}: {name} in the catalog")


def _cuda(gpus: int, built_for: str | None, seen: int) -> Finding:
    """`built_for`: torch's CUDA version, None for a build without it. `seen`: the GPUs that torch can use."""
    found = f"torch is built for CUDA {built_for}" if built_for else "torch is built without CUDA"
    if not gpus:
        return Finding("training", "CUDA", "there", found)
    if built_for is None:
        advice = f"torch cannot use the {gpus} GPUs here; install a build of torch with CUDA"
        return Finding("training", "CUDA", "limited", found, advice)
    if seen < gpus:
        driver = reported_value("driver_version")
        advice = f"torch sees {seen} of {gpus} GPUs; the driver{f' {driver}' if driver else ''} may be too old for CUDA {built_for}"
        return Finding("training", "CUDA", "limited", found, advice)
    return Finding("training", "CUDA", "there", f"{found} and sees {seen} GPUs")
