"""The search on mixed clusters: groups of different nodes, with the pipeline through all of them or through some.

An arrangement is some groups in an order. Its entries are those of the usual space, with one stage on each rank. Each
pipeline position takes the costs of the group that holds it. Replicas lie inside the groups, and each group takes the share of the
batch that balances them (replica_space.py, replica_split.py). Parts of equal nodes go through the usual search.
"""

from .search import ACROSS, Across, MixedResult, search_mixed

__all__ = ["ACROSS", "Across", "MixedResult", "search_mixed"]
