"""Training on a changed stack."""

import pytest

from shardwright.specs import stack as stacks
from shardwright.specs.stack import Stack
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.stack.changed import SEQ, Trained


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Training on a stack that is eager PyTorch but for the properties given."""
    known: dict[str, Stack] = {}
    monkeypatch.setattr(stacks, "_stacks", lambda: known)

    def of(*, precision: Precision | None = None, **properties: object) -> TrainingSpec:
        name = f"stack {len(known)}"
        known[name] = Stack.parse({"name": name, "about": "a test", **properties}, source="test")
        return TrainingSpec(seq_len=SEQ, global_batch=8, stack=name, precision=precision or Precision())

    return of
