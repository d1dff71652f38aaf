import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from datamodules.known import BadFrames, Known, Part
from datamodules.raw.records import FrameRecord
from datamodules.store import FrameStore
from experiments.examination import findings, reference
from experiments.examination.findings import Case, Check, Finding

SIDE = 32
MakeStore = Callable[..., FrameStore]


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)


def records(subject: str, images: list[int | None], level: int = 0, split: str = "") -> list[FrameRecord]:
    """Frames whose pictures are known by a number, black ones by -1; AU12 at a level."""
    return [
        FrameRecord(
            subject,
            "left",
            frame,
            frame / 20,
            None if number is None else np.zeros((SIDE, SIDE, 3), np.uint8) if number == -1 else picture(number),
            None,
            {"AU12_intensity": level},
            split=split,
        )
        for frame, number in enumerate(images)
    ]


def look(check: Check, store: FrameStore, kind: str) -> list[Finding]:
    found = [finding for finding in check(Case(store, progress=False)) if finding.kind == kind]
    assert all(finding.remedy for finding in found if kind == "fault")
    return found


def whats(check: Check, store: FrameStore, kind: str = "fault") -> list[str]:
    return [finding.what for finding in look(check, store, kind)]


@pytest.fixture
def store(make_store: MakeStore) -> MakeStore:
    """Stores of whole pictures: nothing has to be located."""

    def make(*clips: list[FrameRecord], **facts: object) -> FrameStore:
        subjects = {clip[0].subject: clip for clip in clips}
        return make_store(subjects, delivers="crop", label_columns=["AU12_intensity"], **facts)

    return make


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[Known], None]:
    return lambda facts: monkeypatch.setattr(findings, "load_known", lambda _: facts)


def test_totals_of_the_published_archive(store: MakeStore, known: Callable[[Known], None]) -> None:
    facts = {
        "sources": {"rows": "counted", "positives": "counted"},
        "rows": {"SN001": 3, "SN002": 2},
        "sequences": 2,
        "sequence_rows": {"left": 5},
        "positives": {"AU12_intensity": 3},
        "least": 2,
    }
    known(Known("disfa", **facts))
    sound = store(records("SN001", [1, 2, 3], level=2), records("SN002", [4, 5], level=1), edition="published")
    assert whats(reference.totals, sound) == []
    short = store(records("SN001", [1, 2], level=2), records("SN002", [4, 5], level=2), edition="published")
    assert whats(reference.totals, short) == [
        "SN001 has 2 frames, the published archive 3",
        "all left have 4 frames, the published archive 5",
        "AU12_intensity: 4 frames at 2 or more, the published archive 3",
    ]
    known(Known("disfa", **facts, tolerance=1))
    assert not any("AU12" in what for what in whats(reference.totals, short))
    alone = store(records("SN001", [1, 2, 3], level=2), edition="published")
    assert "1 subject of the archive missing: SN002" in whats(reference.totals, alone)
    assert whats(reference.totals, store(records("SN001", [1]), edition="custom")) == []


def test_totals_of_a_part(store: MakeStore, known: Callable[[Known], None]) -> None:
    part = {2: Part(rows=3, digest="", positives={"AU12_intensity": 3}), 3: Part(rows=3, digest="")}
    known(Known("disfa", sources={"parts": "counted"}, least=2, parts=part))
    swapped = store(records("SN013", [1, 2], level=2), records("SN003", [3, 4, 5], level=2), edition="published")
    assert whats(reference.totals, swapped) == [
        "part 2 has 2 frames, the published lists 3",
        "AU12_intensity: 2 frames of part 2 at 2 or more, the published archive 3",
    ]


def test_a_twin_is_held_to_its_truth(store: MakeStore) -> None:
    twin = store(records("SN001", [1, 2], level=3), edition="twin")
    assert whats(reference.totals, twin) == []
    assert whats(reference.totals, twin, "seen") == ["the twin has no truth"]
    truth = {"rows": {"SN001": 2}, "labels": {"AU12_intensity": [0, 0, 0, 0, 2, 0, 0]}}
    twin.manifest["expected"] = truth
    assert whats(reference.totals, twin) == []
    twin.manifest["expected"] = {
        "rows": {"SN001": 3, "SN002": 1},
        "labels": {"AU12_intensity": [0, 1, 0, 0, 2, 0, 0]},
    }
    assert whats(reference.totals, twin) == [
        "SN001 has 2 rows, the twin's truth 3",
        "SN002 has 0 rows, the twin's truth 1",
        "AU12_intensity has counts [0, 0, 0, 0, 2, 0, 0] of -1, 0, 1, ..., the twin's truth [0, 1, 0, 0, 2, 0, 0]",
    ]


def test_committed_folds_are_those_of_the_papers(store: MakeStore) -> None:
    for dataset, subject in (("disfa", "SN001"), ("disfa_plus", "SN001"), ("bp4d", "F001"), ("bp4d_plus", "M058")):
        assert whats(reference.folds, store(records(subject, [1]), name=dataset)) == []
    assert whats(reference.folds, store(records("346", [1]), name="multi_pie")) == []


def test_faulty_folds(store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = findings.load_folds("disfa")
    disfa = store(records("SN001", [1]), records("SN099", [2]))
    assert whats(reference.folds, disfa) == ["SN099 of the store are in no part of folds disfa"]

    def faults(parts: dict[int, list[str]]) -> list[str]:
        monkeypatch.setattr(reference, "load_folds", lambda _: parts)
        return whats(reference.folds, disfa)

    assert "folds disfa: SN002 come more than once" in faults({**lists, 3: [*lists[3], "SN002"]})
    found = faults({**lists, 1: [s for s in lists[1] if s != "SN010"]})
    assert "folds disfa: SN010 are in no part" in found
    assert "folds disfa: part 1 has 38760 rows, the published list 43604" in found
    swapped = {**lists, 2: [lists[3][0], *lists[2][1:]], 3: [lists[2][0], *lists[3][1:]]}  # as many rows as before
    assert [what for what in faults(swapped) if "disfa: part" in what] == [
        "folds disfa: part 2 is not the published list",
        "folds disfa: part 3 is not the published list",
    ]


def test_a_subject_in_two_official_parts(store: MakeStore) -> None:
    both = [*records("a", [1], split="train"), *records("a", [1, 2], split="test")[1:]]
    other = records("b", [3, 4], split="test")
    assert whats(reference.folds, store(both, other, name="affwild2")) == ["a: in more than one official part"]
    assert whats(reference.folds, store(other, name="affwild2")) == []


def test_pictures_that_two_folds_share(store: MakeStore) -> None:
    # SN001 and SN002 are in part 1, SN003 in part 3.
    shared = store(records("SN001", [1, 2, 3]), records("SN002", [4, 2]), records("SN003", [5, 3, -1, None]))
    assert whats(reference.duplicates, shared) == [
        "1 picture on both sides of part 1/part 3: SN001 left 2 = SN003 left 1"
    ]
    (inside,) = look(reference.duplicates, shared, "note")
    assert inside.what == "1 picture of two subjects, on the same side: SN001 left 1 = SN002 left 1"
    assert inside.rows == (1, 4)


def test_a_picture_that_is_cropped_in_two_ways_is_found(make_store: MakeStore) -> None:
    boxes = {"SN001": (2, 2, 20, 20), "SN003": (3, 2, 21, 20)}
    clips = {
        subject: [dataclasses.replace(records(subject, [1])[0], box=np.array(box, np.float32))]
        for subject, box in boxes.items()
    }
    twice = make_store(clips, delivers="box", label_columns=["AU12_intensity"])
    assert twice.digest[0] != twice.digest[1]
    assert whats(reference.duplicates, twice) == [
        "1 picture on both sides of part 1/part 3: SN001 left 0 = SN003 left 0"
    ]


def test_what_is_no_duplicate(store: MakeStore) -> None:
    still = store(records("SN001", [1, 1, -1, None]), records("SN003", [2, 2, -1, None]))
    assert whats(reference.duplicates, still) == whats(reference.duplicates, still, "note") == []


def test_pictures_that_an_archive_is_known_to_share(store: MakeStore, known: Callable[[Known], None]) -> None:
    clips = [records("train/Anger/1", [1], split="train"), records("test/Fear/1", [1], split="test")]
    known(Known("caer_s", sources={"duplicates": "counted"}, duplicates={"test/train": 1}))
    caer = {"name": "caer_s", "shard": lambda clip: clip.replace("/", "_")}
    assert whats(reference.duplicates, store(*clips, **caer)) == []
    assert "(the archive is known for 1: counted)" in whats(reference.duplicates, store(*clips, **caer), "note")[0]
    more = records("train/Sad/1", [2], split="train"), records("test/Sad/1", [2], split="test")
    assert whats(reference.duplicates, store(*clips, *more, **caer)) == [
        "2 pictures on both sides of test/train: test/Fear/1 left 0 = train/Anger/1 left 0; "
        "test/Sad/1 left 0 = train/Sad/1 left 0"
    ]


def test_frames_known_as_bad_are_listed_with_their_source(store: MakeStore, known: Callable[[Known], None]) -> None:
    bad = [
        BadFrames("SN001", None, [(1, 2), (9, 9)], "wrong landmarks", "somebody"),
        BadFrames("SN001", "right", [], "no such camera", "somebody"),
        BadFrames("SN003", "left", [], "skipped", "somebody else"),
    ]
    known(Known("disfa", bad_frames=bad))
    clips = records("SN001", [1, 2, 3, 4]), records("SN003", [5, 6])
    notes = look(reference.bad_frames, store(*clips), "note")
    assert [finding.what for finding in notes] == [
        "SN001: 2 frames (1-2, 9): wrong landmarks; source: somebody",
        "SN003 left: 2 frames (all): skipped; source: somebody else",
    ]
    assert [finding.rows for finding in notes] == [(1, 2), (4, 5)]
    assert look(reference.bad_frames, store(*clips, edition="twin"), "note") == []
