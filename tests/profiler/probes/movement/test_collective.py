"""Collectives among four ranks, as two nodes of two: every rank gets the right numbers, in groups of the right kind."""

import threading
from typing import get_args

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from shardwright.costmodel.op_times.protocol import CollectiveName
from shardwright.profiler.probes.movement.collective import CollectiveProbe, CollectiveWork, collective_probes
from shardwright.profiler.ranks.layout import GroupSizes
from shardwright.profiler.ranks.nodes import Nodes
from shardwright.profiler.ranks.torch_ranks import TorchRanks
from shardwright.profiler.timing.machines import CpuMachine
from shardwright.profiler.timing.probe import JointWork, Sizes, UnavailableError
from tests.parity.worlds import run_world

TWO_BY_TWO = ("a", "a", "b", "b")
MEMBERS: dict[GroupSizes, dict[int, tuple[int, ...]]] = {
    GroupSizes(ranks_per_node=2, nodes=1, sharing=1): {0: (0, 1), 1: (0, 1), 2: (2, 3), 3: (2, 3)},
    GroupSizes(ranks_per_node=1, nodes=2, sharing=2): {0: (0, 2), 1: (1, 3), 2: (0, 2), 3: (1, 3)},
    GroupSizes(ranks_per_node=2, nodes=2, sharing=1): {rank: (0, 1, 2, 3) for rank in range(4)},
    GroupSizes(ranks_per_node=1, nodes=2, sharing=1): {0: (0, 2), 2: (0, 2)},
}


def joined(hosts: tuple[str, ...]) -> TorchRanks:
    """The ranks of a world of the tests, as if they ran on `hosts`."""
    group = dist.group.WORLD
    assert group is not None
    return TorchRanks(_get_default_store(), group, Nodes(hosts))


def _filled(work: CollectiveWork, rank: int, parts: int) -> None:
    """Part p of what rank r gives is 10 r + p + 1."""
    values = torch.arange(1.0, parts + 1) + 10 * rank
    work.given.copy_(values.repeat_interleave(work.given.numel() // parts))


def _wanted(name: CollectiveName, rank: int, members: tuple[int, ...]) -> list[float]:
    """What each part of the result must be."""
    total = sum(10 * member for member in members)
    count, index = len(members), members.index(rank)
    if name == "all_reduce":
        return [float(total + count * (part + 1)) for part in range(count)]
    if name == "reduce_scatter":
        return [float(total + count * (index + 1))]
    if name == "all_gather":
        return [10.0 * member + 1 for member in members]
    if name == "all_to_all":
        return [10.0 * member + index + 1 for member in members]
    source = members[0] if name == "broadcast" else members[1 - index]
    return [10.0 * source + part + 1 for part in range(count)]


def _results() -> dict[tuple[str, GroupSizes], tuple[list[float], list[float], int]]:
    """By collective and group: what came, what should have, and the bytes of the largest tensor."""
    ranks = joined(TWO_BY_TWO)
    machine = CpuMachine(ranks)
    seen: dict[tuple[str, GroupSizes], tuple[list[float], list[float], int]] = {}
    for name in get_args(CollectiveName):
        probe = CollectiveProbe(name, ranks, machine)
        for at in (at for at in probe.first_sizes() if at[0] == 2**12):
            group = GroupSizes(*(int(part) for part in at[1:]))
            work = probe.prepare(at, machine)
            if isinstance(work, CollectiveWork):
                members = MEMBERS[group][ranks.rank]
                tensors = {each.data_ptr(): each.nbytes for each in (work.given, work.result)}
                assert probe.needed_bytes(at) == sum(tensors.values())
                _filled(work, ranks.rank, 1 if name == "all_gather" else len(members))
                work()
                wanted = _wanted(name, ranks.rank, members)
                parts = [sorted(set(part.tolist())) for part in work.result.chunk(len(wanted))]
                assert all(len(part) == 1 for part in parts), f"{name} {at}: {parts}"
                largest = max(work.given.nbytes, work.result.nbytes)
                seen[name, group] = ([part[0] for part in parts], wanted, largest)
            else:
                assert ranks.rank not in MEMBERS[group]
                assert isinstance(work, JointWork), "a rank that waits is timed as those are that it waits for"
                assert work() is None
        ranks.barrier()
    return seen


def test_every_rank_gets_its_numbers_in_every_kind_of_group() -> None:
    by_rank = run_world(4, _results)
    for rank, seen in enumerate(by_rank):
        for (name, group), (got, wanted, largest_bytes) in seen.items():
            assert got == wanted, f"{name} over {group} on rank {rank}"
            assert largest_bytes == 2**12, f"{name}: the whole tensor is what its size means"
        groups = {group for group, members in MEMBERS.items() if rank in members}
        for name in get_args(CollectiveName):
            wanted_groups = {group for group in groups if name != "send" or group.ranks == 2}
            assert {group for each, group in seen if each == name} == wanted_groups


def _sources() -> list[float]:
    """What three broadcasts in a row bring: each from another rank."""
    ranks = joined(("a", "a"))
    work = CollectiveProbe("broadcast", ranks, CpuMachine(ranks)).prepare((4096.0, 2.0, 1.0, 1.0), CpuMachine(ranks))
    assert isinstance(work, CollectiveWork)
    came: list[float] = []
    for _ in range(3):
        work.given.fill_(ranks.rank)
        work()
        came.append(work.given[0].item())
    return came


def test_broadcasts_come_from_each_rank_in_turn() -> None:
    """From one rank alone they would overtake each other, and the time of one would be that of filling a buffer."""
    assert run_world(2, _sources) == [[0, 1, 0], [0, 1, 0]]


def _of_a_backend_that_lacks_it(words: str) -> str:
    ranks = joined(("a", "a"))
    machine = CpuMachine(ranks)

    def lacking(*_: object, **__: object) -> None:
        raise RuntimeError(words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "reduce_scatter_tensor", lacking)
        try:
            CollectiveProbe("reduce_scatter", ranks, machine).prepare((4096.0, 2.0, 1.0, 1.0), machine)
        except (UnavailableError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
    return ""


def test_a_collective_that_the_backend_lacks_is_left_out() -> None:
    words = "ProcessGroupGloo does not support reduce_scatter\nmore"
    told = "UnavailableError: gloo has no reduce_scatter: ProcessGroupGloo does not support reduce_scatter"
    assert run_world(2, _of_a_backend_that_lacks_it, words) == [told, told]


def test_a_collective_that_fails_is_no_lack() -> None:
    assert run_world(2, _of_a_backend_that_lacks_it, "Connection reset") == ["RuntimeError: Connection reset"] * 2


def _places_and_groups() -> tuple[int, bool, bool, float]:
    ranks = joined(TWO_BY_TWO)
    members = (0, 1, 2, 3)
    one, again, other = ranks.group(members), ranks.group(members), ranks.group(members, "overlap")
    machine = CpuMachine(ranks)
    alone, computing = (CollectiveProbe("send", ranks, machine, computing=each) for each in (False, True))
    at = (4096.0, 2.0, 1.0, 1.0)
    return ranks.local_rank, one is again, one is other, computing.needed_bytes(at) - alone.needed_bytes(at)


def test_ranks_know_their_place_and_make_a_group_once() -> None:
    """And one more for what runs at the same time; computing beside takes its own memory."""
    matmul_bytes = 3.0 * 256 * 256 * 4
    assert run_world(4, _places_and_groups) == [(place, True, False, matmul_bytes) for place in (0, 1, 0, 1)]


def _beside_compute() -> tuple[list[float], bool, bool]:
    ranks = joined(("a", "a"))
    machine = CpuMachine(ranks)
    probe = CollectiveProbe("all_reduce", ranks, machine, computing=True)
    at = next(iter(probe.first_sizes()))
    work = probe.prepare(at, machine)
    assert isinstance(work, JointWork)
    seconds = machine.seconds(work, 3)
    while_used = any(thread.name == "beside" for thread in threading.enumerate())
    del work
    for thread in (thread for thread in threading.enumerate() if thread.name == "beside"):
        thread.join(10)
    ranks.barrier()
    return seconds, while_used, any(thread.name == "beside" for thread in threading.enumerate())


def test_a_collective_beside_compute() -> None:
    for seconds, while_used, afterwards in run_world(2, _beside_compute):
        assert all(0 < each < 10 for each in seconds)
        assert while_used
        assert not afterwards, "the compute ends with the work it runs beside"


def _sizes_of(hosts: tuple[str, ...], name: CollectiveName, computing: bool) -> list[Sizes]:
    ranks = joined(hosts)
    return list(CollectiveProbe(name, ranks, CpuMachine(ranks), computing=computing).first_sizes())


def test_first_sizes_go_through_all_groups_before_the_next_size() -> None:
    sizes = run_world(4, _sizes_of, TWO_BY_TWO, "all_reduce", False)
    assert all(each == sizes[0] for each in sizes), "ranks measure in the same order"
    groups = [tuple(int(part) for part in at[1:]) for at in sizes[0][:4]]
    assert groups == [(2, 1, 1), (1, 2, 2), (2, 2, 1), (1, 2, 1)]
    assert [at[0] for at in sizes[0][:5]] == [2**20] * 4 + [2**16]


def test_while_computing_only_what_lasts_and_what_training_does() -> None:
    """Messages too short for anything to run beside, and groups that work alone, are not measured."""
    sizes = run_world(4, _sizes_of, TWO_BY_TWO, "all_reduce", True)[0]
    assert min(at[0] for at in sizes) == 2**20
    assert {at[1:] for at in sizes} == {(2, 1, 1), (1, 2, 2), (2, 2, 1)}


def _of_three() -> tuple[list[Sizes], Sizes | None, Sizes | None, Sizes | None, float, str]:
    ranks = joined(("a", "a", "a"))
    machine = CpuMachine(ranks)
    probe = CollectiveProbe("all_gather", ranks, machine)
    one, other = (12_000.0, 3.0, 1.0, 1.0), (1_200_000.0, 3.0, 1.0, 1.0)
    try:
        probe.prepare((4096.0, 2.0, 1.0, 1.0), machine)
        refused = ""
    except UnavailableError as error:
        refused = str(error)
    elsewhere = probe.between(one, (1_200_000.0, 1.0, 3.0, 1.0))
    near = probe.between((12.0, 3.0, 1.0, 1.0), (24.0, 3.0, 1.0, 1.0))
    return list(probe.first_sizes()), probe.between(one, other), elsewhere, near, probe.needed_bytes(one), refused


def test_sizes_divide_among_any_number_of_ranks() -> None:
    first, middle, elsewhere, near, needed_bytes, refused = run_world(3, _of_three)[0]
    assert all(at[0] % 12 == 0 for at in first)
    assert first[0][0] == pytest.approx(2**20, rel=1e-4)
    assert middle is not None
    assert middle[0] == pytest.approx(120_000, rel=1e-3)
    assert middle[0] % 12 == 0
    assert middle[1:] == (3, 1, 1)
    assert elsewhere is None, "there is no group between two kinds of group"
    assert near is None, "nothing lies between neighbours"
    assert needed_bytes == 16_000, "the gathered tensor and a rank's part of it"
    assert refused == "3 ranks on 1 nodes form no groups of 2 ranks on each of 1 nodes, 1 of which share a node"


def _probes_of_one() -> int:
    ranks = joined(("a",))
    return len(collective_probes(ranks, CpuMachine(ranks)))


def test_one_rank_measures_no_collective() -> None:
    assert run_world(1, _probes_of_one) == [0]
