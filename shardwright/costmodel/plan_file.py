"""The plan file: a plan with its model, cluster and training. JSON, versioned, with a published schema."""

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from shardwright.base import SpecError, read_json, write_whole
from shardwright.catalog.huggingface import model_from_config
from shardwright.specs import ClusterSpec, Estimate, Plan, Spec, TrainingSpec, parse_document
from shardwright.specs.model import ModelSpec

from .evaluate import estimate_plan
from .plan_summary import job_title, labelled_text, summary_lines

SCHEMA_VERSION: Literal[1] = 1
PHASES_KIND: Literal["shardwright-phases"] = "shardwright-phases"
"""The kind of a file that holds several plan files (`phases/`)."""
_NUMBER = re.compile(r"[0-9]{1,18}")


class PlanFile(Spec):
    """What `shardwright plan` writes and every other command reads.

    `model_config_json` is the Hugging Face `config.json` of the model, as it is.
    """

    kind: Literal["shardwright-plan"] = "shardwright-plan"
    schema_version: Literal[1] = SCHEMA_VERSION
    model_name: str = Field(min_length=1)
    model_config_json: dict[str, Any]
    cluster: ClusterSpec
    training: TrainingSpec
    plan: Plan
    estimate: Estimate | None = None

    def __repr__(self) -> str:
        return f"<PlanFile {self.model_name} on {self.cluster.name}: {self.plan.mesh}>"

    def model(self) -> ModelSpec:
        """Read the model from its configuration.

        Raises:
            SpecError: the configuration is not valid.
        """
        return model_from_config(
            self.model_config_json, name=self.model_name, source="the plan file's model_config_json"
        )

    def estimated(self) -> Estimate:
        """Return the estimate in the file, or the catalog's where it holds none.

        Raises:
            SpecError: the plan does not divide the model, the batch or the cluster.
        """
        return self.estimate or estimate_plan(self.model(), self.cluster, self.training, self.plan)

    def summary(self) -> str:
        """Return the plan's choices and its predicted step and memory, in lines of at most 80 columns.

        Raises:
            SpecError: as `estimated`.
        """
        job = self.cluster, self.training
        return labelled_text(job_title(self.model(), *job), summary_lines(self.plan, self.estimated(), *job))


def load_plan(path: Path | str) -> PlanFile:
    """Read the plan file at `path`, or a phase of a phases file, as `read_plan_file` does.

    Raises:
        SpecError: as `read_plan_file`.
    """
    return read_plan_file(Path(path))


def read_plan_file(path: Path) -> PlanFile:
    """Read a plan file. `phases.json:2` is the plan of phase 2 of a phases file.

    Raises:
        SpecError: the file is not a plan file, has a newer schema, or is not valid; it is a phases file and no phase of it is named.
    """
    file, number = phase_of(path)
    if file.suffix == ".toml":
        make = f"'shardwright plan MODEL --cluster CLUSTER --phases {file.name} --out phases.json'"
        raise SpecError(f"{file}: is TOML, and plan files are JSON; if it holds phases, write their plans with {make}")
    data, source = read_json(file), str(path)
    if isinstance(data, dict) and data.get("kind") == PHASES_KIND:
        data = _phase(data, file, number)
    elif number is not None:
        raise SpecError(f"{file}: is no phases file, so it has no phase {number}; leave out ':{number}'")
    make = f"write one with 'shardwright plan --out {file.name}'"
    return parse_document(PlanFile, data, source, name="plan", make=make, again="plan again")


def phase_of(path: Path) -> tuple[Path, int | None]:
    """Return the file and the number of the phase that `phases.json:2` names. What exists under the whole name, colon and all, is a file.

    Raises:
        SpecError: what follows the colon after a file that exists is no number.
    """
    file, _, number = str(path).rpartition(":")
    if not file or path.exists():
        return path, None
    if _NUMBER.fullmatch(number):
        return Path(file), int(number)
    if Path(file).is_file():
        raise SpecError(f"{path}: '{number}' is no number of a phase; name one such as {file}:1")
    return path, None


def _phase(data: dict[str, Any], file: Path, number: int | None) -> object:
    """The plan file of a phase, as it was read."""
    phases = data.get("phases")
    count = len(phases) if isinstance(phases, list) else 0
    if not isinstance(phases, list) or not count:
        raise SpecError(f"{file}: is a phases file without phases; plan again")
    if number is None:
        raise SpecError(f"{file}: holds the plans of {count} phases; name one of them, such as {file}:1")
    if not 1 <= number <= count:
        raise SpecError(f"{file}: has no phase {number}; give 1 to {count}")
    phase = phases[number - 1]
    return phase.get("plan_file") if isinstance(phase, dict) else None


def write_plan_file(path: Path, plan_file: PlanFile) -> None:
    """Write a plan file completely or not at all. A complete file replaces an existing one.

    Raises:
        SpecError: the folder is missing or not writable.
    """
    write_whole(path, json.dumps(plan_file.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")
