"""Scripts that start a run on several machines: Slurm, Kubernetes, torchrun by hand or over ssh. Needs no torch."""

from .nodes import Nodes, nodes_of
from .written import by_hand, job_name, kubernetes_job, over_ssh, slurm_script

__all__ = ["Nodes", "by_hand", "job_name", "kubernetes_job", "nodes_of", "over_ssh", "slurm_script"]
