"""The raw datasets by the names that commands use."""

from collections.abc import Callable

from datamodules.raw.bp4d import BP4DRaw
from datamodules.raw.bp4d_plus import BP4DPlusRaw
from datamodules.raw.disfa import DISFARaw
from datamodules.raw.disfa_plus import DISFAPlusRaw
from datamodules.raw.records import RawDataset

#: Each takes the root folder and options of its own; its signature is what prepare.py offers.
RAW: dict[str, Callable[..., RawDataset]] = {
    "bp4d": BP4DRaw,
    "bp4d_plus": BP4DPlusRaw,
    "disfa": DISFARaw,
    "disfa_plus": DISFAPlusRaw,
}
