"""The raw datasets by the names that commands use."""

from datamodules.raw.disfa import DISFARaw
from datamodules.raw.records import RawDataset

RAW: dict[str, type[RawDataset]] = {"disfa": DISFARaw}
