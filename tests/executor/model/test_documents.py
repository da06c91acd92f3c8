"""Fused attention of packed documents computes no score between two of them."""

import pytest
import torch
from torch import Tensor

from shardwright.executor.model import attend_within_documents, read_skeleton, tiny_model
from shardwright.executor.model.documents import documents, numbered_documents
from tests.parity.cases import layers, model_config, plan, plan_file

PLACES = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 0, 1]])


def test_documents_are_numbered_within_their_sequence() -> None:
    assert numbered_documents(PLACES).tolist() == [[1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 2, 2]]


@pytest.mark.parametrize(("window", "masked"), [(None, False), (5, True)])
def test_every_kernel_gets_one_document(monkeypatch: pytest.MonkeyPatch, window: int | None, masked: bool) -> None:
    """Causal without a mask, but where a document is longer than a layer's window; then every document of the layer has one."""
    seen: list[tuple[int, int, bool]] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def noted(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        seen.append((query.shape[2], key.shape[2], options["attn_mask"] is not None))
        return original(query, key, value, **options)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    config = model_config("llama") if window is None else {**model_config("llama"), "model_type": "mistral"}
    if window is not None:
        config["sliding_window"] = window
    model = tiny_model(read_skeleton(plan_file(config, plan((layers(),)))), axis="packed documents")
    if window is not None:
        model.config.sliding_window = window
    attend_within_documents(model)
    with torch.no_grad(), documents(PLACES, torch.device("cpu"), masked=False):
        model(input_ids=torch.arange(16).view(2, 8), position_ids=PLACES, use_cache=False)
    assert [(query, key) for query, key, _ in seen] == 2 * [(3, 3), (5, 5), (6, 6), (2, 2)]
    assert {with_mask for _, _, with_mask in seen} == {masked}
