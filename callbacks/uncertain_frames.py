"""Keeps the frames that a network is most and least sure of, for the contact sheet of the report."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

ENDS = ("most uncertain", "least uncertain")


class UncertainFrames(pl.Callback):
    """Writes ``uncertain_frames.npz`` in a test of a module that predicts ``sigma``.

    Pictures of real people are not written unless ``faces``.

    Args:
        path: File to write.
        edition: Of the data; ``twin`` is rendered.
        faces: Whether the licence of the data lets the caller show its faces.
        number: Frames kept of each end.
    """

    def __init__(self, path: Path, edition: str | None, faces: bool = False, number: int = 8) -> None:
        self.path, self.number = path, number
        self.allowed = faces or edition == "twin"
        self._kept: dict[str, list[dict[str, Any]]] = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Forget an earlier test."""
        self._kept = {end: [] for end in ENDS}

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Keep the frames of the batch whose mean logarithm of sigma over AUs is at an end, one of each video."""
        if not self.allowed or not trainer.is_global_zero or "sigma" not in outputs or "image" not in batch:
            return
        score = outputs["sigma"].log().mean(1).cpu().numpy()
        for end, sign in zip(ENDS, (1, -1), strict=True):
            ranked = sign * score
            for i in np.argsort(-ranked).tolist():
                kept = self._kept[end]
                if len(kept) == self.number and ranked[i] <= kept[-1]["rank"]:
                    break
                self._offer(end, float(ranked[i]), batch, i)

    def _offer(self, end: str, rank: float, batch: Any, i: int) -> None:
        video = (batch["dataset"][i], batch["subject"][i], batch["sequence"][i])
        others = [kept for kept in self._kept[end] if kept["video"] != video]
        mine = [kept for kept in self._kept[end] if kept["video"] == video]
        if mine and mine[0]["rank"] >= rank:
            return
        image = batch["image"][i].permute(1, 2, 0).cpu().numpy().copy()
        covered = int(batch["occluded"][i]) if "occluded" in batch else -1
        found = {"rank": rank, "video": video, "frame": int(batch["frame"][i]), "image": image, "occluded": covered}
        self._kept[end] = sorted([*others, found], key=lambda kept: -kept["rank"])[: self.number]

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the file whole or not at all."""
        arrays: dict[str, Any] = {}
        for end, kept in self._kept.items():
            if kept:
                arrays[f"{end} images"] = np.stack([one["image"] for one in kept])
                covered = {1: ", covered", 0: "", -1: ""}
                arrays[f"{end} frames"] = np.array(
                    [f"{one['video'][1]}, {one['frame']}{covered[one['occluded']]}" for one in kept]
                )
        if arrays and trainer.is_global_zero:
            temporary = self.path.with_name(f".{self.path.name}")
            np.savez_compressed(temporary, **arrays)
            temporary.replace(self.path)
