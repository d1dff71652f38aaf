"""Every dataset by the documented commands, twin, store, doctor, a batch: held to the twin's truth frame by frame."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from datamodules.affwild2 import AffWild2
from datamodules.align import warp_points
from datamodules.bp4d import BP4D
from datamodules.bp4d_plus import BP4DPlus
from datamodules.caer_s import CAERS
from datamodules.disfa import DISFA, DISFAPlus
from datamodules.multi_pie import MultiPIE
from datamodules.raw.registry import RAW
from datamodules.store import Flag, FrameStore
from datamodules.store_module import StoreDataModule
from datamodules.synth.registry import TWINS
from datamodules.synth.twin import read_truth
from experiments import doctor, prepare, synthesize


class Case(NamedTuple):
    """Words of the commands, and the DataModule; few subjects, still some of every part that fold 1 needs."""

    synthesize: str
    prepare: str
    module: Callable[..., StoreDataModule]


CASES = {
    "affwild2": Case("--subjects 6 --frames 24", "--faces dataset", AffWild2),
    "bp4d": Case("--subjects 6 --tasks 2 --frames 4 --size 128", "--faces detect", BP4D),
    "bp4d_plus": Case("--subjects 6 --tasks 1 --frames 4 --size 64", "--faces truth", BP4DPlus),
    "caer_s": Case("--subjects 2 --size 128", "--boxes {raw}/boxes/annotations", CAERS),
    "disfa": Case("--subjects 6 --frames 6 --size 64", "--faces dataset", DISFA),
    "disfa_plus": Case("--subjects 6 --sessions 1 --frames 4 --size 64", "--faces truth", DISFAPlus),
    "multi_pie": Case(
        "--subjects 6 --size 48 --cameras 05_1,14_0 --shots 0", "--faces truth --cameras 05_1 --shots 0", MultiPIE
    ),
}


def run(main: Callable[[], int], *words: object) -> int:
    """A command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, words)])
        return main()


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Name of a dataset, its twin and the store made of it."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    raw, out = folder / "raw", folder / "store"
    assert run(synthesize.main, name, "--out", raw, *CASES[name].synthesize.split(), "--workers", 0) == 0
    words = CASES[name].prepare.format(raw=raw).split()
    assert run(prepare.main, name, "--raw", raw, "--out", out, *words, "--workers", 0) == 0
    return name, raw, out


def test_every_dataset_has_a_parser_a_twin_and_a_case() -> None:
    assert set(CASES) == set(RAW) == set(TWINS)


def test_the_store_holds_the_twins_truth(case: tuple[str, Path, Path]) -> None:
    _, raw, out = case
    store = FrameStore(out)
    rows = {store.key(row)[1:]: row for row in range(len(store))}
    labels = {column: store.label(column) for column in store.columns}
    truth = {(t.subject, t.sequence, t.frame): t for t in read_truth(raw)}
    assert set(rows) <= set(truth)  # options may leave sequences out, never rows of a sequence
    assert {key for key in truth if key[:2] in {key[:2] for key in rows}} == set(rows)
    for key, row in rows.items():
        for column, values in labels.items():
            assert values[row] == truth[key].labels.get(column, -1), (key, column)
        without = bool(store.flags[row] & Flag.NO_IMAGE)
        assert without >= (not truth[key].image), key
        assert without <= bool(store.flags[row] & Flag.NO_FACE), key


def test_landmarks_of_the_crop_are_the_rendered_ones(case: tuple[str, Path, Path]) -> None:
    _, raw, out = case
    store = FrameStore(out)
    if store.manifest["preset"]["needs"] != "landmarks":
        assert (store.flags & Flag.NO_LANDMARKS).all()  # it delivers none
        return
    truth = {(t.subject, t.sequence, t.frame): t.landmarks for t in read_truth(raw)}
    detected = store.manifest["faces"]["source"] == "detect"
    seen = np.flatnonzero((store.flags & (Flag.NO_LANDMARKS | Flag.NO_FACE)) == 0)
    assert len(seen) >= 0.9 * len(store)
    for row in seen:
        points, expected = store.landmarks(row), warp_points(truth[store.key(row)[1:]], store.matrix(row))
        known = np.isfinite(points).all(axis=1)
        assert known.sum() >= 66
        distance = np.linalg.norm(points - expected, axis=1)[known] / np.linalg.norm(expected[36] - expected[45])
        assert distance.mean() < (0.1 if detected else 1e-3), store.key(row)


def test_doctor_finds_nothing(case: tuple[str, Path, Path]) -> None:
    _, _, out = case
    assert run(doctor.main, out, "--full") == 0


def test_a_batch_of_its_datamodule(case: tuple[str, Path, Path]) -> None:
    name, raw, out = case
    truth = {(t.subject, t.sequence, t.frame): t.labels for t in read_truth(raw)}
    data = CASES[name].module(str(out), 1, image_size=32, batch_size=4, num_workers=0, val_subjects=1)
    data.check()
    data.setup()
    sides = [set(data.subjects_train), set(data.subjects_val), set(data.subjects_test)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides))
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape[1:] == (3, 32, 32)
    for i, key in enumerate(zip(batch["subject"], batch["sequence"], batch["frame"].tolist(), strict=True)):
        assert key[0] in sides[2]
        if data.expressions:
            assert batch["expression"][i] == truth[key]["expression"]
        for k, au in enumerate(data.aus):
            expected = truth[key].get(f"AU{au:02d}", -1)
            if f"AU{au:02d}" not in truth[key]:
                level = truth[key][f"AU{au:02d}_intensity"]
                expected = -1 if level < 0 else int(level >= data.label_threshold)
            assert batch["au"][i, k] == expected, (key, au)
