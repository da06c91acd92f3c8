"""Every row of the cost tables, for every candidate at once."""

from shardwright.specs.model import Block

from .ends import EndWork
from .frame import WorkFrame
from .layer import LayerWork
from .row import RowWork


class WorkModel(WorkFrame):
    """Builds `RowWork` of the layers, the embedding and the head."""

    def rows(self) -> list[RowWork]:
        """Return the work of all rows, in the order of the cost tables."""
        return [*(self.layer(block) for block in self.model.layer_classes), self.embedding(), self.head()]

    def layer(self, block: Block) -> RowWork:
        """Return the work of one transformer layer."""
        return LayerWork(self, block).row()

    def embedding(self) -> RowWork:
        """Return the work of the token and position embedding."""
        return EndWork(self).embedding()

    def head(self) -> RowWork:
        """Return the work of final norm, LM head and loss."""
        return EndWork(self).head()
