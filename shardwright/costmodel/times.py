"""The times to predict with: measured ones where the cluster has a profile, the catalog's else."""

from .catalog_times import CatalogTimes
from .cluster import ClusterSpec
from .constants import CALIBRATED, Constants
from .op_times import OpTimes
from .profile_times import ProfileTimes
from .training import TrainingSpec


def op_times(cluster: ClusterSpec, training: TrainingSpec, constants: Constants = CALIBRATED) -> OpTimes:
    """Times of one device of `cluster`, computing in the format of `training`.

    Raises:
        SpecError: the device has no such format.
    """
    catalog = CatalogTimes(cluster, training, constants)
    profile = cluster.groups[0].profile
    return ProfileTimes(profile, catalog) if profile else catalog
