"""The papers' models as LightningModules, under their short names."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.aunet import AUNet, FaceAligner, LabelVAE
    from lightning_modules.baseline import BaselineAU
    from lightning_modules.emotiram_fau import EmotiRAMFace, EmotiRAMFAU, HeatmapFAU, MEGraphAU
    from lightning_modules.pairwise_ranker import IntensityMapper, PairwiseRanker, UncertaintyRanker
    from lightning_modules.renet import RENet
    from lightning_modules.transfer_au import ExpressionClassifier, TransferAU

_HOMES = {
    "AUNet": "aunet",
    "BaselineAU": "baseline",
    "EmotiRAMFAU": "emotiram_fau",
    "EmotiRAMFace": "emotiram_fau",
    "ExpressionClassifier": "transfer_au",
    "FaceAligner": "aunet",
    "HeatmapFAU": "emotiram_fau",
    "IntensityMapper": "pairwise_ranker",
    "LabelVAE": "aunet",
    "MEGraphAU": "emotiram_fau",
    "PairwiseRanker": "pairwise_ranker",
    "RENet": "renet",
    "TransferAU": "transfer_au",
    "UncertaintyRanker": "pairwise_ranker",
}

__all__ = [
    "AUNet",
    "BaselineAU",
    "EmotiRAMFAU",
    "EmotiRAMFace",
    "ExpressionClassifier",
    "FaceAligner",
    "HeatmapFAU",
    "IntensityMapper",
    "LabelVAE",
    "MEGraphAU",
    "PairwiseRanker",
    "RENet",
    "TransferAU",
    "UncertaintyRanker",
]


def __getattr__(name: str) -> Any:
    """Import a model when it is asked for: the report reads `common.metrics` and needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
