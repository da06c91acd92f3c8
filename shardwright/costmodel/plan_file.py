"""The plan file: a plan with its model, cluster and training. JSON, versioned, with a published schema."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from shardwright.base import write_whole
from shardwright.catalog.huggingface import model_from_config
from shardwright.specs import ClusterSpec, Estimate, Plan, Spec, TrainingSpec, read_document
from shardwright.specs.model import ModelSpec

from .evaluate import estimate_plan
from .plan_summary import job_title, labelled_text, summary_lines

SCHEMA_VERSION: Literal[1] = 1


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
    """Read the plan file at `path`, as `read_plan_file` does.

    Raises:
        SpecError: as `read_plan_file`.
    """
    return read_plan_file(Path(path))


def read_plan_file(path: Path) -> PlanFile:
    """Read a plan file.

    Raises:
        SpecError: the file is not a plan file, has a newer schema, or is not valid.
    """
    make = f"write one with 'shardwright plan --out {path.name}'"
    return read_document(PlanFile, path, name="plan", make=make, again="plan again")


def write_plan_file(path: Path, plan_file: PlanFile) -> None:
    """Write a plan file completely or not at all. A complete file replaces an existing one.

    Raises:
        SpecError: the folder is missing or not writable.
    """
    write_whole(path, json.dumps(plan_file.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")
