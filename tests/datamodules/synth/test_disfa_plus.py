"""The twin of DISFA+ against the renderer, and the parser against the twin's truth."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.disfa import DISFARaw
from datamodules.raw.disfa_plus import DISFAPlusRaw
from datamodules.synth.clips import SynthFrame, render_clip
from datamodules.synth.disfa import write_disfa
from datamodules.synth.disfa_plus import write_disfa_plus
from datamodules.synth.twin import read_truth

FRAMES, SIZE = 4, 48
SESSIONS = ("A1_AU1_TrailNo_1", "A3_AU1_2_TrailNo_2")
AUS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_disfa_plus(tmp_path_factory.mktemp("twin") / "raw", 2, 2, FRAMES, size=SIZE, progress=False)


def rendered(subject: str, session: str, number: int) -> SynthFrame:
    """What the renderer shows as picture ``number`` of a session: the second frame of a clip with so long a stride."""
    index = 10_000 * (1 + SESSIONS.index(session)) + number
    return list(render_clip(int(subject[2:]), 2, seed=0, size=SIZE, fps=20, stride=index))[1]


def test_layout_is_the_archives_with_its_traps(twin: Path) -> None:
    assert sorted(path.name for path in twin.iterdir()) == ["Images", "Labels", "truth.parquet"]
    for kind in ("Images", "Labels"):
        assert sorted(path.name for path in (twin / kind).iterdir()) == ["SN001", "SN013"]
        assert sorted(path.name for path in (twin / kind / "SN013").iterdir()) == list(SESSIONS)
    for session in SESSIONS:
        names = sorted(path.name for path in (twin / "Images" / "SN001" / session).iterdir())
        numbers = [0, 1, 3, 4] if session == SESSIONS[0] else [0, 1, 2, 3, 4]  # 2 is missing, 4 has no labels
        assert names == [*(f"{n:03d}.jpg" for n in numbers), "Thumbs.db"]
        folder = twin / "Labels" / "SN001" / session
        assert {path.name for path in folder.iterdir()} == {f"AU{au}.txt" for au in AUS}
        _, _, *rows = (folder / "AU25.txt").read_text().splitlines()
        assert len(rows) == FRAMES
        assert all(re.fullmatch(rf"{n:03d}\.jpg {{2,}}[0-5]", row) for n, row in enumerate(rows))


def test_the_parser_returns_the_truth(twin: Path) -> None:
    raw = DISFAPlusRaw(twin)
    raw.check()
    assert raw.edition == "twin"
    truth = list(read_truth(twin))
    records = [record for clip in raw.clips() for record in raw.frames(clip)]
    assert len(truth) == len(records) == 4 * FRAMES
    for record, row in zip(records, truth, strict=True):
        assert (record.subject, record.sequence, record.frame) == row[:3]
        assert record.labels == row.labels
        assert (record.image is not None) == row.image
    assert [row[:3] for row in truth if not row.image] == [("SN001", SESSIONS[0], 2)]


@pytest.mark.parametrize(
    ("subject", "session", "number"), [("SN001", 0, 0), ("SN001", 1, 2), ("SN013", 0, 1), ("SN013", 1, 3)]
)
def test_labels_and_picture_are_of_the_same_rendered_frame(twin: Path, subject: str, session: int, number: int) -> None:
    records = DISFAPlusRaw(twin).frames(f"{subject}/{SESSIONS[session]}")
    record = next(record for record in records if record.frame == number)
    near = {n: rendered(subject, SESSIONS[session], n) for n in range(number - 2, number + 3)}
    distance = {n: np.abs(shown.image.astype(int) - record.image).mean() for n, shown in near.items()}
    assert distance[number] < 4  # JPEG of a noisy picture
    assert sorted(distance.values())[1] > 1.2 * distance[number]
    assert list(record.labels.values()) == [near[number].intensity[au] for au in AUS]
    truth = next(row for row in read_truth(twin) if row[:3] == (subject, SESSIONS[session], number))
    np.testing.assert_array_equal(truth.landmarks, near[number].landmarks)


def test_persons_are_those_of_disfas_twin(tmp_path: Path, twin: Path) -> None:
    """The same face on the same background, at another time: the background's corner does not change."""
    disfa = write_disfa(tmp_path / "disfa", subjects=13, frames=2, size=SIZE, progress=False)
    corner = {
        subject: next(DISFARaw(disfa).frames(subject)).image[:8, :8].mean(axis=(0, 1)) for subject in ("SN001", "SN013")
    }
    for subject in corner:
        record = next(DISFAPlusRaw(twin).frames(f"{subject}/{SESSIONS[1]}"))
        distance = {
            name: np.abs(record.image[:8, :8].mean(axis=(0, 1)) - value).max() for name, value in corner.items()
        }
        assert distance.pop(subject) < 6
        assert min(distance.values()) > 12


def test_small_numbers_of_subjects_cover_disfas_parts() -> None:
    from datamodules.synth.disfa_plus import _ORDER

    assert sorted(_ORDER) == ["SN001", "SN003", "SN004", "SN007", "SN009", "SN010", "SN013", "SN025", "SN027"]
    parts = ({"SN001", "SN009", "SN010", "SN027"}, {"SN013"}, {"SN003", "SN004", "SN007", "SN025"})
    assert all(part & set(_ORDER[:3]) for part in parts)


def test_bytes_follow_from_the_arguments_alone(tmp_path: Path, twin: Path) -> None:
    """A subject's files do not depend on the others: so neither on the order, nor on workers."""
    one = write_disfa_plus(tmp_path / "one", 1, 2, FRAMES, size=SIZE, progress=False)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name != "truth.parquet")
    assert len(files) == (4 + 1) + (5 + 1) + 2 * 12
    for name in files:
        assert (one / name).read_bytes() == (twin / name).read_bytes(), name


def test_faults_are_refused_one_after_the_other(tmp_path: Path) -> None:
    faulty = write_disfa_plus(tmp_path / "faulty", 1, 2, FRAMES, size=32, with_faults=True, progress=False)
    whole = write_disfa_plus(tmp_path / "whole", 1, 2, FRAMES, size=32, progress=False)
    DISFAPlusRaw(whole).check()
    labels = Path("Labels/SN001") / SESSIONS[1] / "AU12.txt"
    with pytest.raises(DataError, match=re.escape(f"{faulty / labels}, line ")):
        DISFAPlusRaw(faulty).check()
    shutil.copy(whole / labels, faulty / labels)
    with pytest.raises(DataError, match=r"000\.jpg is empty"):
        DISFAPlusRaw(faulty).check()


@pytest.mark.parametrize(
    "wrong", [{"subjects": 10}, {"subjects": 0}, {"sessions": 6}, {"frames": 1}, {"size": 8}, {"seed": -1}]
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        write_disfa_plus(tmp_path / "raw", **wrong)
    assert list(tmp_path.iterdir()) == []
