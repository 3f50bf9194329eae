"""The devices that a plan is made for: peaks, memory and the network between them."""

from __future__ import annotations

from dataclasses import dataclass

from kgpt.config import Precision, compute_dtype, did_you_mean
from kgpt.datasheet import GIGA, find_datasheet
from kgpt.errors import UsageError

# By the short name that users write: the name in `DATASHEETS`.
SHORT_NAMES = {
    "b200": "B200",
    "h200": "H200",
    "h100": "H100 80GB HBM3",
    "h100-pcie": "H100 PCIe",
    "a100": "A100-SXM4-80GB",
    "a100-40gb": "A100-SXM4-40GB",
    "v100": "V100-SXM2-32GB",
    "l40s": "L40S",
    "l4": "L4",
    "a10": "A10",
    "t4": "T4",
    "rtx-5090": "RTX 5090",
    "rtx-4090": "RTX 4090",
    "rtx-3090": "RTX 3090",
    "tpu-v5e": "TPU v5 lite",
    "tpu-v5p": "TPU v5",
}


@dataclass(frozen=True)
class Interconnect:
    """The network between devices; bandwidths are of one device in one direction.

    Attributes:
        link_gb: GB/s to the devices of the same node (of a TPU: of the same slice).
        network_gb: GB/s to those of other nodes.
        node_size: devices of a node.
    """

    link_gb: float
    network_gb: float
    node_size: int = 8

    def bandwidth(self, num_devices: int) -> float:
        """Bytes per second of a collective among so many neighbouring devices."""
        return GIGA * (self.link_gb if num_devices <= self.node_size else self.network_gb)


# NVLink is half of the datasheet's figure, which counts both directions; between nodes, the network
# adapters of NVIDIA's DGX systems (one of 400 or 200 Gb/s for each GPU, on a DGX-1 four of 100 for
# eight). TPUs: half of the bidirectional ICI bandwidth, and the data center network of a chip;
# 6,144 chips are the largest slice of v5p.
INTERCONNECTS = {
    "B200": Interconnect(900, 50),
    "H200": Interconnect(450, 50),
    "H100 80GB HBM3": Interconnect(450, 50),
    "A100-SXM4-80GB": Interconnect(300, 25),
    "A100-SXM4-40GB": Interconnect(300, 25),
    "V100-SXM2-16GB": Interconnect(150, 6.25),
    "V100-SXM2-32GB": Interconnect(150, 6.25),
    "TPU v5 lite": Interconnect(200, 3.125, node_size=256),
    "TPU v5": Interconnect(600, 6.25, node_size=6144),
}
PCIE = Interconnect(16, 12.5 / 8)  # PCIe 3 x16, and 100 Gb/s of Ethernet for a node of eight
CPU_NETWORK = Interconnect(1.25, 1.25, node_size=1)  # 10 Gb/s of Ethernet for each machine


@dataclass(frozen=True)
class Accelerator:
    """One device, in the precision that is planned for.

    Attributes:
        name: of the device.
        kind: "cpu", "gpu" or "tpu".
        peak_flops: FLOP/s of dense matrix products.
        efficiency: share of `peak_flops` that the matrix products of a model reach.
        bandwidth: bytes per second of its memory.
        memory: bytes of its memory; None if it is not known.
        interconnect: between several of them.
        runtime: bytes that the process takes before there is a model; 0 where it is not known.
        flash_attention: attention never stores its weights.
        recomputes: gradient checkpointing has an effect. On a CPU XLA merges what JAX computes
            twice, and keeps it.
        half_itemsize: bytes of a number in half precision, which XLA widens on a CPU.
    """

    name: str
    kind: str
    peak_flops: float
    efficiency: float
    bandwidth: float
    memory: int | None
    interconnect: Interconnect
    runtime: int = 0
    flash_attention: bool = False
    recomputes: bool = True
    half_itemsize: int = 2

    @property
    def loss_memory(self) -> int | None:
        """The memory that decides the chunk of the loss; None on a CPU."""
        return None if self.kind == "cpu" else self.memory


# Large bfloat16 products reach about three quarters of the datasheet's figure: the published and
# measured rates of training named in docs/scaling.md follow from it.
DATASHEET_EFFICIENCY = 0.75
NO_FLASH_ATTENTION = ("T4", "V100")  # before the Ampere generation


def find_accelerator(name: str, precision: Precision) -> Accelerator:
    """The accelerator that a user names: `h100`, or as its driver does, `NVIDIA H100 80GB HBM3`.

    Raises:
        UsageError: there is no datasheet of it, or no peak for `precision`.

    >>> find_accelerator("h100", "bfloat16").peak_flops / 1e12
    989.5
    """
    full = SHORT_NAMES.get(name.lower(), name)
    datasheet = find_datasheet(full)
    if datasheet is None:
        hint = did_you_mean(name.lower(), SHORT_NAMES)
        known = ", ".join([*SHORT_NAMES, "this"])
        raise UsageError(f"There is no datasheet of the device {name!r}; {hint or known}.")
    peak = datasheet.peak_flops(precision)
    if peak is None:
        raise UsageError(
            f"The datasheet of {full} has no peak for {precision}; set train.precision to another."
        )
    kind = "tpu" if full.startswith("TPU") else "gpu"
    half = compute_dtype(precision) != "float32"
    return Accelerator(
        name=full,
        kind=kind,
        peak_flops=peak,
        efficiency=DATASHEET_EFFICIENCY,
        bandwidth=datasheet.bandwidth,
        memory=int(datasheet.memory_gb * GIGA),
        interconnect=INTERCONNECTS.get(full, PCIE),
        flash_attention=half and kind == "gpu" and not full.startswith(NO_FLASH_ATTENTION),
    )
