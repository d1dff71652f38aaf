import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.prepare import prepare
from datamodules.raw.disfa import DISFARaw
from datamodules.store import Flag, FrameStore
from datamodules.synth.disfa import write_disfa
from experiments.doctor import inspect


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    raw = write_disfa(folder / "raw", subjects=2, frames=5, size=32, progress=False)
    return prepare(DISFARaw(raw), folder / "store", size=32, progress=False)


@pytest.fixture
def patient(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "store"))


def faults(store: Path) -> list[str]:
    found = inspect(FrameStore(store), full=True, progress=False)
    assert all(fault.remedy for fault in found)
    return [fault.what for fault in found]


def rewrite_index(store: Path, column: str, values: list[int]) -> None:
    """Change a column and make the checksum agree, as a faulty prepare would."""
    table = pq.read_table(store / "index.parquet")
    place = table.column_names.index(column)
    array = pa.array(np.asarray(values, table.schema.field(column).type.to_pandas_dtype()))
    pq.write_table(table.set_column(place, column, array), store / "index.parquet")
    content = (store / "index.parquet").read_bytes()
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["tables"]["index.parquet"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
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
    assert any("SN003.bin belongs to no subject" in what for what in found)


def test_changed_landmarks_or_index(patient: Path) -> None:
    for name in ("landmarks.npy", "index.parquet"):
        content = bytearray((patient / name).read_bytes())
        content[-20] ^= 1
        (patient / name).write_bytes(content)
    assert len(faults(patient)) == 2


def test_labels_out_of_range(patient: Path) -> None:
    rewrite_index(patient, "AU12_intensity", [0, 0, 9, 0, 0, 0, 0, 0, 0, 0])
    assert any("AU12_intensity is 9, not -1..5" in what and "SN001" in what for what in faults(patient))


def test_labels_that_the_manifest_counts_otherwise(patient: Path) -> None:
    counts = FrameStore(patient).manifest["counts"]
    edit_manifest(patient, counts=counts | {"labels": counts["labels"] | {"AU01_intensity": [0, 0, 0, 0, 0, 0, 10]}})
    assert faults(patient) == ["AU01_intensity: other counts than the manifest's"]


def test_subjects_that_the_manifest_counts_otherwise(patient: Path) -> None:
    counts = FrameStore(patient).manifest["counts"]
    edit_manifest(patient, counts=counts | {"subjects": {"SN001": 5, "SN002": 4}})
    assert faults(patient) == ["SN002 has 5 rows, the manifest says 4"]


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


def test_the_published_edition_has_known_totals(patient: Path) -> None:
    edit_manifest(patient, edition="published")
    found = faults(patient)
    assert "SN001 has 5 frames, published DISFA 4845" in found
    assert any(what.startswith("AU12 has") and what.endswith("published DISFA 16851") for what in found)


def test_exit_codes(patient: Path, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    sound = command("doctor.py", patient)
    assert (sound.returncode, "no faults" in sound.stdout) == (0, True)
    (patient / "shards" / "SN002.bin").unlink()
    assert command("doctor.py", patient).returncode == 1
    nothing = command("doctor.py", tmp_path / "nowhere")
    assert nothing.returncode == 2
    assert len(nothing.stderr.splitlines()) == 2
    assert "nowhere" in nothing.stderr
