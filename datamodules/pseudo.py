"""Features of a frame from the pseudo-intensities of its video (Saito et al. 2021, Sec. 3.3).

Per action unit, with T frames on each side (300 in the paper) 21 + 4 T numbers, in this order:

  1      pseudo-intensity of the frame, 2 (f - min) / (max - min) - 1 with the extrema of the training frames
  3      its percentiles 0, 10 and 20 over the video: what this face looks like at rest
  4 x 4  the same over the frames whose confidence is at least 0, .25, .5, .75, and which share of the video they are
  2 T    pseudo-intensity of the frames +1..+T, then -1..-T; one that is missing repeats the last one on the way out
  2 T    confidence of these frames, clip(1 - sigma / sigma_max, 0, 1) with the largest sigma of the training frames
  1      confidence of the frame
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.facs import au_name
from datamodules.pairs import LEVELS, Scale, levels
from datamodules.store import FrameStore, Rows

TRAIN, VAL, TEST = 0, 1, 2
SIDES = {"predictions_train": TRAIN, "predictions_val": VAL, "predictions": TEST}  # what their frames were to the run
PERCENTILES = (0.0, 0.1, 0.2)
CONFIDENCES = (0.0, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class PseudoSettings:
    """Features of predicted pseudo-intensities instead of pictures.

    Attributes:
        predictions: Folder of a finished UncertaintyRanker (or PairwiseRanker) run of the same fold, made with
            ``run.predict=all``; None = pictures, and no features.
        window: T, frames on each side of a frame.
        balanced: Training frames drawn for every action unit, equally many of each level; 0 takes every frame.
        labels: Whose levels are balanced, see `datamodules.pairs.PairSettings`.
        sigma_percentile: Which percentile of sigma over the training frames counts as no confidence at all; the paper
            takes the maximum, which a single frame decides.
    """

    predictions: str | None = None
    window: int = 300
    balanced: int = 10_000
    labels: Scale = "finest"
    sigma_percentile: float = 100.0


NO_PREDICTIONS = PseudoSettings()


class Predictions(NamedTuple):
    """What a ranker says of every row.

    Attributes:
        pseudo: (N, A) float32, NaN where it says nothing.
        sigma: (N, A) float32, or None where the run has no uncertainty.
        side: (N,) int8: ``TRAIN``, ``VAL``, ``TEST`` = what the frame was to the run; -1 where it says nothing.
    """

    pseudo: np.ndarray
    sigma: np.ndarray | None
    side: np.ndarray


def predictions_digest(folder: str) -> str:
    """What the ledgers of a run hold, wherever it lies; the path itself where there is no run yet."""
    files = [Path(folder) / f"{name}.parquet" for name in SIDES]
    if not files[0].is_file():
        return folder
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() if file.is_file() else b"")
    return f"sha256:{digest.hexdigest()[:12]}"


def read_result(folder: str | Path) -> dict[str, Any]:
    """``result.json`` of a finished run whose ledgers cover all its frames, and belong to its checkpoint.

    Raises:
        DataError: It is not finished, lacks a ledger, or its checkpoint has changed since.
    """
    path = Path(folder)
    if not (path / "DONE").exists():
        raise DataError(f"data.pseudo.predictions={path}: no finished run", "run the ranker first, or correct the path")
    if not (path / "predictions_train.parquet").exists():
        raise DataError(
            f"data.pseudo.predictions={path}: no predictions_train.parquet",
            "run the ranker again with --run.predict=all",
        )
    result = json.loads((path / "result.json").read_text())
    scored = result.get("scored_checkpoint")
    if scored and (file := path / scored["file"]).exists():
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest()[:12] != scored["sha256"]:
                raise DataError(
                    f"data.pseudo.predictions={path}: {scored['file']} is not what made its predictions",
                    f"remove {path} and run the ranker again",
                )
    return result


def read_predictions(folder: str | Path, stores: Sequence[tuple[str, FrameStore]], aus: Sequence[int]) -> Predictions:
    """The ledgers of a run, joined to the rows of stores by (dataset, subject, sequence, frame).

    Args:
        folder: Of the run.
        stores: Datasets whose rows stand one after the other.
        aus: The A action units.

    Raises:
        DataError: The run has not predicted these AUs, or a number is not finite.
    """
    names = [au_name(au) for au in aus]
    tables = []
    for ledger, number in SIDES.items():
        if not (file := Path(folder) / f"{ledger}.parquet").exists():
            continue  # of a run that held out or validated on nobody
        table = pd.read_parquet(file)
        if lacking := [name for name in names if f"{name}_pseudo" not in table]:
            known = [name.removesuffix("_pseudo") for name in map(str, table) if name.endswith("_pseudo")]
            raise DataError(
                f"data.pseudo.predictions={folder}: no pseudo-intensity of {', '.join(lacking)}",
                f"set data.aus to some of {', '.join(known)}" if known else "give a run of a ranker",
            )
        tables.append(table.assign(side=np.int8(number)))
    table = pd.concat(tables, ignore_index=True)
    kinds = ["pseudo", "sigma"] if f"{names[0]}_sigma" in table else ["pseudo"]
    values = {kind: table[[f"{name}_{kind}" for name in names]].to_numpy(np.float32) for kind in kinds}
    for kind, of in values.items():
        if broken := int((~np.isfinite(of)).any(axis=1).sum()):
            raise DataError(
                f"data.pseudo.predictions={folder}: {kind} of {broken} of {len(of)} frames is not finite",
                "the ranker has diverged: train it again with a lower model.lr",
            )
    rows = sum(len(store) for _, store in stores)
    joined = {kind: np.full((rows, len(aus)), np.nan, np.float32) for kind in kinds}
    side = np.full(rows, -1, np.int8)
    start = 0
    for dataset, store in stores:
        here = np.flatnonzero((table["dataset"] == dataset).to_numpy())
        place = _rows_of(store, table.iloc[here])
        here, place = here[place >= 0], place[place >= 0] + start
        for kind, of in values.items():
            joined[kind][place] = of[here]
        side[place] = table["side"].to_numpy()[here]
        start += len(store)
    return Predictions(joined["pseudo"], joined.get("sigma"), side)


def _rows_of(store: FrameStore, table: pd.DataFrame) -> np.ndarray:
    """(n,) rows of a store that have the keys of the table, -1 where none has."""
    subject = _codes(store.subjects, table["subject"])
    sequence = _codes(store.sequences, table["sequence"])
    frame = table["frame"].to_numpy(np.int64)
    low = store.frame.min(initial=0)
    span = store.frame.max(initial=0) - low + 1
    number = len(store.sequences)

    def key(subject: np.ndarray, sequence: np.ndarray, frame: np.ndarray) -> np.ndarray:
        return (subject.astype(np.int64) * number + sequence) * span + frame - low

    own = key(store.subject_code, store.sequence_code, store.frame)
    order = np.argsort(own, kind="stable")
    wanted = key(subject, sequence, frame)
    found = order[np.searchsorted(own, wanted, sorter=order).clip(max=len(own) - 1)]
    within = (subject >= 0) & (sequence >= 0) & (frame >= low) & (frame < low + span)
    return np.where(within & (own[found] == wanted), found, -1)


def _codes(names: np.ndarray, values: pd.Series) -> np.ndarray:
    """(n,) places of the values in sorted names, -1 where they are not among them."""
    return pd.Index(names).get_indexer(pd.Index(values.astype(str)))


def percentiles(values: np.ndarray) -> np.ndarray:
    """(n, ...) values -> (3, ...): the element at ``int((n - 1) p)`` of the sorted ones for p of 0, .1 and .2."""
    ordered = np.sort(values, axis=0)
    return ordered[[int((len(values) - 1) * p) for p in PERCENTILES]]


class PseudoFeatures:
    """Feature vectors of any frames of any videos, gathered from arrays that are laid out once.

    Frames of a video are counted in its own step: the greatest common divisor of the differences of their numbers.

    Args:
        pseudo: (N, A) float, NaN where nothing is known of a row.
        sigma: (N, A) float, or None: every frame then counts as certain.
        video: (N,) int, ascending.
        frame: (N,) int, ascending within a video.
        fitted: (N,) bool, training rows: whose extrema normalise.
        window: T.
        sigma_percentile: See `PseudoSettings`.

    Attributes:
        size: D = 21 + 4 T.

    Raises:
        DataError: Pseudo-intensities of training rows do not differ.
    """

    def __init__(
        self,
        pseudo: np.ndarray,
        sigma: np.ndarray | None,
        video: np.ndarray,
        frame: np.ndarray,
        fitted: np.ndarray,
        window: int,
        sigma_percentile: float = 100.0,
    ) -> None:
        low, high = np.nanmin(pseudo[fitted], axis=0), np.nanmax(pseudo[fitted], axis=0)
        if (flat := ~(high > low)).any():
            raise DataError(
                f"pseudo-intensities of {int(flat.sum())} of {flat.size} AUs are the same in all training frames",
                "the ranker has learnt nothing: train it longer or with another model.lr",
            )
        self.window, self.size = window, 21 + 4 * window
        self.pseudo = (2 * (pseudo - low) / (high - low) - 1).astype(np.float32)
        self.confidence = np.ones_like(self.pseudo)
        if sigma is not None:
            most = np.nanpercentile(sigma[fitted], sigma_percentile, axis=0)
            self.confidence = np.clip(1 - sigma / most, 0, 1).astype(np.float32)
        self._lay_out(video, frame)

    def _lay_out(self, video: np.ndarray, frame: np.ndarray) -> None:
        """Note for every place of every video which row stands there, seen on the way forwards and backwards."""
        known = np.flatnonzero(np.isfinite(self.pseudo).all(axis=1))
        starts = np.flatnonzero(np.diff(video[known], prepend=-1))
        ahead, behind = [], []
        self._place = np.full(len(video), -1, np.int64)
        self._video = np.full(len(video), -1, np.int64)
        self._rest = np.zeros((len(starts), self.pseudo.shape[1], 19), np.float32)
        place = 0
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(known)], strict=True)):
            rows = known[start:end]
            offset = frame[rows] - frame[rows[0]]
            offset //= max(1, np.gcd.reduce(offset))
            length = int(offset[-1]) + 1
            there = np.searchsorted(offset, np.arange(length), side="right") - 1
            back = np.searchsorted(offset, np.arange(length))
            # T places follow each video in which its last row repeats, and T go before it with its first.
            ahead.append(np.concatenate([np.full(self.window, rows[0]), rows[there], np.full(self.window, rows[-1])]))
            behind.append(np.concatenate([np.full(self.window, rows[0]), rows[back], np.full(self.window, rows[-1])]))
            self._place[rows] = place + self.window + offset
            self._video[rows] = number
            self._rest[number] = self._at_rest(rows)
            place += length + 2 * self.window
        self._ahead = np.concatenate(ahead).astype(np.int32)
        self._behind = np.concatenate(behind).astype(np.int32)

    def _at_rest(self, rows: np.ndarray) -> np.ndarray:
        """(A, 19): the percentiles of a video, then those of its confident frames with their share."""
        pseudo, confidence = self.pseudo[rows], self.confidence[rows]
        found = [percentiles(pseudo).T]
        for a in range(pseudo.shape[1]):
            of_au = []
            last = found[0][a]
            for least in CONFIDENCES:
                kept = confidence[:, a] >= least
                last = percentiles(pseudo[kept, a]) if kept.any() else last
                of_au.append([*last, kept.mean()])
            found.append(np.reshape(of_au, (1, 16)))
        return np.concatenate([found[0], np.concatenate(found[1:])], axis=1)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Features of rows (B, A), one for each AU: (B, A, D) float32."""
        au = np.arange(rows.shape[1])
        step = np.arange(1, self.window + 1)
        place = self._place[rows][..., None]
        around = np.concatenate([self._ahead[place + step], self._behind[place - step]], axis=-1)
        of_au = au[:, None]
        return np.concatenate(
            [
                self.pseudo[rows, au][..., None],
                self._rest[self._video[rows], au],
                self.pseudo[around, of_au],
                self.confidence[around, of_au],
                self.confidence[rows, au][..., None],
            ],
            axis=-1,
        )


def draw_balanced(
    rows: np.ndarray, level: np.ndarray, number: int, seed: tuple[int, ...], aus: Sequence[int]
) -> np.ndarray:
    """(number, A) rows: for every AU a level that occurs, then a frame of it, each uniformly.

    Raises:
        DataError: An AU without a known label.
    """
    drawn = []
    for a, au in enumerate(aus):
        generator = np.random.default_rng((*seed, au))
        of_level = [rows[level[rows, a] == k] for k in range(LEVELS)]
        of_level = [found for found in of_level if len(found)]
        if not of_level:
            raise DataError(f"data.aus: no training frame has a known label of {au_name(au)}", "leave it out")
        which = generator.integers(len(of_level), size=number)
        chance = generator.random(number)
        drawn.append([of_level[k][int(c * len(of_level[k]))] for k, c in zip(which, chance, strict=True)])
    return np.array(drawn, np.int64).T


class PseudoIntensities:
    """What a ranker predicted for the rows of a run, checked, and the features made of it.

    Args:
        settings: Which predictions, and how features are made.
        rows: ``train``, ``val``, ``test`` -> rows of that side; training rows alone normalise.
        labels: ``au`` and ``intensity`` (N, A), -1 unknown.
        stores: Datasets whose rows stand one after the other.
        aus: The A action units.
        seed: Of the balanced draw.
        select_on: Side that chooses the epoch.

    Attributes:
        pseudo: (N, A) float32 as predicted, NaN unknown.
        sigma: (N, A) float32, or None.
        drawn: (P, A) training rows, one for each AU, or None: all of them train.

    Raises:
        DataError: Predictions are missing for some frames, or were made by a network that has seen whom they score.
    """

    def __init__(
        self,
        settings: PseudoSettings,
        rows: Mapping[str, np.ndarray],
        labels: Mapping[str, np.ndarray],
        stores: Sequence[tuple[str, FrameStore]],
        aus: Sequence[int],
        seed: int,
        select_on: str,
    ) -> None:
        assert settings.predictions is not None
        result = read_result(settings.predictions)
        if result.get("select_on") == "test" and select_on != "test":
            raise DataError(
                f"data.pseudo.predictions={settings.predictions}: its epoch was chosen on held-out subjects",
                "train the ranker with data.select_on=val, or set data.select_on=test here too",
            )
        self.labels, self.keys = labels, Rows(stores)
        self.pseudo, self.sigma, side = read_predictions(settings.predictions, stores, aus)
        self._check(settings.predictions, rows, side)
        fitted = np.zeros(len(self.keys), bool)
        fitted[rows["train"]] = True
        self.features = PseudoFeatures(
            *(self.pseudo, self.sigma, self.keys.video, self.keys.frame, fitted),
            *(settings.window, settings.sigma_percentile),
        )
        self.drawn = None
        if settings.balanced:
            level = levels(labels, self.keys.dataset, settings.labels)
            self.drawn = draw_balanced(rows["train"], level, settings.balanced, (seed, 0xBA1A), aus)

    def _check(self, folder: str, rows: Mapping[str, np.ndarray], side: np.ndarray) -> None:
        for part, seen in (("test", (TRAIN, VAL)), ("val", (TRAIN,))):
            leaked = rows[part][np.isin(side[rows[part]], seen)]
            if len(leaked):
                who = sorted({self.keys.key(int(row))[1] for row in leaked})
                more = f" and {len(who) - 10} more" if len(who) > 10 else ""
                raise DataError(
                    f"data.pseudo.predictions={folder}: its ranker has seen {len(leaked)} frames that this run "
                    f"{'tests' if part == 'test' else 'validates'} on, of {', '.join(who[:10])}{more}",
                    "give the run of the same fold and seed",
                )
        used = np.concatenate([rows[part] for part in ("train", "val", "test")])
        lacking = used[side[used] < 0]
        if len(lacking):
            raise DataError(
                f"data.pseudo.predictions={folder}: {len(lacking)} of {len(used)} frames are not predicted, "
                f"as {'/'.join(map(str, self.keys.key(int(lacking[0]))))}",
                "run the ranker on the same data.root and data.frame_set, with --run.predict=all",
            )

    def samples(self, train: bool) -> "FeatureDataset":
        """Samples by row; in training by the number of a balanced draw, where there is one."""
        return FeatureDataset(self, self.drawn if train else None)


class FeatureDataset(Dataset[dict[str, Any]]):
    """Features as samples: ``feature`` (A, D) float32, ``pseudo`` and ``sigma`` (A,) as predicted, labels, the key.

    Args:
        source: Of features and labels.
        drawn: (P, A) rows, one for each AU; None = a sample is a row, the same for all AUs.
    """

    def __init__(self, source: PseudoIntensities, drawn: np.ndarray | None) -> None:
        self.source, self.drawn = source, drawn

    def __len__(self) -> int:
        return len(self.source.keys) if self.drawn is None else len(self.drawn)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Sample of a row (of the number of a draw), or of (epoch, row)."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[dict[str, Any]]:
        """Samples of a batch, gathered at once."""
        source = self.source
        numbers = np.array([key[1] if isinstance(key, tuple) else key for key in keys])
        au = np.arange(source.pseudo.shape[1])
        rows = np.repeat(numbers[:, None], len(au), 1) if self.drawn is None else self.drawn[numbers]
        columns = {"feature": source.features(rows), "pseudo": source.pseudo[rows, au]}
        if source.sigma is not None:
            columns["sigma"] = source.sigma[rows, au]
        columns |= {name: source.labels[name][rows, au].astype(np.int64) for name in ("au", "intensity")}
        tensors = {name: torch.from_numpy(values) for name, values in columns.items()}
        return [
            {name: values[i] for name, values in tensors.items()} | {"index": int(number)} | self._key(int(rows[i, 0]))
            for i, number in enumerate(numbers)
        ]

    def _key(self, row: int) -> dict[str, Any]:
        dataset, store, here = self.source.keys.place(row)
        _, subject, sequence, frame = store.key(here)
        key = {"dataset": dataset, "subject": subject, "sequence": sequence, "frame": frame}
        return key | {"occluded": store.occluded(here)}
