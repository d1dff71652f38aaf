from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules.disfa import DISFA
from datamodules.errors import DataError
from datamodules.pairs import DrawnPairs, PairIndex, PairSettings, levels
from datamodules.store import FrameStore

# Two datasets: videos 0 to 2 of one with intensities, 3 and 4 of one with occurrence. Video 1 never changes.
VIDEO = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4])
LEVEL = np.array([0, 0, 0, 2, 1, 1, 0, 2, 5, 0, 1, -1, 1, 0])
GROUP = np.array([0] * 9 + [1] * 5)


def test_a_pair_is_of_one_video_with_unequal_known_levels() -> None:
    index = PairIndex(np.arange(14), LEVEL, VIDEO, GROUP)
    assert (index.videos, index.barren) == (5, 1)
    first, second = index.draw(4000, np.random.default_rng(0)).T
    assert (VIDEO[first] == VIDEO[second]).all()
    assert (LEVEL[first] != LEVEL[second]).all()
    assert 1 not in VIDEO[first]
    assert 11 not in np.concatenate([first, second])


def test_datasets_then_levels_then_videos_then_frames_are_equally_likely() -> None:
    first, second = PairIndex(np.arange(14), LEVEL, VIDEO, GROUP).draw(60_000, np.random.default_rng(1)).T
    share = Counter(GROUP[first].tolist())
    assert share[0] == pytest.approx(30_000, rel=0.03)
    kinds = Counter(
        zip(LEVEL[first][GROUP[first] == 0].tolist(), LEVEL[second][GROUP[first] == 0].tolist(), strict=True)
    )
    assert set(kinds) == {(0, 2), (2, 0), (0, 5), (5, 0), (2, 5), (5, 2)}  # both orders
    assert all(count == pytest.approx(5_000, rel=0.08) for count in kinds.values())
    rising = (LEVEL[first] == 0) & (LEVEL[second] == 2)  # videos 0 and 2 have both levels
    assert (VIDEO[first][rising] == 0).mean() == pytest.approx(0.5, abs=0.03)
    assert Counter(first[rising & (VIDEO[first] == 0)].tolist())[0] == pytest.approx(rising.sum() / 6, rel=0.15)


def test_finest_compares_intensity_where_a_dataset_codes_it() -> None:
    labels = {
        "au": np.array([[1, 0], [0, 1], [1, 1]], np.int8),
        "intensity": np.array([[4, -1], [0, -1], [-1, -1]], np.int8),
    }
    group = np.array([0, 0, 1])
    assert levels(labels, group, "finest").tolist() == [[4, 0], [0, 1], [1, 1]]
    assert levels(labels, group, "occurrence").tolist() == labels["au"].tolist()


class Varying(DISFA):
    """AU12 has the level of the frame's number modulo 3; AU01 as in the store: one subject shows none of it."""

    def _labels(self, store: FrameStore) -> dict[str, np.ndarray]:
        labels = super()._labels(store)
        labels["intensity"][:, self.aus.index(12)] = store.frame % 3
        return labels


def disfa(store: Path, **settings: object) -> DISFA:
    arguments = {"fold": 1, "aus": [1, 12], "image_size": 32, "batch_size": 4, "num_workers": 0, "val_subjects": 2}
    data = Varying(str(store), **{**arguments, "augment": "none", "pairs": PairSettings(20, 6), **settings})
    data.check()
    data.setup()
    return data


def test_pairs_are_drawn_on_each_side_and_by_each_au_alone(tiny_disfa: Path) -> None:
    data = disfa(tiny_disfa)
    pairs = data.drawn_pairs
    assert pairs is not None
    assert {part: rows.shape for part, rows in pairs.rows.items()} == {"train": (20, 2, 2), "val": (6, 2, 2)}
    for part, allowed in (("train", data.rows_train), ("val", data.rows_val)):
        drawn = pairs.rows[part]
        assert set(drawn[drawn >= 0].tolist()) <= set(allowed.tolist())
    alone = disfa(tiny_disfa, aus=[12]).drawn_pairs
    assert alone is not None
    np.testing.assert_array_equal(alone.rows["train"][:, 0], pairs.rows["train"][:, 1])
    again = disfa(tiny_disfa, seed=1).drawn_pairs
    assert again is not None
    assert (again.rows["train"] != pairs.rows["train"]).any()


def test_a_sample_shows_what_was_drawn(tiny_disfa: Path) -> None:
    data = disfa(tiny_disfa)
    batch = next(iter(data.train_dataloader()))
    assert batch["pair"].shape == (4, 2, 2, 3, 32, 32)
    assert data.drawn_pairs is not None
    rows = data.drawn_pairs.rows["train"][batch["index"].numpy()]
    frames = data.samples(train=False)
    for b in range(4):
        for a in range(2):
            level = data.labels["intensity"][rows[b, a], a].astype(int)
            assert batch["order"][b, a] == np.sign(level[0] - level[1])
            np.testing.assert_array_equal(batch["pair"][b, a, 1], frames[int(rows[b, a, 1])]["image"])
    table = data.drawn_pairs.table()
    assert len(table["au"]) == 2 * 26
    assert (table["first_level"] != table["second_level"]).all()
    assert set(table["subject"][table["part"] == "val"]) == set(data.subjects_val)


def test_frames_are_predicted_whatever_is_trained_on(tiny_disfa: Path) -> None:
    batch = next(iter(disfa(tiny_disfa).test_dataloader()))
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["occluded"].tolist() == [-1] * 4  # DISFA does not say


def test_without_any_pair_the_counts_are_told(tiny_disfa: Path) -> None:
    store = FrameStore(tiny_disfa)
    flat = {"au": np.zeros((len(store), 1), np.int8), "intensity": -np.ones((len(store), 1), np.int8)}
    rows = {"train": np.arange(12), "val": np.arange(12, 18), "test": np.arange(0)}
    with pytest.raises(DataError, match="no pair of frames that could choose the epoch, for any AU: 1 of 1 videos"):
        DrawnPairs(PairSettings(9), rows, flat, [("disfa", store)], [4], 0, "val")
    flat["au"][12] = 1
    with pytest.raises(
        DataError, match="no pair of training frames for AU04: 2 of 2 videos with known labels show one"
    ):
        DrawnPairs(PairSettings(9), rows, flat, [("disfa", store)], [4], 0, "val")


def test_videos_of_single_frames_are_refused(tiny_disfa: Path) -> None:
    with pytest.raises(DataError, match="show one level only"):
        disfa(tiny_disfa, train_stride=6)


def test_a_sample_is_one_thing(tiny_disfa: Path) -> None:
    with pytest.raises(DataError, match="a sample is one of them"):
        disfa(tiny_disfa, neighbours=1)
    with pytest.raises(DataError, match=r"data.pairs.val=0: must be at least 1"):
        disfa(tiny_disfa, pairs=PairSettings(20, 0))
