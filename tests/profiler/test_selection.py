"""What is measured, by the names that a user gives."""

from typing import get_args

import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.op_times.protocol import CollectiveName, Operator
from shardwright.profiler.probes.compute.defaults import default_probes
from shardwright.profiler.profile_options import FORMATS
from shardwright.profiler.selection import GROUPS, chosen_operations, selected
from shardwright.profiler.timing.machines import CpuMachine


def test_without_words_it_is_everything() -> None:
    everything = chosen_operations(())
    assert {"matmul", "attention", "host_copy", "disk_read", "host_adamw", "figures", "layers"} < everything
    assert set(get_args(Operator)) | set(get_args(CollectiveName)) < everything
    assert everything == {name for names in GROUPS.values() for name in names}


@pytest.mark.parametrize(
    ("words", "operations"),
    [
        (["matmul"], {"matmul"}),
        (["matmul,attention"], {"matmul", "attention"}),
        (["matmul", "disk"], {"matmul", "disk_read", "disk_write"}),
        ([" MatMul , all-reduce "], {"matmul", "all_reduce"}),
        (["optimizer"], {"adamw", "sgd", "clip", "host_adamw"}),
        (["copies"], {"host_copy"}),
        (["casts"], {"cast"}),
        (["figures"], {"figures"}),
    ],
)
def test_groups_and_single_operations(words: list[str], operations: set[str]) -> None:
    assert chosen_operations(words) == operations


def test_operators_are_the_memory_bound_ones_but_for_updates() -> None:
    assert chosen_operations(["operators"]) == set(get_args(Operator)) - {"adamw", "sgd", "clip"}


@pytest.mark.parametrize(
    ("word", "near"), [("mamtul", "'matmul'"), ("colectives", "'collectives'"), ("all_reduse", "'all_reduce'")]
)
def test_a_typo_names_the_nearest(word: str, near: str) -> None:
    with pytest.raises(SpecError, match=rf"--only '{word}': names nothing that is measured\. Did you mean {near}\?"):
        chosen_operations([f"matmul,{word}"])


def test_probes_are_kept_in_order() -> None:
    probes = default_probes(CpuMachine(), ["fp32"])
    kept = selected(probes, chosen_operations(["attention,matmul"]))
    assert [probe for probe in probes if probe.operation in ("matmul", "attention")] == kept
    assert {probe.operation for probe in selected(probes, chosen_operations(["optimizer"]))} == {
        *("adamw", "sgd", "clip", "host_adamw")
    }


def test_every_probe_has_a_name_to_choose_it_by() -> None:
    everything = chosen_operations(())
    assert {probe.operation for probe in default_probes(CpuMachine(), FORMATS)} <= everything
