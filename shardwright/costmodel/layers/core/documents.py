"""Attention of packed documents. Each document attends to itself alone, so sequences of equally many tokens take unequal time."""

import math

from shardwright.specs import TrainingSpec


def context_length(seq_len: float, window: int | None) -> float:
    """Return the mean number of keys that a causal query of `seq_len` tokens sees, itself included, with a window of `window`."""
    reach = min(window or seq_len, seq_len)
    return reach - reach * (reach - 1) / (2 * seq_len)


def keys_seen(training: TrainingSpec, window: int | None) -> float:
    """Return the mean number of keys that a causal query sees: of its sequence, or of its document where documents are packed."""
    pieces = training.documents
    if pieces is None:
        return context_length(training.seq_len, window)
    seen = (share * length * context_length(length, window) for length, share in zip(*pieces, strict=True))
    return math.fsum(seen) / pieces.mean()


def document_length(training: TrainingSpec) -> float:
    """Return the mean length of what a token attends to: its sequence, or its document. Longer documents have more tokens, so
    this is the mean of l^2 over the mean of l."""
    pieces = training.documents
    return float(training.seq_len) if pieces is None else pieces.mean(2) / pieces.mean()


def unevenness(training: TrainingSpec, window: int | None) -> float:
    """Return the standard deviation of a sequence's attention work over its mean; 0 where a sequence is one document.

    Documents of l tokens and work W(l) fill a sequence of s tokens one after the other. By the central limit theorem of renewal
    reward processes (Smith 1955, "Regenerative stochastic processes") the work of s tokens has the mean s r and the variance
    s Var(W - r l) / E[l], with r = E[W] / E[l]. That holds for many documents in a sequence. With few, it is at most what a
    quantity between its least and its greatest value can have (Bhatia and Davis 2000, "A better bound on the variance").
    """
    pieces = training.documents
    if pieces is None:
        return 0.0
    seen = [context_length(length, window) for length in pieces.tokens]
    each = list(zip(pieces.tokens, pieces.shares, seen, strict=True))
    rate = math.fsum(share * length * keys for length, share, keys in each) / pieces.mean()
    spread = math.fsum(share * (length * (keys - rate)) ** 2 for length, share, keys in each)
    variance = spread / pieces.mean() / training.seq_len
    bound = (max(seen) - rate) * (rate - min(seen))
    return math.sqrt(max(0.0, min(variance, bound))) / rate
