"""The choice of operation times: measured ones where the node has a profile, else those of the catalog."""

from shardwright.specs import ClusterSpec, TrainingSpec

from .constants import CALIBRATED, Constants
from .datasheet import CatalogTimes
from .measured import ProfileTimes
from .protocol import OpTimes


def op_times(cluster: ClusterSpec, training: TrainingSpec, constants: Constants = CALIBRATED) -> OpTimes:
    """Return the times of one device of `cluster`, computing in the format of `training`.

    Raises:
        SpecError: the device has no such format.
    """
    node = cluster.node
    catalog = CatalogTimes(node, training, constants, cluster.oversubscription)
    return ProfileTimes(node.profile, catalog) if node.profile else catalog
