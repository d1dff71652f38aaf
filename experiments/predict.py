"""Ask a trained run about videos and pictures of your own: one row a frame, in a CSV or Parquet file.

    python experiments/predict.py runs/aunet_disfa/fold1-seed0 video.mp4 [more.mp4 pictures/ ...] --out predictions.csv

The run's folder says which network, AUs, crop and thresholds; its training data are not needed. Faces are found and
followed as by ``prepare.py --faces detect``: of several people the largest at the beginning. Columns: ``file, frame``
(from 0), ``seconds, x0, y0, x1, y1`` (face box in pixels), ``score`` (the detector's own); what the network says, named
as in the ledger (``AU01_prob``, or ``AU01_level`` and ``AU01_expected``, or ``AU01_pseudo`` and ``AU01_sigma``;
``expression_<Name>_prob``); ``AU01``, 0 or 1: called at the run's tuned threshold (0.5 without one), of intensities at
the lowest level that counts; and ``expression``, the most probable. A frame without a face has no predictions.
"""

import experiments.environment  # noqa: F401  # isort: skip
import argparse
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
import yaml
from torch import Tensor
from tqdm import tqdm

import lightning_modules
from callbacks.ledger import COLUMNS
from datamodules.align import PRESETS, Preset
from datamodules.errors import DataError
from datamodules.faces import DETECTORS, FaceSource
from datamodules.faces.detectors import create_detector
from datamodules.faces.sources import DatasetFaces
from datamodules.faces.tracking import DetectedFaces
from datamodules.facs import LANDMARKS, au_name
from datamodules.raw.media import count_packets, decode, read_image
from datamodules.raw.records import FrameRecord
from datamodules.store_module import listed
from datamodules.stream import Seen, samples, seen, video_of
from datamodules.transforms import Frame, Transform, create_transform
from experiments.ledgers import read_result
from experiments.terminal import exit_with
from lightning_modules import AUNet
from lightning_modules.aunet.streaming import per_frame
from lightning_modules.base import AUModule
from lightning_modules.common.heads import au_predictions
from lightning_modules.common.weights import provenance, read_checkpoint

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
ROWS = 256  # written at once
#: Models that see no pictures, or say nothing of AUs and expressions: why, and whom to ask.
REFUSED = {
    "FaceAligner": ("finds landmarks, not AUs", "ask the AUNet run that it is a stage of"),
    "LabelVAE": ("looks at labels, not at pictures", "ask the AUNet run that it is a stage of"),
    "IntensityMapper": ("looks at pseudo-intensities of whole videos, not at pictures", "ask the run of its ranker"),
}
Said = Mapping[str, Tensor]  # predictions by key, (B, ...) on the CPU


@dataclass(frozen=True)
class TrainedRun:
    """A finished run that can be asked.

    Attributes:
        result: Content of its result.json.
        model: With the weights that were scored, in evaluation mode.
        preset: Where its crops put the face.
        side: Of the crops as they are stored, in pixels.
        transform: What evaluation does to them.
        neighbours: T where the network sees a frame between two others, else 0.
    """

    result: dict[str, Any]
    model: AUModule
    preset: Preset
    side: int
    transform: Transform
    neighbours: int

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "TrainedRun":
        """Read a run's folder, or that of an experiment with one finished run.

        Raises:
            DataError: There is none, it is not finished, or cannot be asked about pictures.
            ModelError: Its checkpoint is missing or broken.
        """
        path = finished(path)
        result = read_result(path / "result.json")
        try:
            settings = yaml.safe_load((path / "config.yaml").read_text())["data"]["init_args"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise DataError(
                f"{path / 'config.yaml'}: not readable ({error!r})", "restore it, or run it again"
            ) from error
        if (name := result.get("class")) in REFUSED:
            why, remedy = REFUSED[name]
            raise DataError(f"{path}: {name} {why}", remedy)
        if result.get("checkpoint") or not result.get("scored_checkpoint"):
            what = f"{path}: trained nothing, but scored {result.get('checkpoint')}"
            raise DataError(what, "ask the run that trained this checkpoint")
        file = path / result["scored_checkpoint"]["file"]
        if "metrics_without_recalibration" in result and file.stem != "recalibrated":
            print(f"{path}: older than this version: statistics are as trained, its scores are with recalibrated ones")
        checkpoint = read_checkpoint(file)
        source = provenance(checkpoint, file)
        preset = next((preset for preset in PRESETS.values() if preset.hash == source["preprocessing"]), None)
        if preset is None:
            raise DataError(
                f"{path}: trained on crops {source['preprocessing']}, which are of no preset of this version",
                "ask a run that was trained on crops of one preset (datamodules/presets.yaml)",
            )
        kind = getattr(lightning_modules, checkpoint["model"]["class"])
        model = kind.load_from_checkpoint(file, map_location=device, weights_only=True).eval()
        side = source.get("crop_size", preset.size)  # checkpoints of older versions do not say
        transform = create_transform(settings["augment"], settings["image_size"], train=False)
        return cls(result, model, preset, side, transform, settings["neighbours"] * getattr(model, "temporal", False))

    def answers(
        self, frames: Iterable[Seen], alignment: str | None = None, batch: int = 32
    ) -> Iterator[tuple[Seen, Said | None]]:
        """What the model says of every frame, B = 1; None where there is no face.

        Args:
            frames: Of the first video, of the second, ...
            alignment: Of neighbours: ``per_frame``, see `lightning_modules.aunet.streaming`, else as trained.
            batch: Frames that go through the network together.
        """
        if alignment == "per_frame":
            for _, video in groupby(frames, key=video_of):
                yield from self._per_frame(video, batch)
            return
        pending = samples(frames, self.transform, self.neighbours)
        while chunk := list(islice(pending, batch)):
            said = self._ask([picture for _, picture in chunk if picture is not None])
            yield from ((frame, None if picture is None else next(said)) for frame, picture in chunk)

    @torch.inference_mode()
    def _ask(self, pictures: list[Tensor]) -> Iterator[Said]:
        if not pictures:
            return iter(())
        key = "clip" if self.neighbours else "image"
        said = self.model.predictions({key: torch.stack(pictures).to(self.model.device)})
        whole = {name: value.cpu() for name, value in said.items() if name in (*COLUMNS, "expression_prob")}
        return ({name: value[i : i + 1] for name, value in whole.items()} for i in range(len(pictures)))

    def _per_frame(self, video: Iterable[Seen], batch: int) -> Iterator[tuple[Seen, Said | None]]:
        waiting: deque[Seen] = deque()  # those that were read and not answered yet

        def pictures() -> Iterator[Tensor | None]:
            for frame, picture in samples(video, self.transform):
                waiting.append(frame)
                yield picture

        assert isinstance(self.model, AUNet)  # no other has neighbours
        for logit in per_frame(self.model.network, pictures(), self.neighbours, batch):
            yield waiting.popleft(), None if logit is None else au_predictions(logit.cpu().unsqueeze(0))

    def columns(self, said: Said) -> dict[str, Any]:
        """Columns of predictions of B frames: name -> (B,), and what is called."""
        values = {key: value.numpy() for key, value in said.items()}
        names = [au_name(au) for au in self.model.predicted_aus]
        columns: dict[str, Any] = {}
        for key, (suffix, _) in COLUMNS.items():
            if key in values:
                columns |= {f"{name}_{suffix}": values[key][:, i] for i, name in enumerate(names)}
        tuned, lowest = self.result.get("threshold", {}), self.result.get("label_threshold") or 1
        for i, name in enumerate(names):
            if "au_prob" in values:
                threshold = 0.5 if tuned.get(name) is None else tuned[name]
                columns[name] = (values["au_prob"][:, i].astype(np.float64) >= threshold).astype(np.int8)
            elif "level" in values:
                columns[name] = (values["level"][:, i] >= lowest).astype(np.int8)
        if "expression_prob" in values:
            prob, classes = values["expression_prob"], np.array(self.model.expressions, object)
            columns |= {f"expression_{name}_prob": prob[:, k] for k, name in enumerate(classes)}
            columns["expression"] = classes[prob.argmax(1)]
        return columns

    def table(self, answers: Sequence[tuple[Seen, Said | None]]) -> pd.DataFrame:
        """Rows of the output; without columns of predictions where there are none."""
        unknown = np.full(4, np.nan, np.float32)
        boxes = np.stack([unknown if frame.face is None else frame.face.box for frame, _ in answers])
        scores = [np.nan if frame.face is None else frame.face.score for frame, _ in answers]
        table = pd.DataFrame(
            {
                "file": [frame.record.sequence for frame, _ in answers],
                "frame": [frame.record.frame for frame, _ in answers],
                "seconds": [frame.record.pts for frame, _ in answers],
                **{name: boxes[:, k] for k, name in enumerate(("x0", "y0", "x1", "y1"))},
                "score": np.array(scores, np.float32),
            }
        )
        if rows := {row: said for row, (_, said) in enumerate(answers) if said is not None}:
            said = {key: torch.cat([one[key] for one in rows.values()]) for key in next(iter(rows.values()))}
            table = table.join(pd.DataFrame(self.columns(said), index=list(rows)))
        return table

    def schema(self, alignment: str | None = None) -> pa.Schema:
        """Columns of the output, from what the network says of a black picture."""
        unknown = np.full((LANDMARKS, 2), np.nan, np.float32)
        black = Frame(np.zeros((self.side, self.side, 3), np.uint8), unknown, np.full(4, np.nan), np.eye(2, 3))
        frame = Seen(FrameRecord("", "", 0, 0.0, None, None), None, black)
        table = self.table(list(self.answers([frame], alignment, 1)))
        return pa.Schema.from_pandas(table, preserve_index=False).remove_metadata()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, look for faults, predict, and say what came of it."""
    parser = argparse.ArgumentParser(prog="predict.py", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="folder of a finished run: runs/aunet_disfa/fold1-seed0")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="videos, pictures, folders of pictures")
    parser.add_argument("--out", type=Path, required=True, help="table to write: NAME.csv or NAME.parquet")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    parser.add_argument("--detector", choices=DETECTORS, help=f"what finds the faces (default: {DETECTORS[0]})")
    parser.add_argument(
        "--alignment",
        choices=("per_triple", "per_frame"),
        help="of AUNet's neighbours: on the crop of every frame, as trained (default), or each on its own: FAN once a "
        "frame instead of three times",
    )
    parser.add_argument("--batch", type=int, default=32, metavar="B", help="frames at once (default: 32)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is")
    options = parser.parse_args(arguments)

    started = time.perf_counter()
    check_output(options.out, options.overwrite)
    if options.batch < 1:
        raise DataError(f"--batch {options.batch}: too small", "give 1 or more")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: torch sees no GPU", "leave it out, or mend the driver or torch's installation")
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    lengths = count_frames(options.files)
    run = TrainedRun.load(options.run, device)
    if options.alignment and not run.neighbours:
        what = f"--alignment {options.alignment}: {type(run.model).__name__} of {options.run} sees no neighbours"
        raise DataError(what, "leave --alignment out")
    source = face_source(run, options.detector)
    schema = run.schema(options.alignment)

    frames = seen(records(lengths), source, run.preset, run.side)
    answers = run.answers(frames, options.alignment, options.batch)
    read, faces = Counter[str](), Counter[str]()
    pace = 0.1 if sys.stderr.isatty() else 10
    with (
        whole_table(options.out, schema) as writer,
        tqdm(total=sum(lengths.values()), desc="predict", unit="frame", mininterval=pace) as bar,
    ):
        while chunk := list(islice(answers, min(ROWS, options.batch))):
            read.update(frame.record.sequence for frame, _ in chunk)
            faces.update(frame.record.sequence for frame, said in chunk if said is not None)
            rows = run.table(chunk).reindex(columns=schema.names)
            writer.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False))
            bar.update(len(chunk))
        if not faces:
            more = "try --detector mtcnn, which sees smaller and turned faces" if options.detector != "mtcnn" else ""
            raise DataError(f"no face in {listed(map(str, lengths), 3)}", more or "look whether they show one upright")
    total, found, seconds = read.total(), faces.total(), time.perf_counter() - started
    if without := [str(file) for file in lengths if not faces[str(file)]]:
        print(f"no face at all in {listed(without)}")
    print(
        f"{options.out}: {total} frames of {len(lengths)} file{'s' * (len(lengths) > 1)}, {found} with a face, "
        f"{total - found} without; {seconds:.0f} s, {total / seconds:.1f} frames a second on {device.type}"
    )
    return 0


def finished(path: Path) -> Path:
    """The run's folder that a path means; raises `DataError` where it means none, or several."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", "give the folder of a run, as runs/aunet_disfa/fold1-seed0")
    if (path / "DONE").exists():
        return path
    runs = sorted(folder for folder in path.glob("fold*-seed*") if folder.is_dir())
    done = [folder for folder in runs if (folder / "DONE").exists()]
    if len(done) == 1:
        return done[0]
    if done:
        raise DataError(f"{path}: {len(done)} finished runs", f"choose one: {listed(map(str, done))}")
    if runs or (path / "config.yaml").exists():
        raise DataError(f"{path}: not finished", "the command that started it goes on from its last checkpoint")
    raise DataError(f"{path}: no run is there", "give the folder of a run, as runs/aunet_disfa/fold1-seed0")


def face_source(run: TrainedRun, detector: str | None) -> FaceSource:
    """What finds the faces; nothing has to, where the run was trained on pictures that are crops as they come."""
    if run.preset.needs != "image":
        return DetectedFaces(create_detector(detector or DETECTORS[0]))
    if detector:
        what = f"--detector {detector}: the run was trained on pictures that are crops already ({run.preset.name})"
        raise DataError(what, "leave --detector out, and give pictures or videos that are such crops")
    print(f"the run was trained on pictures that are crops already ({run.preset.name}): yours are taken whole")
    return DatasetFaces("crop")


def count_frames(paths: Iterable[Path]) -> dict[Path, int]:
    """Videos and pictures, those of folders too -> number of frames; raises `DataError` for what is neither."""
    lengths: dict[Path, int] = {}
    for path in paths:
        inside = sorted(file for file in path.iterdir() if is_picture(file)) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path}: no pictures in this folder", f"give one with {', '.join(PICTURES)}, or videos")
        for file in inside:
            if not file.is_file():
                raise DataError(f"{file}: no such file", "correct the path")
            if not file.stat().st_size:
                raise DataError(f"{file} is empty", "leave it out, or get it again")
            with readable():
                lengths[file] = 1 if is_picture(file) else count_packets(file)
            if not lengths[file]:
                raise DataError(f"{file}: a video without frames", "leave it out, or get it again")
    return lengths


def is_picture(file: Path) -> bool:
    """Whether a file is read as a picture."""
    return file.suffix.lower() in PICTURES


def records(files: Iterable[Path]) -> Iterator[FrameRecord]:
    """Every frame, the file as its sequence."""
    with readable():
        for file in files:
            images = [(float("nan"), read_image(file))] if is_picture(file) else decode(file)
            for number, (pts, image) in enumerate(images):
                yield FrameRecord("", str(file), number, pts, image, None)


@contextmanager
def readable() -> Iterator[None]:
    """Remedies for files of the user's, where those of a dataset's archive make no sense."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error), "leave the file out, or make it anew (a video: ffmpeg -i FILE NEW.mp4)") from error


def check_output(out: Path, overwrite: bool) -> None:
    """Raise `DataError` where the table cannot be written."""
    if out.suffix not in (".csv", ".parquet"):
        raise DataError(f"--out {out}: neither .csv nor .parquet", "end its name in one of them")
    if not out.parent.is_dir():
        raise DataError(f"--out {out}: the folder {out.parent} does not exist", "make it, or choose another --out")
    if out.is_dir() or (out.exists() and not overwrite):
        raise DataError(f"--out {out} exists", "add --overwrite, or choose another --out")


@contextmanager
def whole_table(out: Path, schema: pa.Schema) -> Iterator[Any]:
    """A writer of ``pa.Table``; the file is there whole at the end, or not at all."""
    temporary = out.with_name(f".{out.name}.part")
    kind = pyarrow.csv.CSVWriter if out.suffix == ".csv" else pyarrow.parquet.ParquetWriter
    try:
        writer = kind(str(temporary), schema)
    except OSError as error:
        raise DataError(f"--out {out} cannot be written: {error.strerror or error}", "choose another --out") from error
    try:
        with writer:
            yield writer
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    exit_with(main, goes_on=False)
