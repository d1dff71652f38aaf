from collections.abc import Callable

import numpy as np
import pytest

from datamodules.facs import DISFA_12, au_name
from datamodules.raw.records import FrameRecord
from datamodules.store import FrameStore
from experiments.examination import timing
from experiments.examination.alignment import Alignment, Lag
from experiments.examination.findings import Case, Finding
from experiments.examination.timing import Timing

Subjects = list[tuple[np.ndarray, np.ndarray]]
People = dict[str, tuple[np.ndarray, np.ndarray]]
NOTHING = np.zeros((8, 8, 3), np.uint8)
SURE = Lag(lag=0, low=-1, high=1, off=0.0001, unrelated=0.0001)


def clip(
    subject: str, landmarks: np.ndarray, levels: np.ndarray, late: int = 0, first: int = 0, kind: str = "_intensity"
) -> list[FrameRecord]:
    """Labels ``late`` frames behind pictures that begin at number ``first``; without times where that is not 0."""
    return [
        FrameRecord(
            subject,
            "left",
            first + k,
            np.nan if first else k / 20,
            NOTHING,
            points,
            {f"{au_name(au)}{kind}": int(v) for au, v in zip(DISFA_12, levels[max(0, k - late)], strict=True)},
        )
        for k, points in enumerate(landmarks)
    ]


@pytest.fixture(scope="module")
def people(subjects: Subjects) -> People:
    """Five subjects who move, and one who keeps still."""
    return {f"SN{number:03d}": subjects[number - 1] for number in (2, 3, 4, 6, 7, 8)}


def verdict(looked: Timing, kind: str) -> list[Finding]:
    return [finding for finding in timing.findings(looked) if finding.kind == kind]


def test_a_shifted_label_file_is_named(make_store: Callable[..., FrameStore], people: People) -> None:
    clips = {name: clip(name, *both, late=25 * (name == "SN008")) for name, both in people.items()}
    looked = timing.look(Case(make_store(clips)))
    assert looked.fps == pytest.approx(20)
    (fault,) = verdict(looked, "fault")
    assert fault.what.startswith("SN008 left: labels come 2")
    assert "s) late (99 %: -2" in fault.what
    assert "sure to " in fault.what
    assert "label file" in fault.remedy
    assert fault.rows == (5 * 320,)
    assert "6 sequences at 20 fps, 5 move enough" in verdict(looked, "seen")[0].what  # SN003 keeps still


def test_occurrence_labels_and_numbers_that_begin_anywhere(
    make_store: Callable[..., FrameStore], people: People
) -> None:
    clips = {
        name: clip(name, points, levels >= 1, late=30 * (name == "SN006"), first=2440, kind="")
        for name, (points, levels) in people.items()
    }
    columns = [au_name(au) for au in DISFA_12]
    looked = timing.look(Case(make_store(clips, name="bp4d", label_columns=columns)))
    assert looked.fps == 25  # pictures without times
    assert [fault.what.split(":")[0] for fault in verdict(looked, "fault")] == ["SN006 left"]


def test_what_cannot_be_judged_says_why(make_store: Callable[..., FrameStore], people: People) -> None:
    landmarks, levels = people["SN002"]
    stills = {name: clip(name, landmarks[:1], levels) for name in people}
    (said,) = timing.findings(timing.look(Case(make_store(stills, name="caer_s"))))
    assert said == Finding("seen", "not judged: still images")
    short = {name: clip(name, landmarks[:20], levels) for name in people}
    sparse = {name: clip(name, landmarks, levels)[::40] for name in people}
    for clips in (short, sparse):
        (said,) = timing.findings(timing.look(Case(make_store(clips, name="synth_facs"))))
        assert said.what.startswith("not judged: no sequence has 1.5 s without gaps")
    boxes = {"SN001": [FrameRecord("SN001", "left", k, k / 20, NOTHING, None, {}) for k in range(60)]}
    (said,) = timing.findings(timing.look(Case(make_store(boxes, delivers="crop"))))
    assert said.what.startswith("not judged: no landmarks")
    alone = timing.look(Case(make_store({"SN001": clip("SN001", landmarks, levels)})))
    assert verdict(alone, "seen")[0].what == "not judged: too little movement that the labels explain"


def looked(common: Lag, *sequences: Lag) -> Timing:
    fit = np.array([0.1, 0.4, 0.1])
    found = Alignment(common, list(sequences), np.array([-1, 0, 1]), fit, np.full(8, 0.4))
    return Timing([f"SN{k:03d} left" for k in range(len(sequences))], list(range(len(sequences))), 20.0, found)


def test_verdicts_in_words() -> None:
    late = Lag(lag=-12, low=-13, high=-10, off=0.9985, unrelated=0.0001)
    early = Lag(lag=1, low=1, high=1, off=0.93, unrelated=0.0)
    lost = Lag(lag=40, low=-60, high=90, off=0.99999, unrelated=0.998)
    quiet = Lag(lag=70, low=-100, high=100, off=0.01, unrelated=0.005)
    vague = Lag(lag=83, low=-78, high=96, off=0.9998, unrelated=0.4)
    given = looked(SURE, late, early, lost, quiet, vague)
    assert [(fault.what, fault.rows) for fault in verdict(given, "fault")] == [
        ("SN000 left: labels come 12 frames (0.6 s) late (99 %: -13 to -10 frames; sure to 99.85 %)", (0,)),
        (
            "SN002 left: labels do not follow the landmarks at any lag up to 5 s: they may belong to other pictures "
            "(sure to more than 99.99 %)",
            (2,),
        ),
        (
            "SN004 left: labels do not run with the landmarks, and no lag stands out (99 %: -78 to +96 frames; sure to "
            "99.98 %)",
            (4,),
        ),
    ]
    assert [note.what for note in verdict(given, "note")] == [
        "perhaps: SN001 left: labels come 1 frame (0.05 s) early (99 %: +1 frames; sure to 93.00 %)"
    ]
    assert verdict(given, "seen")[0].what == (
        "5 sequences at 20 fps, 2 move enough to be judged alone; together -1 to +1 frames off (99 %); labels explain "
        "40% of unseen movement"
    )


def test_a_lag_of_the_whole_dataset_is_told_once() -> None:
    common = Lag(lag=10, low=9, high=11, off=0.99999, unrelated=0.0)
    (fault,) = verdict(looked(common, SURE, SURE), "fault")
    assert fault.what.startswith("all labels come 10 frames (0.5 s) early")
    assert "frame_offset" in fault.remedy


def test_a_small_lag_of_the_whole_dataset_is_noted() -> None:
    given = looked(Lag(lag=-1, low=-2, high=-1, off=0.0001, unrelated=0.0), SURE)
    assert verdict(given, "fault") == []
    (noted,) = verdict(given, "note")
    assert noted.what.startswith("all labels come 1 frame (0.05 s) late (99 %: -2 to -1 frames): coders' habits")
    assert verdict(looked(SURE, SURE), "note") == []
