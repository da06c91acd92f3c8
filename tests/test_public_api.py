"""What the package promises: its names, and the schema of the files that people keep."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from shardwright.costmodel.plan_file import SCHEMA_VERSION, PlanFile

SCHEMA = Path(__file__).parents[1] / "docs" / "schemas" / f"plan-{SCHEMA_VERSION}.schema.json"


@pytest.mark.parametrize(
    "name", ["shardwright", "shardwright.costmodel", "shardwright.planner", "shardwright.benchmarks"]
)
def test_all_lists_what_is_there_in_order(name: str) -> None:
    module = import_module(name)
    assert module.__all__ == sorted(module.__all__, key=lambda word: (not word.isupper(), word[0].islower(), word))
    assert all(hasattr(module, word) for word in module.__all__)


def test_the_published_schema_is_the_one_in_use() -> None:
    """After a change: raise SCHEMA_VERSION if old files no longer read, and run scripts/schema."""
    assert json.loads(SCHEMA.read_text()) == PlanFile.model_json_schema()
