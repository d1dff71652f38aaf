"""RE-Net, ACCV 2020."""

from lightning_modules.renet.module import RENet

__all__ = ["RENet"]
