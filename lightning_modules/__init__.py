"""The papers' models as LightningModules, under their short names."""

from lightning_modules.baseline import BaselineAU
from lightning_modules.renet import RENet

__all__ = ["BaselineAU", "RENet"]
