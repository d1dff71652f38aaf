import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datamodules.disfa import DISFA
from datamodules.errors import DataError
from datamodules.pseudo import PseudoFeatures, PseudoSettings, draw_balanced, percentiles, predictions_digest


def plain_features(
    pseudo: dict[int, float], sigma: dict[int, float], frame: int, window: int, low: float, high: float, most: float
) -> list[float]:
    """The definition, frame by frame: numbers of one AU in one video, by the number of the frame."""

    def scaled(f: int) -> float:
        return 2 * (pseudo[f] - low) / (high - low) - 1

    def confidence(f: int) -> float:
        return min(max(1 - sigma[f] / most, 0), 1)

    def walk(step: int) -> list[int]:
        seen, last = [], frame
        for k in range(1, window + 1):
            last = frame + step * k if frame + step * k in pseudo else last
            seen.append(last)
        return seen

    def rest(frames: list[int]) -> list[float]:
        ordered = sorted(scaled(f) for f in frames)
        return [ordered[int((len(ordered) - 1) * p)] for p in (0, 0.1, 0.2)]

    found = [scaled(frame), *rest(list(pseudo))]
    last = rest(list(pseudo))
    for least in (0, 0.25, 0.5, 0.75):
        kept = [f for f in pseudo if least <= confidence(f) <= 1]
        last = rest(kept) if kept else last
        found += [*last, len(kept) / len(pseudo)]
    around = [*walk(1), *walk(-1)]
    return [*found, *map(scaled, around), *map(confidence, around), confidence(frame)]


def test_features_are_the_definition_at_every_frame_of_every_video() -> None:
    coin = np.random.default_rng(0)
    video = np.repeat([0, 1, 2], [9, 1, 14])
    frame = np.concatenate([[0, 1, 2, 5, 6, 7, 8, 9, 12], [40], np.arange(14) * 3])  # gaps, one frame, steps of 3
    pseudo, sigma = coin.normal(size=(24, 2)), coin.uniform(0.1, 3, (24, 2))
    pseudo[15] = sigma[15] = np.nan  # a frame without a face
    fitted = video != 2
    features = PseudoFeatures(pseudo, sigma, video, frame, fitted, window=4)
    assert features.size == 21 + 16
    known = np.flatnonzero(np.isfinite(pseudo[:, 0]))
    found = features(np.repeat(known[:, None], 2, axis=1))
    for place, row in enumerate(known):
        step = 3 if video[row] == 2 else 1
        here = [r for r in known if video[r] == video[row]]
        for a in range(2):
            low, high = pseudo[fitted, a].min(), pseudo[fitted, a].max()
            expected = plain_features(
                {int(frame[r]) // step: pseudo[r, a] for r in here},
                {int(frame[r]) // step: sigma[r, a] for r in here},
                *(int(frame[row]) // step, 4, low, high, sigma[fitted, a].max()),
            )
            np.testing.assert_allclose(found[place, a], expected, atol=1e-6)


def test_of_different_rows_each_au_has_its_own() -> None:
    coin = np.random.default_rng(0)
    pseudo = coin.normal(size=(10, 2))
    features = PseudoFeatures(pseudo, None, np.zeros(10, int), np.arange(10), np.ones(10, bool), window=2)
    mixed, first, second = (features(np.array([rows])) for rows in ([3, 7], [3, 3], [7, 7]))
    np.testing.assert_array_equal(mixed[0, 0], first[0, 0])
    np.testing.assert_array_equal(mixed[0, 1], second[0, 1])
    assert (mixed[..., -1] == 1).all()  # without sigma everything is certain


def test_size_of_the_paper() -> None:
    pseudo = np.arange(3.0)[:, None]
    features = PseudoFeatures(pseudo, pseudo + 1, np.zeros(3, int), np.arange(3), np.ones(3, bool), window=300)
    found = features(np.array([[0], [1], [2]]))
    assert found.shape == (3, 1, 1221)
    assert found.dtype == np.float32
    # A window longer than the video repeats the frames at its ends.
    np.testing.assert_array_equal(found[0, 0, 20:24], [0, 1, 1, 1])
    np.testing.assert_array_equal(found[2, 0, 320:324], [0, -1, -1, -1])


@pytest.mark.parametrize(("n", "places"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (11, [0, 1, 2]), (26, [0, 2, 5])])
def test_percentiles_take_an_element(n: int, places: list[int]) -> None:
    values = np.random.default_rng(n).permutation(n).astype(float)
    assert percentiles(values).tolist() == places


def test_an_affine_pseudo_intensity_changes_nothing() -> None:
    coin = np.random.default_rng(0)
    pseudo, sigma = coin.normal(size=(12, 1)), coin.uniform(0.1, 1, (12, 1))
    rest = np.zeros(12, int), np.arange(12), np.arange(12) < 8, 3
    rows = np.arange(12)[:, None]
    first, second = PseudoFeatures(pseudo, sigma, *rest)(rows), PseudoFeatures(7 * pseudo - 3, 5 * sigma, *rest)(rows)
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_an_outlier_decides_the_confidence_of_all_unless_a_percentile_does() -> None:
    sigma = np.append(np.linspace(0.1, 1, 99), 1e4)[:, None]
    rest = np.zeros(100, int), np.arange(100), np.ones(100, bool), 1
    pseudo = np.arange(100.0)[:, None]
    assert PseudoFeatures(pseudo, sigma, *rest).confidence[50, 0] > 0.9999
    cut = PseudoFeatures(pseudo, sigma, *rest, sigma_percentile=95).confidence
    assert 0.3 < cut[50, 0] < 0.6
    assert cut[99, 0] == 0


def test_a_collapsed_ranker_is_told() -> None:
    with pytest.raises(DataError, match="1 of 2 AUs are the same in all training frames"):
        PseudoFeatures(np.array([[1.0, 2], [1, 3]]), None, np.zeros(2, int), np.arange(2), np.ones(2, bool), 1)


def test_balanced_frames_are_of_all_levels_alike() -> None:
    level = np.array([0] * 90 + [1] * 9 + [5] + [-1] * 10)[:, None]
    drawn = draw_balanced(np.arange(110), level, 9000, (0,), [6])
    assert np.bincount(level[drawn[:, 0], 0], minlength=6).tolist() == pytest.approx(
        [3000, 3000, 0, 0, 0, 3000], rel=0.06
    )
    with pytest.raises(DataError, match="known label of AU06"):
        draw_balanced(np.arange(100, 110), level, 1, (0,), [6])


# ------------------------------------------------------------------------------------------------------- the hand-over


def plain(store: Path, **settings: Any) -> DISFA:
    arguments = {"fold": 1, "aus": [1, 12], "image_size": 32, "batch_size": 4, "num_workers": 0, "val_subjects": 1}
    return DISFA(str(store), **{**arguments, **settings})


def write_run(folder: Path, store: Path, drop: int = 0, sides: DISFA | None = None, **changes: Any) -> Path:
    """A ranker's run whose pseudo-intensity is ten times the number of the frame, and AU12's the opposite."""
    data = sides or plain(store)
    data.setup()
    folder.mkdir(parents=True)
    for part, name in (("train", "predictions_train"), ("val", "predictions_val"), ("test", "predictions")):
        rows = data.rows_of(getattr(data, f"subjects_{part}"))[drop if part == "train" else 0 :]
        table = pd.DataFrame(
            [data.opened.key(int(row)) for row in rows], columns=["dataset", "subject", "sequence", "frame"]
        )
        for au, factor in ((1, 10.0), (12, -10.0)):
            table[f"AU{au:02d}_pseudo"] = factor * table["frame"]
            table[f"AU{au:02d}_sigma"] = 1.0 + table["frame"]
        for column, change in changes.items():
            if column in table:
                table[column] = change
        table.sample(frac=1, random_state=0).to_parquet(folder / f"{name}.parquet")
    (folder / "result.json").write_text(json.dumps({"select_on": changes.get("select_on", "val")}))
    (folder / "DONE").touch()
    return folder


def featured(store: Path, run: Path, **settings: Any) -> DISFA:
    pseudo = PseudoSettings(str(run), window=2, balanced=settings.pop("balanced", 0))
    data = plain(store, pseudo=pseudo, **settings)
    data.check()
    data.setup()
    return data


def test_predictions_come_to_their_frames(tiny_disfa: Path, tmp_path: Path) -> None:
    data = featured(tiny_disfa, write_run(tmp_path / "run", tiny_disfa))
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert batch["feature"].shape[1:] == (2, 29)
            np.testing.assert_array_equal(batch["pseudo"][:, 0], 10.0 * batch["frame"])
            np.testing.assert_array_equal(batch["pseudo"][:, 1], -10.0 * batch["frame"])
            np.testing.assert_array_equal(batch["sigma"][:, 0], 1.0 + batch["frame"])
            rows = batch["index"].numpy()
            np.testing.assert_array_equal(batch["intensity"], data.labels["intensity"][rows])
    assert data.state_dict()["samples"] == "features"


def test_balanced_training_gives_each_au_its_own_frames(tiny_disfa: Path, tmp_path: Path) -> None:
    data = featured(tiny_disfa, write_run(tmp_path / "run", tiny_disfa), balanced=40)
    drawn = data.pseudo_intensities and data.pseudo_intensities.drawn
    assert drawn is not None
    batch = next(iter(data.train_dataloader()))
    rows = drawn[batch["index"].numpy()]
    for a in range(2):
        np.testing.assert_array_equal(batch["intensity"][:, a], data.labels["intensity"][rows[:, a], a])
        np.testing.assert_array_equal(batch["pseudo"][:, a], (10, -10)[a] * data.opened.frame[rows[:, a]])


def test_a_run_of_another_fold_is_refused(tiny_disfa: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_disfa, sides=plain(tiny_disfa, fold=2))
    with pytest.raises(DataError, match=r"has seen \d+ frames that this run tests on, of SN"):
        featured(tiny_disfa, run)


def test_missing_frames_are_counted(tiny_disfa: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_disfa, drop=5)
    with pytest.raises(DataError, match=r"5 of 41 frames are not predicted, as disfa/SN\d+/left/\d"):
        featured(tiny_disfa, run)


def test_what_else_is_refused(tiny_disfa: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_disfa)
    with pytest.raises(DataError, match=r"no pseudo-intensity of AU04") as fault:
        featured(tiny_disfa, run, aus=[1, 4])
    assert fault.value.remedy == "set data.aus to some of AU01, AU12"
    with pytest.raises(DataError, match="its epoch was chosen on held-out subjects"):
        featured(tiny_disfa, write_run(tmp_path / "chosen", tiny_disfa, select_on="test"))
    with pytest.raises(DataError, match=r"sigma of 42 of 42 frames is not finite|sigma of 41 of 41"):
        featured(tiny_disfa, write_run(tmp_path / "overflow", tiny_disfa, AU12_sigma=np.inf))
    (run / "predictions_train.parquet").unlink()
    with pytest.raises(DataError, match="no predictions_train") as fault:
        featured(tiny_disfa, run)
    assert "--run.predict=all" in fault.value.remedy
    (run / "DONE").unlink()
    with pytest.raises(DataError, match="no finished run"):
        featured(tiny_disfa, run)


def test_another_checkpoint_beside_the_predictions_is_refused(tiny_disfa: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_disfa)
    (run / "best.ckpt").write_bytes(b"weights")
    scored = {"file": "best.ckpt", "sha256": "9a3b1f0b2ad2"}  # sha256 of other bytes
    (run / "result.json").write_text(json.dumps({"select_on": "val", "scored_checkpoint": scored}))
    with pytest.raises(DataError, match=r"best.ckpt is not what made its predictions"):
        featured(tiny_disfa, run)


def test_a_run_counts_by_what_it_predicts(tiny_disfa: Path, tmp_path: Path) -> None:
    first, same = (predictions_digest(str(write_run(tmp_path / name, tiny_disfa))) for name in "ab")
    assert first == same
    assert first.startswith("sha256:")
    assert predictions_digest(str(write_run(tmp_path / "c", tiny_disfa, AU01_sigma=2.0))) != first
    assert predictions_digest("nowhere") == "nowhere"
