"""Pseudo-intensity by ranking pairs of frames, its uncertainty, and its mapping to labels (Saito et al., 2021)."""

from lightning_modules.pairwise_ranker.module import IntensityMapper, PairwiseRanker, UncertaintyRanker

__all__ = ["IntensityMapper", "PairwiseRanker", "UncertaintyRanker"]
