"""The process group of a run: through a private file on one machine, through torchrun's store on several."""

import os
import socket
from collections.abc import MutableMapping
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

STORE = "SHARDWRIGHT_STORE"
"""The environment variable with the file through which ranks of one machine find each other."""

_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_LOOPBACK = "127.0.0.1"


def join_process_group(device: torch.device, *, timeout_seconds: float, time: int = 1) -> None:
    """Join the process group that the environment describes.

    On one machine the store is a file of the launcher's private folder, and what gloo and NCCL listen on is bound to loopback: no
    port is open beyond this machine. A restarted attempt has a new store, as the old one holds addresses of lost ranks.

    `time`: how often this process has joined, this time included: each has a store of its own too. `timeout_seconds`: a collective that takes longer fails, where the backend can tell.
    """
    if os.environ.get("WORLD_SIZE") == os.environ.get("LOCAL_WORLD_SIZE"):  # all ranks are here
        loopback_only(os.environ)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_seconds)
    if path := os.environ.get(STORE):
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(
            backend,
            store=FileStore(path if time == 1 else f"{path}.{time}", world_size),
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
        return
    store, rank, world_size = next(iter(rendezvous("env://")))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"attempt-{attempt}" if time == 1 else f"attempt-{attempt}-{time}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def loopback_only(environment: MutableMapping[str, str]) -> None:
    """Bind gloo and NCCL to the loopback interface, whatever the user's environment says for runs on several machines."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.family == socket.AF_INET and each.address == _LOOPBACK for each in addresses):
            environment.update(dict.fromkeys(_INTERFACES, name))
            return
