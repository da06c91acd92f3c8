"""The house: rooms of a size that one can find things in, each of which says what it is for."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "shardwright"
ROOMS = sorted(path.parent for path in ROOT.rglob("__init__.py"))
MOST_MODULES = 14
FORMULAS = ("layers", "op_times", "pipeline", "tables")


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT.parent)))
def test_a_room_says_what_it_is_for_and_is_not_a_heap(room: Path) -> None:
    init = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(init)
    assert len(list(room.glob("*.py"))) <= MOST_MODULES


def test_the_folders_at_the_top_are_links_to_the_packages() -> None:
    for name in ("planner", "costmodel", "profiler", "executor", "benchmarks"):
        link = ROOT.parent / name
        if link.exists():  # links are not in a wheel's source tree on every system
            assert link.resolve() == ROOT / name


@pytest.mark.parametrize("room", FORMULAS)
def test_a_formula_is_handed_the_node_that_it_costs_and_not_the_cluster(room: str) -> None:
    """`op_times` alone takes a cluster, to choose the times of its node."""
    modules = [path for path in (ROOT / "costmodel" / room).glob("*.py") if path.name != "choice.py"]
    assert modules
    assert [path.name for path in modules if "ClusterSpec" in path.read_text(encoding="utf-8")] == []
