"""The search on mixed clusters: groups of different nodes, with the pipeline through all of them or through some.

An arrangement is some groups in an order. Its entries are those of the usual space, with one stage on each rank. Each
pipeline position takes the costs of the group that holds it. Parts of equal nodes go through the usual search.
"""

from .search import MixedResult, search_mixed

__all__ = ["MixedResult", "search_mixed"]
