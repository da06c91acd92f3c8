"""What one training step costs. Pure functions of specs; no torch."""

from .checks import check_memory, check_plan
from .cluster import ClusterSpec, Device, Host, Link, NodeGroup
from .cluster_file import load_cluster
from .errors import InfeasibleError, SpecError
from .estimate import Estimate, Interval, MemoryBytes, StepSeconds
from .evaluate import estimate_plan, simulate_plan
from .huggingface import load_model
from .measurement import Measurement, read_measurement
from .model import ModelSpec
from .plan import LayerRun, Mesh, Offload, Plan, Stage
from .plan_file import PlanFile, read_plan_file, write_plan_file
from .timeline import Timeline
from .training import Precision, TrainingSpec

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
