"""The raw datasets by the names that commands use."""

from collections.abc import Callable

from datamodules.raw.affwild2 import AffWild2Raw
from datamodules.raw.bp4d import BP4DRaw
from datamodules.raw.bp4d_plus import BP4DPlusRaw
from datamodules.raw.caer_s import CAERSRaw
from datamodules.raw.disfa import DISFARaw
from datamodules.raw.disfa_plus import DISFAPlusRaw
from datamodules.raw.multi_pie import MultiPIERaw
from datamodules.raw.records import RawDataset

#: Each takes the root folder and options of its own; its signature is what prepare.py offers.
RAW: dict[str, Callable[..., RawDataset]] = {
    "affwild2": AffWild2Raw,
    "bp4d": BP4DRaw,
    "bp4d_plus": BP4DPlusRaw,
    "caer_s": CAERSRaw,
    "disfa": DISFARaw,
    "disfa_plus": DISFAPlusRaw,
    "multi_pie": MultiPIERaw,
}
