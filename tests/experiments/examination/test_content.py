"""Checks of content that a whole twin does not reach; the others are in test_doctor.py."""

from collections.abc import Callable

import numpy as np

from datamodules.raw.records import FrameRecord
from datamodules.store import FrameStore
from experiments.examination import content
from experiments.examination.findings import Case, carry_out


def records(subject: str, frames: int, found: int) -> list[FrameRecord]:
    """A box in the first ``found`` frames only."""
    made = []
    for frame in range(frames):
        image = np.random.default_rng((frames, frame)).integers(0, 255, (48, 48, 3), dtype=np.uint8)
        box = np.array([8, 8, 40, 40], np.float32) if frame < found else None
        labels = {"AU12_intensity": 0}
        made.append(FrameRecord(subject, "left", frame, frame / 20, image, None, labels, box=box))
    return made


def test_a_subject_whose_face_was_never_located(make_store: Callable[..., FrameStore]) -> None:
    clips = {"SN001": records("SN001", 10, 10), "SN002": records("SN002", 10, 8), "SN003": records("SN003", 10, 0)}
    store = make_store(clips, delivers="box", label_columns=["AU12_intensity"])
    result = carry_out("faces", content.faces, Case(store, progress=False))
    assert [fault.what for fault in result.faults] == ["SN003: no face was located in any of 10 frames"]
    assert [note.what for note in result.notes] == [
        "no face was located in more than a tenth of the frames of SN002 (20%)"
    ]
    assert result.seen == "40.0% of rows without face, 2 of them cropped like the nearest"
    assert result.verdict == "1 fault"


def test_where_every_picture_is_a_subject_classes_are_judged(make_store: Callable[..., FrameStore]) -> None:
    clips = {
        f"train/{name}/{k}": records(f"train/{name}/{k}", 1, found)
        for name, found in (("Fear", 0), ("Sad", 1))
        for k in (1, 2)
    }
    store = make_store(
        clips, name="caer_s", delivers="box", label_columns=["AU12_intensity"],
        shard=lambda clip: "_".join(clip.split("/")[:2]),
    )  # fmt: skip
    result = carry_out("faces", content.faces, Case(store, progress=False))
    assert [fault.what for fault in result.faults] == ["train_Fear: no face was located in any of 2 frames"]
