"""The choice of operation times: measured ones where the cluster has a profile, else those of the catalog."""

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
    catalog = CatalogTimes(cluster, training, constants)
    profile = cluster.node.profile
    return ProfileTimes(profile, catalog) if profile else catalog
