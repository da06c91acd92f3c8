"""What the package promises: its names, and the schema of the files that people keep."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from shardwright.costmodel import plan_file
from shardwright.costmodel.phases import PhasesFile, phases_file
from shardwright.costmodel.plan_file import PlanFile
from shardwright.specs import profile
from shardwright.specs.profile import Profile
from shardwright.specs.spec import Spec

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"


@pytest.mark.parametrize(
    "name", ["shardwright", "shardwright.costmodel", "shardwright.planner", "shardwright.planner.questions"]
)
def test_all_lists_what_is_there_in_order(name: str) -> None:
    module = import_module(name)
    assert module.__all__ == sorted(module.__all__, key=lambda word: (not word.isupper(), word[0].islower(), word))
    assert all(hasattr(module, word) for word in module.__all__)


def test_dir_shows_the_public_names() -> None:
    assert dir(import_module("shardwright")) == sorted(import_module("shardwright").__all__)


@pytest.mark.parametrize(
    ("name", "noun"),
    [
        (f"plan-{plan_file.SCHEMA_VERSION}", PlanFile),
        (f"phases-{phases_file.SCHEMA_VERSION}", PhasesFile),
        (f"profile-{profile.SCHEMA_VERSION}", Profile),
    ],
)
def test_the_published_schema_is_the_one_in_use(name: str, noun: type[Spec]) -> None:
    """After a change: raise SCHEMA_VERSION if old files no longer read, and run scripts/schema."""
    assert json.loads((SCHEMAS / f"{name}.schema.json").read_text()) == noun.model_json_schema()
