"""Every row of the cost tables, for every candidate at once."""

from dataclasses import replace

import numpy as np

from shardwright.specs.model import Block

from .ends import EndWork
from .frame import WorkFrame
from .halves import layer_row
from .precision import tensor_parallel_overlap
from .row import RowWork, mean, together


class WorkModel(WorkFrame):
    """Builds `RowWork` of the layers, the embedding and the head."""

    def rows(self, *, mtp_apart: bool = False) -> list[RowWork]:
        """Return the work of all rows, in the order of the cost tables. `mtp_apart`: a multi-token prediction layer is a row of
        its own behind the layers, and the head has what is left of them."""
        layers = [self.layer(block) for block in self.model.layer_classes]
        if not mtp_apart:
            return [*layers, self.embedding(), self.head()]
        head = EndWork(self).head()
        losses = [head.without_parameters()] * self.training.mtp_layers
        return [*layers, self.prediction_layer(), self.embedding(), together([head, *losses])]

    def prediction_layer(self) -> RowWork:
        """Return the work of one multi-token prediction layer on a stage without the head, with its part of the embedding's copy
        (Megatron-Core, multi_token_prediction.py): its output goes on to the head with the hidden states."""
        ends, count = EndWork(self), max(1, self.training.mtp_layers)
        found = together([ends.joined_input(), self.layer(self._last_block)])
        return found.with_copy(ends.embedding(), np.where(self.candidates.pp > 1, 1 / count, 0.0))

    @property
    def _last_block(self) -> Block:
        return self.model.layer_classes[self.model.class_of_layer[-1]]

    def layer(self, block: Block) -> RowWork:
        """Return the work of one transformer layer: the mean of those in a lower format and those in the compute format."""
        overlap, high = tensor_parallel_overlap(self.training), self.training.high_precision_layers
        row = layer_row(self, block, overlap)
        if not high:
            return row
        precision = self.training.precision.model_copy(update={"linear": None, "gather": None})
        plain = replace(self, training=self.training.model_copy(update={"precision": precision}))
        return mean(row, layer_row(plain, block, overlap), min(1.0, high / self.model.layer_count))

    def embedding(self) -> RowWork:
        """Return the work of the token and position embedding."""
        return EndWork(self).embedding()

    def head(self) -> RowWork:
        """Return the work of final norm, LM head and loss, and of multi-token prediction, which runs beside them.

        Each prediction layer joins the hidden state with the embedding of a later token, runs a layer like the model's last,
        and reads the same head (DeepSeek-V3, arXiv 2412.19437, section 2.2). It recomputes nothing here. Where the embedding
        is on another stage, a copy of it is here (Megatron-Core, multi_token_prediction.py).
        """
        ends, count = EndWork(self), self.training.mtp_layers
        head = ends.head()
        if count == 0:
            return head
        again = head.without_parameters()
        layers = [ends.joined_input(), self.layer(self._last_block), again]
        found = together([head, *(layers * count)])
        if self.model.tied_embeddings:
            return found
        return found.with_copy(ends.embedding(), np.where(self.candidates.pp > 1, 1.0, 0.0))
