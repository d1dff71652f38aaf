from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.affwild2 import AffWild2
from datamodules.errors import DataError
from datamodules.facs import AFFWILD2_8, AFFWILD2_12, AFFWILD2_EXPRESSIONS

AU = {f"AU{au:02d}": 0 for au in AFFWILD2_12}
TRACKS = {  # video -> tracks and their part
    "1-30-1280x720": {"1-30-1280x720": "train", "1-30-1280x720_left": "train"},
    "video2": {"video2": "train"},
    "video3": {"video3": "train"},
    "video61": {"video61": "validation", "video61_right": "validation"},
}


def records(
    record: Callable[..., Any], labels: dict[str, int], tracks: dict[str, dict[str, str]] = TRACKS
) -> list[Any]:
    return [
        record(video, track, frame, labels, split=part)
        for video, parts in tracks.items()
        for track, part in parts.items()
        for frame in (1, 2)
    ]


@pytest.fixture(scope="module")
def aus_track(store: Callable[..., Path], record: Callable[..., Any]) -> Path:
    return store("affwild2", records(record, AU), release="abaw3")


def test_the_official_validation_set_is_held_out(
    aus_track: Path, opened: Callable[..., Any], sides: Callable[..., Any]
) -> None:
    data = opened(AffWild2, aus_track)
    seen = sides(data)
    assert seen["test"] == {"video61"}
    assert len(seen["val"]) == 1
    assert seen["train"] | seen["val"] == {"1-30-1280x720", "video2", "video3"}
    assert {data.store.key(row)[2] for row in data.rows_test} == {"video61", "video61_right"}
    assert (data.aus, data.state_dict()["split"]) == (AFFWILD2_12, "official abaw3")
    everybody = opened(AffWild2, aus_track, 0)
    assert len(everybody.subjects_train) == 3
    assert everybody.subjects_test == []


@pytest.mark.parametrize("seed", range(8))
def test_both_persons_of_a_video_stay_on_one_side(aus_track: Path, opened: Callable[..., Any], seed: int) -> None:
    data = opened(AffWild2, aus_track, seed=seed, val_subjects=1)
    train, val = ({data.store.key(row)[2] for row in rows} for rows in (data.rows_train, data.rows_val))
    both = {"1-30-1280x720", "1-30-1280x720_left"}
    assert both <= train or both <= val


def test_a_video_in_both_sets_is_refused(
    store: Callable[..., Path], record: Callable[..., Any], opened: Callable[..., Any]
) -> None:
    mixed = TRACKS | {"video3": {"video3_left": "train", "video3_right": "validation"}}
    root = store("affwild2", records(record, AU, mixed), release="abaw3")
    with pytest.raises(DataError, match="in training and validation: video3"):
        opened(AffWild2, root)


def test_another_edition_is_refused(aus_track: Path, opened: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="holds abaw3") as refused:
        opened(AffWild2, aus_track, edition="abaw1")
    assert "data.edition=abaw3" in refused.value.remedy
    assert AffWild2(edition="abaw1").aus == AFFWILD2_8
    assert AffWild2(edition="abaw2").aus == AFFWILD2_12


def test_the_expression_track_has_no_action_units(
    store: Callable[..., Path], record: Callable[..., Any], opened: Callable[..., Any], aus_track: Path
) -> None:
    rows = records(record, {"expression": 7})
    root = store("affwild2", rows, release="abaw3", expressions=AFFWILD2_EXPRESSIONS)
    data = opened(AffWild2, root, aus=[], batch_size=4)
    batch = next(iter(data.test_dataloader()))
    assert batch["expression"].tolist() == [7] * 4
    assert batch["au"].shape == (4, 0)
    assert data.expressions[7] == "Other"
    assert data.train_labels("expression").tolist() == [7] * len(data.rows_train)
    with pytest.raises(DataError, match="no labels of AU01") as refused:
        opened(AffWild2, root)
    assert "data.aus=[]" in refused.value.remedy
    with pytest.raises(DataError, match="no expressions either"):
        opened(AffWild2, aus_track, aus=[])
