"""The cluster on this machine: its GPUs from the catalog, or its CPU from a short measurement."""

import re
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from shardwright.base import CONTROL_GROUP, SpecError, cpu_model, install, usable_cores
from shardwright.catalog import devices as catalog
from shardwright.catalog import load_cluster, shared_cpu_name
from shardwright.specs import ClusterSpec, Device, Host, Link, NodeGroup, Profile

from .cpu_measurement import measure_cpu
from .cpu_rates import CpuRates, CpuSetting, remember_rates, remembered_rates
from .nvidia_smi import ReportedGpu, reported_gpus
from .store import MachineKey, newest_fitting

MOST_CPU_RANKS = 8
_FALLBACK_CACHE_BYTES = 32 * 2**20


def resolve_cluster(reference: str, *, refresh: bool = False) -> ClusterSpec:
    """Return the cluster that `reference` names: `local`, `local:RANKS`, or any reference of `load_cluster`.

    Raises:
        SpecError: as `local_cluster` and `load_cluster`.
    """
    text = reference.strip()
    name, colon, count = text.partition(":")
    if name != "local":
        return load_cluster(reference)
    if not colon:
        return local_cluster(refresh=refresh)
    if not re.fullmatch(r"[0-9]{1,6}", count):
        raise SpecError(f"'{text}': the count of ranks is '{count}'; give a whole number such as local:2")
    return local_cluster(int(count), refresh=refresh)


def local_cluster(
    ranks: int | None = None, *, refresh: bool = False, measure: Callable[[CpuSetting], CpuRates] = measure_cpu
) -> ClusterSpec:
    """Return this machine as a cluster of one node.

    With NVIDIA GPUs, it has all visible ones or `ranks` of them, with data from the catalog. Otherwise it has the CPU,
    shared by `ranks` ranks; the default is two where there are two cores or more.

    The rates of the CPU are measured once, in some seconds, and stored in the user's cache folder. They are measured
    again when the CPU, the cores, torch or `ranks` change, or with `refresh`. Rates that other programs disturbed are
    used and marked in their source, but not stored. The newest profile of this machine is added; on a CPU it must have
    the same number of ranks.

    Raises:
        SpecError: this machine can't hold `ranks`, the catalog lacks its GPU, or torch is not installed.
    """
    if ranks is not None and ranks < 1:
        raise SpecError(f"local:{ranks}: the count of ranks is a whole number from 1")
    gpus = reported_gpus()
    return _gpu_cluster(gpus, ranks) if gpus else _cpu_cluster(ranks, refresh, measure)


def _gpu_cluster(gpus: tuple[ReportedGpu, ...], ranks: int | None) -> ClusterSpec:
    count = len(gpus) if ranks is None else ranks
    if count > len(gpus):
        raise SpecError(
            f"local:{count}: this machine shows {len(gpus)} GPU{'s' * (len(gpus) > 1)}; give local:{len(gpus)}"
        )
    kinds = {gpu.name for gpu in gpus[:count]}
    if len(kinds) > 1:
        raise SpecError(
            f"this machine has several kinds of GPU ({', '.join(sorted(kinds))}); show one in CUDA_VISIBLE_DEVICES"
        )
    gpu = gpus[0]
    name = catalog.device_reported_as(gpu.name, gpu.memory_bytes)
    if name is None:
        raise SpecError(
            f"the catalog has no '{gpu.name}' of {gpu.memory_bytes / 2**30:.0f} GiB; describe it in a cluster file "
            f'(device = {{ like = "...", memory_bytes = {gpu.memory_bytes:.4g}, ... }})'
        )
    standard = catalog.standard_node(name)
    host = Host(
        cores=usable_cores(),
        memory_bytes=available_memory_bytes(),
        memory_bytes_per_s=standard.host.memory_bytes_per_s,
        source=f"cores and available memory of this machine; memory bandwidth: {standard.host.source}",
    )
    here = {"devices_per_node": count, "host": host, "host_devices": None}
    node = standard.part(count).model_copy(update=here | {"profile": _profile(_gpu_key(gpu)) or standard.profile})
    return ClusterSpec(name="local", groups=(node,))


def _cpu_cluster(ranks: int | None, refresh: bool, measure: Callable[[CpuSetting], CpuRates]) -> ClusterSpec:
    cores = usable_cores()
    if ranks is None:
        ranks = _default_cpu_ranks(cores)
    if ranks > MOST_CPU_RANKS:
        raise SpecError(f"local:{ranks}: a CPU host holds at most {MOST_CPU_RANKS} ranks; give local:{MOST_CPU_RANKS}")
    setting = CpuSetting(cpu=cpu_model(), cores=cores, ranks=ranks, torch=_torch_version())
    rates = None if refresh else remembered_rates(setting)
    if rates is None:
        rates = measure(setting)
        remember_rates(rates)
    node, key = _cpu_node(rates, available_memory_bytes()), _cpu_key(ranks)
    return ClusterSpec(name="local", groups=(node.model_copy(update={"profile": _profile(key)}),))


def newest_of_this_machine() -> tuple[Path, Profile] | None:
    """Return the newest profile of the first GPU, or else of the CPU, for any number of ranks, and its file."""
    return newest_fitting(this_machine(None))


def this_machine(ranks: int | None) -> MachineKey:
    """Return the key of the first GPU, or else of the CPU shared by `ranks`; None stands for any number."""
    gpus = reported_gpus()
    return _gpu_key(gpus[0]) if gpus else _cpu_key(ranks)


def rank_count(ranks: int | None) -> int:
    """Return the number of ranks of `local:RANKS` here, by default that of `local`.

    Raises:
        SpecError: this machine cannot hold so many.
    """
    gpus = len(reported_gpus())
    most = gpus or MOST_CPU_RANKS
    if ranks is None:
        return gpus or _default_cpu_ranks(usable_cores())
    if not 1 <= ranks <= most:
        what = f"this machine shows {gpus} GPU{'s' * (gpus > 1)}" if gpus else f"a CPU host holds at most {most} ranks"
        raise SpecError(f"--ranks {ranks}: {what}; give a whole number from 1 to {most}")
    return ranks


def _default_cpu_ranks(cores: int) -> int:
    return 2 if cores >= 2 else 1


def _profile(key: MachineKey) -> Profile | None:
    found = newest_fitting(key)
    return found[1] if found else None


def _gpu_key(gpu: ReportedGpu) -> MachineKey:
    return MachineKey("gpu", gpu.name, gpu.memory_bytes, usable_cores(), None, _installed_torch())


def _cpu_key(ranks: int | None) -> MachineKey:
    return MachineKey("cpu", cpu_model(), available_memory_bytes(), usable_cores(), ranks, _installed_torch())


def _cpu_node(rates: CpuRates, memory_bytes: float) -> NodeGroup:
    setting = rates.setting
    busy = f", while other programs left {rates.cpu_share:.0%} of the CPU" if rates.disturbed else ""
    source = f"measured on this machine on {rates.date}, torch {setting.torch}, {setting.ranks} ranks at once{busy}"
    figures = ("memory_bytes_per_s", "peak_flops_per_s", "attention_flops_per_s", "launch_seconds", "context_bytes")
    device = Device(
        name=shared_cpu_name(setting.cpu, setting.threads, setting.cores),
        kind="cpu",
        memory_bytes=memory_bytes / setting.ranks,
        memory_bytes_per_s=rates.elementwise_bytes_per_s,
        peak_flops_per_s={"fp32": rates.fp32_flops_per_s, "bf16": rates.bf16_flops_per_s},
        matmul_share=1.0,
        attention_flops_per_s={"fp32": rates.fp32_attention_flops_per_s, "bf16": rates.bf16_attention_flops_per_s},
        multiprocessors=setting.threads,
        launch_seconds=rates.dispatch_seconds,
        context_bytes=rates.process_bytes,
        sources=dict.fromkeys(figures, source)
        | {
            "memory_bytes": "available memory of this machine, shared by its ranks",
            "matmul_share": "the peaks are what a matmul reached",
        },
    )
    link = _link(rates, source)
    host = Host(
        cores=setting.cores,
        memory_bytes=memory_bytes,
        memory_bytes_per_s=rates.copy_bytes_per_s * setting.ranks,
        source=f"cores and available memory of this machine; memory bandwidth {source}",
    )
    return NodeGroup(
        device=device,
        nodes=1,
        devices_per_node=setting.ranks,
        intra_node=link,
        host_link=Link(
            kind="shared-memory",
            bytes_per_s=rates.copy_bytes_per_s / 2,
            latency_seconds=0.0,
            source=f"a copy within host memory, {source}",
        ),
        nic=link,
        host=host,
    )


def _link(rates: CpuRates, source: str) -> Link:
    """Return gloo's link between the ranks. One rank sends nothing and gets the rate of a copy."""
    return Link(
        kind="shared-memory",
        bytes_per_s=rates.link_bytes_per_s or rates.copy_bytes_per_s / 2,
        latency_seconds=rates.link_latency_seconds or 0.0,
        source=f"gloo all-reduces, {source}" if rates.link_bytes_per_s else "one rank: nothing is sent",
    )


def last_cache_bytes() -> int:
    """Return the bytes of the last-level cache that this process's cores share; 32 MiB where the system gives none."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with suppress(OSError, ValueError, KeyError):
            text = path.read_text().strip()
            sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]])
    return max(sizes, default=_FALLBACK_CACHE_BYTES)


def available_memory_bytes() -> float:
    """Return the memory that a new process can take without swapping, within the
    system's and the control group's limits."""
    try:
        import psutil
    except ImportError:
        raise SpecError(f"'local' needs psutil; {install('run')}") from None
    available = float(psutil.virtual_memory().available)
    try:
        limit, used = (int((CONTROL_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
        kept_files = int(counts.get("inactive_file", 0))  # pages of files that the system frees on demand
        return min(available, float(max(limit - used + kept_files, 1)))
    except (OSError, ValueError):
        return available


def _installed_torch() -> str | None:
    """Return torch's version without importing torch, which takes longer than reading stored rates."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def _torch_version() -> str:
    version = _installed_torch()
    if version is None:
        raise SpecError(f"'local' on a CPU needs torch to measure it; {install('run')}")
    return version
