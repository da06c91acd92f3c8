"""What one training step costs. Pure functions of specs; no torch."""

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.specs.cluster import ClusterSpec, Device, Host, Link, NodeGroup
from shardwright.specs.estimate import Estimate, Interval, MemoryBytes, StepSeconds
from shardwright.specs.measurement import Measurement, read_measurement
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import LayerRun, Mesh, Offload, Plan, Stage
from shardwright.specs.timeline import Timeline
from shardwright.specs.training import Precision, TrainingSpec

from .checks import check_memory, check_plan
from .evaluate import estimate_plan, simulate_plan
from .plan_file import PlanFile, read_plan_file, write_plan_file

__all__ = [
    "ClusterSpec",
    "Device",
    "Estimate",
    "Host",
    "InfeasibleError",
    "Interval",
    "LayerRun",
    "Link",
    "Measurement",
    "MemoryBytes",
    "Mesh",
    "ModelSpec",
    "NodeGroup",
    "Offload",
    "Plan",
    "PlanFile",
    "Precision",
    "SpecError",
    "Stage",
    "StepSeconds",
    "Timeline",
    "TrainingSpec",
    "check_memory",
    "check_plan",
    "estimate_plan",
    "load_cluster",
    "load_model",
    "read_measurement",
    "read_plan_file",
    "simulate_plan",
    "write_plan_file",
]
