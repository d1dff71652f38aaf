"""AUNet, Proceedings of the IEEE 2023."""

from lightning_modules.aunet.module import AUNet, FaceAligner, LabelVAE

__all__ = ["AUNet", "FaceAligner", "LabelVAE"]
