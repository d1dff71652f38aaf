"""A plain timm backbone, the baseline of every paper."""

from lightning_modules.baseline.module import BaselineAU

__all__ = ["BaselineAU"]
