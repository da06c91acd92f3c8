"""The cluster: node groups of one device each, the links inside a node and the fabric between nodes."""

from typing import Literal, Self

from pydantic import Field, model_validator

from .spec import NonNegativeFloat, PositiveFloat, PositiveInt, Spec

LinkKind = Literal["nvlink", "nvswitch", "infinity-fabric", "pcie", "infiniband", "roce", "ethernet", "shared-memory"]


class Figure(Spec):
    """A number and where it comes from."""

    value: PositiveFloat
    source: str = Field(min_length=1)


class Device(Spec):
    """One accelerator (or one CPU rank's share of a host), by its data sheet.

    Peaks are dense, in FLOP/s, per compute format. `launch_seconds`: the least time between two kernel starts.
    `sources` names where each figure comes from, by field.
    """

    name: str = Field(min_length=1)
    kind: Literal["gpu", "cpu"] = "gpu"
    memory_bytes: PositiveFloat
    memory_bytes_per_s: PositiveFloat
    peak_flops_per_s: dict[Literal["fp32", "tf32", "bf16", "fp16", "fp8"], PositiveFloat]
    multiprocessors: PositiveInt = 1
    launch_seconds: NonNegativeFloat = 0.0
    context_bytes: NonNegativeFloat = 0.0
    sources: dict[str, str] = Field(default_factory=dict)


class Link(Spec):
    """A connection as one device sees it: bytes/s in one direction, and seconds until the first byte arrives."""

    kind: LinkKind
    bytes_per_s: PositiveFloat
    latency_seconds: NonNegativeFloat
    source: str = "given by the user"


class Host(Spec):
    """The machine around the devices. Bytes and rates are of the whole node."""

    cores: PositiveInt
    memory_bytes: PositiveFloat
    memory_bytes_per_s: PositiveFloat
    nvme_bytes: NonNegativeFloat = 0.0
    nvme_read_bytes_per_s: NonNegativeFloat = 0.0
    nvme_write_bytes_per_s: NonNegativeFloat = 0.0
    source: str = "given by the user"


class NodeGroup(Spec):
    """`nodes` equal nodes. `nics_per_node` NICs of rate `nic.bytes_per_s` each are shared by the node's devices."""

    device: Device
    nodes: PositiveInt
    devices_per_node: PositiveInt
    intra_node: Link
    host_link: Link
    nics_per_node: PositiveInt = 1
    nic: Link
    host: Host

    @property
    def devices(self) -> int:
        return self.nodes * self.devices_per_node

    @property
    def node_bytes_per_s(self) -> float:
        """What one node can send to the fabric, all its NICs together."""
        return self.nics_per_node * self.nic.bytes_per_s


class ClusterSpec(Spec):
    """Node groups behind one fabric, ranks numbered node by node. `oversubscription` divides the fabric's bandwidth."""

    name: str = Field(min_length=1)
    groups: tuple[NodeGroup, ...] = Field(min_length=1)
    oversubscription: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _homogeneous(self) -> Self:
        if len({group.device.name for group in self.groups}) > 1:
            raise ValueError("several kinds of device in one cluster are not available in this version; give one group")
        return self

    @property
    def devices(self) -> int:
        return sum(group.devices for group in self.groups)
