"""Pairs of frames of one video that differ in an action unit (Saito et al. 2021, Sec. 3.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.facs import au_name
from datamodules.store import FrameStore, Rows

LEVELS = 6  # intensity 0..5; occurrence uses the first two

Scale = Literal["finest", "occurrence"]


@dataclass(frozen=True)
class PairSettings:
    """Pairs instead of frames, drawn once by ``data.seed``.

    Attributes:
        train: Pairs of every action unit to train on; 0 = frames, and no pairs.
        val: Pairs of every action unit that choose the epoch.
        labels: ``finest`` compares intensities where a dataset codes them, else occurrence; ``occurrence`` never
            compares intensities.
    """

    train: int = 0
    val: int = 500
    labels: Scale = "finest"


NO_PAIRS = PairSettings()


def levels(labels: Mapping[str, np.ndarray], group: np.ndarray, scale: Scale) -> np.ndarray:
    """What frames are compared by: intensity where a dataset codes it for an AU, else occurrence.

    Args:
        labels: ``au`` and ``intensity``, (N, A) int, -1 unknown.
        group: (N,) int, dataset of each row.
        scale: See `PairSettings`.

    Returns:
        (N, A) int8 in -1..5.
    """
    chosen = labels["au"].astype(np.int8)
    if scale == "finest":
        for dataset in np.unique(group):
            rows = group == dataset
            coded = (labels["intensity"][rows] >= 0).any(axis=0)
            chosen[np.ix_(rows, coded)] = labels["intensity"][np.ix_(rows, coded)]
    return chosen


class PairIndex:
    """Where the frames of every level of every video stand, for one action unit.

    Built once by a sort of the frames; then a pair costs a few look-ups, however many frames there are. A pair is
    drawn uniformly: dataset, then ordered pair of unequal levels that some video of it shows, then such a video, then
    a frame of each level.

    Args:
        rows: (n,) rows of the frames.
        level: (n,) int, -1 unknown.
        video: (n,) int, number of the video.
        group: (n,) int, number of the dataset.

    Attributes:
        videos: How many videos have a known level.
        barren: How many of them show one level only, and so give no pair.
    """

    def __init__(self, rows: np.ndarray, level: np.ndarray, video: np.ndarray, group: np.ndarray) -> None:
        known = level >= 0
        rows, level, video, group = rows[known], level[known], video[known], group[known]
        numbers, first, code = np.unique(video, return_index=True, return_inverse=True)
        cell = code.astype(np.int64) * LEVELS + level
        self._rows = rows[np.argsort(cell, kind="stable")]
        self._count = np.bincount(cell, minlength=len(numbers) * LEVELS)
        self._start = np.cumsum(self._count) - self._count
        shown = self._count.reshape(-1, LEVELS) > 0
        self.videos, self.barren = len(numbers), int((shown.sum(1) < 2).sum())
        kinds: list[tuple[int, int]] = []
        videos: list[np.ndarray] = []
        self._kinds_of_group: list[int] = []
        for dataset in np.unique(group):
            before = len(kinds)
            for a in range(LEVELS):
                for b in range(LEVELS):
                    both = np.flatnonzero(shown[:, a] & shown[:, b] & (group[first] == dataset))
                    if a != b and len(both):
                        kinds.append((a, b))
                        videos.append(both)
            if len(kinds) > before:
                self._kinds_of_group.append(len(kinds) - before)
        self._kinds = np.array(kinds, np.int64).reshape(-1, 2)
        self._videos = np.concatenate(videos) if videos else np.zeros(0, np.int64)
        self._videos_of_kind = np.array([len(of) for of in videos], np.int64)

    def __bool__(self) -> bool:
        return len(self._kinds) > 0

    def draw(self, number: int, generator: np.random.Generator) -> np.ndarray:
        """(number, 2) int64 rows, or -1 throughout where there is no pair."""
        if not self:
            return np.full((number, 2), -1, np.int64)
        chance = generator.random((5, number))
        many = np.array(self._kinds_of_group)
        group = _pick(chance[0], np.array(len(many)))
        kind = (np.cumsum(many) - many)[group] + _pick(chance[1], many[group])
        before = np.cumsum(self._videos_of_kind) - self._videos_of_kind
        video = self._videos[before[kind] + _pick(chance[2], self._videos_of_kind[kind])]
        cells = video[:, None] * LEVELS + self._kinds[kind]
        return self._rows[self._start[cells] + _pick(chance[3:].T, self._count[cells])]


def _pick(chance: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) to whole numbers below ``count``."""
    return (chance * count).astype(np.int64)


class DrawnPairs:
    """The pairs of a run, drawn before it trains.

    Every action unit draws from a stream of its own, so that the others change nothing.

    Args:
        settings: How many, compared by what.
        rows: ``train``, ``val``, ``test`` -> rows of that side.
        labels: ``au`` and ``intensity`` (N, A), -1 unknown.
        stores: Datasets whose rows stand one after the other.
        aus: The A action units.
        seed: Of the draw.
        select_on: Side whose pairs choose the epoch.

    Attributes:
        rows: ``train`` and ``val`` -> (P, A, 2) int64, -1 where an AU has no pair.
        facts: AU -> how many videos with known labels the training side has, and how many of them give no pair.

    Raises:
        DataError: An AU without any pair to train on, or nothing to choose the epoch by.
    """

    def __init__(
        self,
        settings: PairSettings,
        rows: Mapping[str, np.ndarray],
        labels: Mapping[str, np.ndarray],
        stores: Sequence[tuple[str, FrameStore]],
        aus: Sequence[int],
        seed: int,
        select_on: str,
    ) -> None:
        self.aus, self._keys = aus, Rows(stores)
        self._level = levels(labels, self._keys.dataset, settings.labels)
        self.rows: dict[str, np.ndarray] = {}
        self.facts = {}
        for part, side, number in (("val", select_on, settings.val), ("train", "train", settings.train)):
            index = [
                PairIndex(rows[side], self._level[rows[side], a], self._keys.video[rows[side]],
                          self._keys.dataset[rows[side]])
                for a in range(len(aus))
            ]  # fmt: skip
            of = {au_name(au): {"videos": i.videos, "without_pair": i.barren} for au, i in zip(aus, index, strict=True)}
            lacking = [au_name(au) for au, i in zip(aus, index, strict=True) if not i]
            if part == "train" and lacking:
                raise _no_pair(f"training frames for {', '.join(lacking)}", of[lacking[0]])
            if part == "val" and len(rows[side]) and len(lacking) == len(aus):
                raise _no_pair("frames that could choose the epoch, for any AU", of[lacking[0]])
            self.facts = of
            draws = [np.random.default_rng((seed, 0x9A125, part == "val", au)) for au in aus]
            self.rows[part] = np.stack([i.draw(number, g) for i, g in zip(index, draws, strict=True)], axis=1)

    def samples(self, part: Literal["train", "val"], frames: Dataset[dict[str, Any]]) -> "PairDataset":
        """The pairs of a part as samples."""
        return PairDataset(frames, self.rows[part], self._level)

    def table(self) -> dict[str, np.ndarray]:
        """All pairs, a row each: part, AU, video, both frames and what they show."""
        columns: dict[str, list[Any]] = {}
        for part, drawn in self.rows.items():
            for a, au in enumerate(self.aus):
                for first, second in drawn[:, a][drawn[:, a, 0] >= 0].tolist():
                    dataset, subject, sequence, frame = self._keys.key(first)
                    row = {"part": part, "au": au, "dataset": dataset, "subject": subject, "sequence": sequence}
                    row |= {"first_frame": frame, "second_frame": self._keys.key(second)[3]}
                    row |= {"first_level": self._level[first, a], "second_level": self._level[second, a]}
                    for name, value in row.items():
                        columns.setdefault(name, []).append(value)
        return {name: np.array(values) for name, values in columns.items()}


def _no_pair(what: str, of: Mapping[str, int]) -> DataError:
    counts = f"{of['without_pair']} of {of['videos']} videos with known labels show one level only"
    return DataError(
        f"data.pairs: there is no pair of {what}: {counts}",
        "leave such AUs out of data.aus, take videos of more frames, or raise data.val_subjects",
    )


class PairDataset(Dataset[dict[str, Any]]):
    """Drawn pairs as samples: ``pair`` (A, 2, 3, H, W) uint8, ``order`` (A,) int64, and the key of the first frame.

    ``order`` is 1 where the first frame shows more of the AU, -1 where it shows less, 0 where the AU has no pair (its
    pictures are black then).

    Args:
        frames: Samples by (epoch, row).
        rows: (P, A, 2) rows, -1 none.
        level: (N, A) int.
    """

    def __init__(self, frames: Dataset[dict[str, Any]], rows: np.ndarray, level: np.ndarray) -> None:
        self.frames, self.rows = frames, rows
        ends = level[rows, np.arange(level.shape[1])[:, None]].astype(np.int64)
        self.order = np.where(rows[..., 0] >= 0, np.sign(ends[..., 0] - ends[..., 1]), 0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Sample of a pair's number, or of (epoch, number)."""
        epoch, number = key if isinstance(key, tuple) else (0, key)
        rows = self.rows[number]
        frames = {int(row): self.frames[epoch, int(row)] for row in np.unique(rows[rows >= 0])}
        first = frames[int(rows[rows >= 0][0])]
        blank = torch.zeros_like(first["image"])
        pictures = [frames[row]["image"] if row in frames else blank for row in rows.ravel().tolist()]
        return {
            "pair": torch.stack(pictures).unflatten(0, rows.shape),
            "order": torch.from_numpy(self.order[number]),
            "index": number,
            **{name: first[name] for name in ("dataset", "subject", "sequence", "frame")},
        }
