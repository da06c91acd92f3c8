"""Where ranks run, beside where the plan puts them."""

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

import torch.distributed as dist


class Place(NamedTuple):
    """The machine that a rank runs on, and its number there."""

    host: str
    local_rank: int


def misplaced(places: Sequence[Place], devices: int) -> str | None:
    """Return one line about the first rank that is not where a plan over machines of `devices` devices puts it, None where all are.

    `places`: of the ranks in order. Rank r belongs on machine r div `devices`, and is its device r mod `devices`.
    """
    for rank, place in enumerate(places):
        first = rank - rank % devices
        if place.host != places[first].host:
            return (
                f"rank {rank} runs on {place.host}, and the plan puts it beside rank {first}, which runs on {places[first].host}; "
                f"start {devices} ranks on each machine, in order"
            )
        if place.local_rank != rank % devices:
            return f"rank {rank} is device {place.local_rank} of {place.host}, and the plan's device {rank % devices}; number ranks in order"
    machines, found = -(-len(places) // devices), len({place.host for place in places})
    if found < machines:
        return f"machines: {found}, and the plan is for {machines}; the prediction is not for these links"
    return None


def say_misplaced(devices: int) -> str | None:
    """Return the line of `misplaced` about this run. Every rank calls this."""
    places = [Place("", 0)] * dist.get_world_size()
    dist.all_gather_object(places, Place(socket.gethostname(), int(os.environ.get("LOCAL_RANK", "0"))))
    return misplaced(places, devices)
