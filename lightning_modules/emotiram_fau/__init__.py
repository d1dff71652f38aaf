"""EmotiRAM-FAU: emotions from networks that know action units, the two networks that do, and EmotiRAM-f."""

from lightning_modules.emotiram_fau.module import EmotiRAMFace, EmotiRAMFAU, HeatmapFAU, MEGraphAU

__all__ = ["EmotiRAMFAU", "EmotiRAMFace", "HeatmapFAU", "MEGraphAU"]
