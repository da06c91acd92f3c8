"""Shipped facts and how they are looked up: devices, links and nodes with their sources, clusters from a short form or TOML, the
lengths of documents, and the profile that is attached to a cluster."""

from . import devices
from .avoiding import keeps_apart, without
from .cluster_file import load_cluster
from .devices import standard_node
from .lengths_file import read_lengths
from .node_counts import nodes_of
from .profile_attachment import shared_cpu_name, what_profile_lacks, with_profile

__all__ = [
    "devices",
    "keeps_apart",
    "load_cluster",
    "nodes_of",
    "read_lengths",
    "shared_cpu_name",
    "standard_node",
    "what_profile_lacks",
    "with_profile",
    "without",
]
