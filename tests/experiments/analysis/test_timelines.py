"""Which stretch is drawn, and counted changes, worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from experiments.analysis import timelines


def ledger(lengths: dict[tuple[str, str], int]) -> pd.DataFrame:
    """Rows of sequences in the order of frames descending, so that order must come from `frame`."""
    rows = [
        {"dataset": "d", "subject": subject, "sequence": sequence, "frame": 3 * frame}
        for (subject, sequence), length in lengths.items()
        for frame in reversed(range(length))
    ]
    return pd.DataFrame(rows)


def test_sequences_of_60_frames_count_and_are_in_order() -> None:
    table = ledger({("b", "s"): 60, ("a", "t"): 59, ("a", "s"): 61})
    first, second = timelines.sequences(table)
    assert table["subject"][first].unique().tolist() == ["a"]
    assert table["frame"][first].tolist() == list(range(0, 183, 3))
    assert table["subject"][second].unique().tolist() == ["b"]
    assert timelines.sequences(table.drop(columns="frame")) == []


def test_changes_are_between_known_frames() -> None:
    true = np.array([[0, 1], [1, 0], [1, -1], [0, 1], [0, 1]])
    assert timelines.changes(true, true >= 0).tolist() == [0, 2, 0, 1, 0]


def test_the_stretch_with_most_changes_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelines, "LONGEST", 70)
    table = ledger({("a", "s"): 80, ("b", "s"): 100})
    true = np.zeros((180, 1), int)
    by_frame = {(row.subject, row.frame // 3): number for number, row in enumerate(table.itertuples())}
    for frame in (10, 12):  # four changes
        true[by_frame["a", frame]] = 1
    for frame in (5, 90, 92, 94):  # eight, of which 70 frames see at most six
        true[by_frame["b", frame]] = 1
    rows = timelines.choose_stretch(table, true)
    assert rows is not None
    assert table["subject"][rows].unique().tolist() == ["b"]
    frames = table["frame"][rows].to_numpy() // 3
    assert np.diff(frames).tolist() == [1] * 69
    assert frames[0] <= 89  # the change into frame 90 needs frame 89
    assert frames[-1] >= 95


def test_a_change_into_the_stretch_is_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both changes are in a stretch only if the frame before the first one is, too."""
    monkeypatch.setattr(timelines, "LONGEST", 60)
    table = ledger({("a", "s"): 80})
    frame = table["frame"].to_numpy() // 3

    def chosen(end: int) -> list[int]:
        rows = timelines.choose_stretch(table, ((frame >= 10) & (frame < end)).astype(int)[:, None])
        assert rows is not None
        return frame[rows[[0, -1]]].tolist()

    assert chosen(68) == [9, 68]
    assert chosen(69) == [0, 59]  # no stretch has both, and the first with one is taken


def test_short_sequences_have_no_timeline() -> None:
    assert timelines.choose_stretch(ledger({("a", "s"): 59}), np.zeros((59, 1), int)) is None


def test_change_rates_by_hand() -> None:
    table = ledger({("a", "s"): 61, ("b", "s"): 59})
    values = np.zeros((120, 2), int)
    frame = table["frame"].to_numpy() // 3
    values[(table["subject"] == "a") & (frame % 20 >= 10), 0] = 1  # changes at 10, 20, ..., 60
    values[(table["subject"] == "b"), 1] = frame[table["subject"] == "b"] % 2  # too short to count
    known = np.ones((120, 2), bool)
    assert timelines.change_rates(table, values, known).tolist() == [1000 * 6 / 60, 0]
    known[(table["subject"] == "a") & (frame == 10), 0] = False  # takes two steps, one of them a change
    assert timelines.change_rates(table, values, known)[0] == pytest.approx(1000 * 5 / 58)
