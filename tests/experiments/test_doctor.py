"""The doctor on a whole store of a twin, sound and broken in many ways; the tests in examination/ take its parts."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.errors import DataError
from datamodules.prepare import prepare
from datamodules.raw.disfa import DISFARaw
from datamodules.store import Flag, FrameStore
from datamodules.synth.disfa import write_disfa
from experiments import doctor


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    raw = write_disfa(folder / "raw", subjects=2, frames=5, size=32, progress=False)
    return prepare(DISFARaw(raw), folder / "store", size=32, progress=False).root


@pytest.fixture
def patient(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "store"))


def faults(store: Path) -> list[str]:
    examination = doctor.examine(FrameStore(store), full=True, progress=False)
    found = [fault for result in examination.results for fault in result.faults]
    assert all(fault.remedy for fault in found)
    assert len(found) == examination.faults
    return [fault.what for fault in found]


def rewrite_index(store: Path, column: str, values: list[int]) -> None:
    """Change a column and make the checksum agree, as a faulty prepare would do."""
    table = pq.read_table(store / "index.parquet")
    place = table.column_names.index(column)
    array = pa.array(np.asarray(values, table.schema.field(column).type.to_pandas_dtype()))
    pq.write_table(table.set_column(place, column, array), store / "index.parquet")
    sign(store, "index.parquet")


def rewrite_array(store: Path, name: str, row: int, values: object) -> None:
    array = np.load(store / name)
    array[row] = values
    np.save(store / name, array)
    sign(store, name)


def sign(store: Path, name: str) -> None:
    content = (store / name).read_bytes()
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["tables"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (store / "manifest.json").write_text(json.dumps(manifest))


def edit_manifest(store: Path, **values: object) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps(manifest | values))


def test_a_sound_store_has_no_faults(patient: Path) -> None:
    assert faults(patient) == []


def test_a_cut_shard(patient: Path) -> None:
    shard = patient / "shards" / "SN002.bin"
    shard.write_bytes(shard.read_bytes()[:-10])
    found = faults(patient)
    assert any("SN002.bin has" in what for what in found)
    assert any("1 of 10 pictures" in what for what in found)


def test_one_changed_byte_in_a_shard(patient: Path) -> None:
    shard = patient / "shards" / "SN001.bin"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert any("SN001.bin: its content has changed" in what for what in faults(patient))


def test_missing_and_foreign_shards(patient: Path) -> None:
    (patient / "shards" / "SN001.bin").rename(patient / "shards" / "SN003.bin")
    found = faults(patient)
    assert any("SN001.bin is missing" in what for what in found)
    assert any("SN003.bin belongs to no row" in what for what in found)


def test_changed_tables(patient: Path) -> None:
    for name in ("landmarks.npy", "matrices.npy", "index.parquet"):
        content = bytearray((patient / name).read_bytes())
        content[-20] ^= 1
        (patient / name).write_bytes(content)
    assert len(faults(patient)) == 3


def test_labels_out_of_range(patient: Path) -> None:
    rewrite_index(patient, "AU12_intensity", [0, 0, 9, 0, 0, 0, 0, 0, 0, 0])
    assert any("AU12_intensity is 9, not -1..5" in what and "SN001" in what for what in faults(patient))


def test_labels_that_the_manifest_counts_otherwise(patient: Path) -> None:
    counts = FrameStore(patient).manifest["counts"]
    edit_manifest(patient, counts=counts | {"labels": counts["labels"] | {"AU01_intensity": [0, 0, 0, 0, 0, 0, 10]}})
    assert faults(patient) == ["AU01_intensity: other counts than the manifest's"]


def test_subjects_that_the_manifest_counts_otherwise(patient: Path) -> None:
    edit_manifest(patient, counts=FrameStore(patient).manifest["counts"] | {"subjects": 3})
    assert faults(patient) == ["index.parquet has 2 subjects, the manifest says 3"]


def test_frames_shifted_against_the_labels(patient: Path) -> None:
    rewrite_index(patient, "frame", [0, 1, 2, 3, 4, 1, 2, 3, 4, 5])
    assert faults(patient) == ["SN002 left: frames before 1 are missing"]


def test_a_key_that_comes_twice(patient: Path) -> None:
    rewrite_index(patient, "frame", [0, 1, 1, 2, 3, 0, 1, 2, 3, 4])
    assert any("('disfa', 'SN001', 'left', 1) comes twice" in what for what in faults(patient))


def test_pictures_that_overlap(patient: Path) -> None:
    offset = FrameStore(patient).offset.copy()
    offset[3] = offset[2]
    rewrite_index(patient, "offset", offset.tolist())
    assert any("disagree about where the pictures are" in what for what in faults(patient))


def test_flags_that_contradict_the_content(patient: Path) -> None:
    rewrite_index(patient, "flags", [Flag.NO_IMAGE, Flag.NO_LANDMARKS, Flag.NO_LABELS, *[0] * 7])
    found = faults(patient)
    assert len(found) == 3
    for flag in ("NO_IMAGE", "NO_LANDMARKS", "NO_LABELS"):
        assert any(f"flag {flag} contradicts" in what for what in found)


def test_landmarks_matrices_and_boxes_that_make_no_sense(patient: Path) -> None:
    rewrite_array(patient, "landmarks.npy", 1, np.inf)
    rewrite_array(patient, "landmarks.npy", 2, 50)
    rewrite_array(patient, "matrices.npy", 3, np.nan)
    rewrite_array(patient, "matrices.npy", 4, [[-1, 0, 0], [0, 1, 0]])
    box = FrameStore(patient).box
    rewrite_index(patient, "box_x2", [*box[:5, 2], box[5, 0] - 1, *box[6:, 2]])
    found = faults(patient)
    for what in (
        "1): flag NO_LANDMARKS contradicts",
        "1): infinite landmarks",
        "2): more landmarks lie outside",
        "3): there is a picture, but not where",
        "4): the crop is mirrored",
        "0): the box of the face has no extent",
    ):
        assert len([one for one in found if what in one]) == 1, what


def test_bytes_of_another_picture(patient: Path) -> None:
    digest = FrameStore(patient).digest.copy()
    digest[[2, 3]] = digest[[3, 2]]
    rewrite_index(patient, "digest", digest.tolist())
    assert faults(patient) == [
        "2 of 10 pictures: other bytes than the index says, the first is ('disfa', 'SN001', 'left', 2)"
    ]


def test_a_twin_is_held_to_its_truth(patient: Path) -> None:
    truth = FrameStore(patient).manifest["expected"]
    edit_manifest(patient, expected=truth | {"rows": {"SN001": 5, "SN002": 6}})
    assert faults(patient) == ["SN002 has 5 rows, the twin's truth 6"]


def test_the_published_edition_has_known_totals(patient: Path) -> None:
    edit_manifest(patient, edition="published")
    found = faults(patient)
    assert "SN001 has 5 frames, the published archive 4845" in found
    assert any(what.startswith("AU12_intensity: ") and what.endswith("the published archive 16851") for what in found)
    assert "part 2 has 0 frames, the published lists 43605" in found


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["doctor.py", *map(str, words)])
    return doctor.main()


def test_landmarks_of_another_store(
    patient: Path, sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = np.load(patient / "landmarks.npy")
    rewrite_array(patient, "landmarks.npy", 0, points[0] + (1, 0))
    assert run(monkeypatch, patient, "--compare", sound) == 0
    printed = capsys.readouterr().out
    assert f"compared    1 note  10 frames with landmarks here and in {sound}" in printed
    share = 1 / np.linalg.norm(points[0, 36] - points[0, 45]) / 10  # crops are similarities, one of ten frames moved
    assert f"; all {share:.3f}, " in printed


def test_exit_codes_table_and_page(
    patient: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, patient, "--full") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{patient}: disfa (twin), 10 frames of 2 subjects, renet crops of 32 px"
    table = {line.split()[0]: line for line in printed if line.startswith("  ")}
    for name in ("tables", "keys", "labels", "landmarks", "faces", "totals", "folds", "duplicates", "bad", "timing"):
        assert " ok " in table[name]
    assert "10 of 10 pictures decoded" in table["pictures"]
    assert printed[-2:] == ["no faults", f"page: {patient.with_suffix('.html')}"]
    assert patient.with_suffix(".html").stat().st_size > 10_000

    (patient / "shards" / "SN002.bin").unlink()
    page = patient.parent / "elsewhere.html"
    assert run(monkeypatch, patient, "--html", page) == 1
    printed = capsys.readouterr().out.splitlines()
    assert f"fault: {patient}/shards/SN002.bin is missing" in printed
    assert any(line.startswith("remedy: copy the store again") for line in printed)
    assert printed[-2:] == ["2 faults", f"page: {page}"]

    (patient / "index.parquet").write_bytes(b"PAR1")
    assert run(monkeypatch, patient) == 1
    assert "nothing else can be looked at before that is mended" in capsys.readouterr().out
    with pytest.raises(DataError, match="nowhere"):
        run(monkeypatch, patient.parent / "nowhere")
    with pytest.raises(DataError, match="elsewhere"):
        run(monkeypatch, patient, "--compare", patient.parent / "elsewhere")
    with pytest.raises(DataError, match="lies in the store"):
        run(monkeypatch, patient, "--html", patient / "page.html")
