from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.disfa import DISFA, DISFAPlus
from datamodules.facs import DISFA_12

LABELS = {f"AU{au:02d}_intensity": au % 6 for au in DISFA_12}


def test_the_frames_that_jaanet_left_out(
    store: Callable[..., Path], record: Callable[..., Any], opened: Callable[..., Any]
) -> None:
    """SN001 lacks 397-419; SN003 lacks nothing."""
    frames = {"SN001": (396, 397, 419, 420), "SN003": (397, 419), "SN013": (0,)}
    root = store("disfa", [record(s, "left", f, LABELS) for s, numbers in frames.items() for f in numbers])
    everything, chosen = opened(DISFA, root), opened(DISFA, root, frame_set="jaanet")
    assert len(everything.rows_test) == 4
    assert chosen.store.frame[chosen.rows_test].tolist() == [396, 420]
    assert chosen.left_out == {"not in the frame set jaanet": 2}
    assert (everything.state_dict()["frame_set"], chosen.state_dict()["frame_set"]) == ("all", "jaanet")


@pytest.mark.parametrize(
    ("fold", "held_out"),
    [(1, {"SN001", "SN009", "SN010", "SN027"}), (2, {"SN013"}), (3, {"SN003", "SN004", "SN007", "SN025"})],
)
def test_disfa_plus_has_the_parts_and_the_people_of_disfa(
    store: Callable[..., Path],
    record: Callable[..., Any],
    opened: Callable[..., Any],
    sides: Callable[..., Any],
    fold: int,
    held_out: set[str],
) -> None:
    people = ("SN001", "SN003", "SN004", "SN007", "SN009", "SN010", "SN013", "SN025", "SN027")
    session = "A1_AU1_TrailNo_1"
    root = store("disfa_plus", [record(s, session, f, LABELS) for s in people for f in (0, 1)])
    data = opened(DISFAPlus, root, fold)
    seen = sides(data)
    assert seen["test"] == held_out
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 9
    assert set(data.state_dict()["test_persons"]) == {f"disfa/{name}" for name in held_out}
    assert data.state_dict()["camera"] is None
