"""The parser against small folders in Aff-Wild2's layouts, written here without the code under test."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.affwild2 import AffWild2Raw

ROWS = 8
BITS = 8
AUS_8 = (1, 2, 4, 6, 12, 15, 20, 25)
AUS_12 = (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)
SEVEN = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise"
# release -> folder of annotations, of AU, of EXPR, of training, AUs, header of EXPR
LAYOUTS = {
    "abaw1": ("annotations", "AU_Set", "EXPR_Set", "Training_Set", AUS_8, SEVEN),
    "abaw2": ("annotations", "AU_Set", "EXPR_Set", "Train_Set", AUS_12, SEVEN),
    "abaw3": (
        *("Third ABAW Annotations", "AU_Detection_Challenge", "EXPR_Classification_Challenge", "Train_Set", AUS_12),
        f"{SEVEN},Other",
    ),
}
TRACKS = {
    "10-60-1280x720": "train",
    "10-60-1280x720_right": "train",
    "2-30-640x360": "validation",
    "video59_left": "train",
    "video590": "train",  # after video59's tracks, though "0" sorts before "_"
}
GAPS = {3, 6}  # crops that are missing


def barcode(number: int) -> np.ndarray:
    """(64, 64, 3) uint8 with the bits of ``number`` as black and white columns."""
    bits = np.repeat([(number >> bit) & 1 for bit in range(BITS)], 64 // BITS)
    return np.broadcast_to((255 * bits).astype(np.uint8)[None, :, None], (64, 64, 3)).copy()


def read_barcode(image: np.ndarray) -> int:
    columns = image.mean(axis=(0, 2)).reshape(BITS, -1).mean(axis=1)
    return sum(1 << bit for bit, value in enumerate(columns.tolist()) if value > 127)


def write_video(path: Path, frames: int, b_frames: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width = stream.height = 64
        stream.codec_context.max_b_frames = b_frames
        for number in range(1, frames + 1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(barcode(number), format="rgb24")))
        container.mux(stream.encode())


def au_value(track: str, au: int, row: int) -> int:
    return (len(track) + au + row) % 2


def expression(track: str, row: int) -> int:
    return (len(track) + row) % 7


def write_folder(root: Path, release: str = "abaw3") -> Path:
    annotations, au_folder, expr_folder, training, aus, classes = LAYOUTS[release]
    for track, part in TRACKS.items():
        name = training if part == "train" else "Validation_Set"
        columns = [",".join(f"AU{au}" for au in aus), classes]
        au_lines = [",".join(str(au_value(track, au, row)) for au in aus) for row in range(1, ROWS + 1)]
        expr_lines = [str(expression(track, row)) for row in range(1, ROWS + 1)]
        for folder, header, lines in zip((au_folder, expr_folder), columns, (au_lines, expr_lines), strict=True):
            path = root / annotations / folder / name / f"{track}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([header, *lines]) + "\n")
        crops = root / "cropped_aligned" / track
        crops.mkdir(parents=True)
        for number in {*range(1, ROWS + 1)} - GAPS:
            (crops / f"{number:05d}.jpg").write_bytes(cv2.imencode(".jpg", barcode(number))[1].tobytes())
        for stranger in (".DS_Store", "00003_3d.jpg", "Thumbs.db"):
            (crops / stranger).touch()
    (root / annotations / "AU_test_set_release.txt").write_text("3-30-1920x1080\n")
    (root / annotations / au_folder / training / ".hidden.txt").touch()
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "raw")


def with_videos(folder: Path, frames: int = ROWS) -> Path:
    write_video(folder / "batch1" / "10-60-1280x720.mp4", frames)
    write_video(folder / "batch2" / "2-30-640x360.avi", frames, b_frames=0)
    write_video(folder / "new_vids" / "video59.mp4", frames)
    write_video(folder / "new_vids" / "video590.mp4", frames)
    return folder


def label_file(folder: Path, track: str = "10-60-1280x720", kind: str = "AU_Detection_Challenge") -> Path:
    part = "Train_Set" if TRACKS[track] == "train" else "Validation_Set"
    return folder / "Third ABAW Annotations" / kind / part / f"{track}.txt"


def replace_line(path: Path, line: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


def refusal(folder: Path, **options: str) -> DataError:
    with pytest.raises(DataError) as caught:
        AffWild2Raw(folder, **options).check()  # type: ignore[arg-type]
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("release", LAYOUTS)
def test_labels_and_crops_of_every_release_belong_together(tmp_path: Path, release: str) -> None:
    raw = AffWild2Raw(write_folder(tmp_path / "raw", release), release=release)  # type: ignore[arg-type]
    raw.check()
    aus = LAYOUTS[release][4]
    assert raw.label_columns == [f"AU{au:02d}" for au in aus]
    assert (raw.release, raw.delivers, raw.expressions) == (release, "crop", ())
    assert raw.clips() == list(TRACKS)  # sorted by video, then by track
    for track, part in TRACKS.items():
        records = list(raw.frames(track))
        assert [record.frame for record in records] == list(range(1, ROWS + 1))
        assert raw.count(track) == ROWS
        for record in records:
            video = track.removesuffix("_right").removesuffix("_left")
            assert (record.subject, record.sequence, record.split, record.side) == (video, track, part, "")
            assert raw.shard(track) == video
            assert np.isnan(record.pts)
            if record.frame in GAPS:
                assert record.image is None
            else:
                assert read_barcode(record.image) == record.frame
            assert record.labels == {f"AU{au:02d}": au_value(track, au, record.frame) for au in aus}


@pytest.mark.parametrize("release", LAYOUTS)
def test_expressions_of_every_release(tmp_path: Path, release: str) -> None:
    folder = write_folder(tmp_path / "raw", release)
    raw = AffWild2Raw(folder, release=release, track="expr")  # type: ignore[arg-type]
    raw.check()
    assert raw.label_columns == ["expression"]
    assert ",".join(raw.expressions) == LAYOUTS[release][5]
    for track in TRACKS:
        assert [record.labels["expression"] for record in raw.frames(track)] == [
            expression(track, row) for row in range(1, ROWS + 1)
        ]


def test_columns_are_found_by_their_names(folder: Path) -> None:
    path = label_file(folder)
    before = [record.labels for record in AffWild2Raw(folder).frames("10-60-1280x720")]
    rows = [line.split(",") for line in path.read_text().splitlines()]
    order = [5, 0, 11, 7, 1, 2, 10, 3, 9, 4, 8, 6]
    path.write_text("\r\n".join(", ".join(row[k] for k in order) for row in rows) + "\r\n\r\n")
    raw = AffWild2Raw(folder)
    raw.check()
    assert [record.labels for record in raw.frames("10-60-1280x720")] == before


def test_unknown_is_unknown_for_each_au_alone(folder: Path) -> None:
    replace_line(label_file(folder), 3, "0,1,-1,0,1,0,-5,0,1,0,1,0")
    replace_line(label_file(folder), 4, ",".join(["-1"] * 12))
    replace_line(label_file(folder, kind="EXPR_Classification_Challenge"), 5, "-1")
    replace_line(label_file(folder, kind="EXPR_Classification_Challenge"), 6, "-5")
    records = list(AffWild2Raw(folder).frames("10-60-1280x720"))
    assert list(records[1].labels.values()) == [0, 1, -1, 0, 1, 0, -1, 0, 1, 0, 1, 0]
    assert list(records[2].labels.values()) == [-1] * 12
    assert len(records) == ROWS
    expressions = [record.labels["expression"] for record in AffWild2Raw(folder, track="expr").frames("10-60-1280x720")]
    assert expressions[3:5] == [-1, -1]
    assert expressions[5] == expression("10-60-1280x720", 6)


def test_later_editions_are_read_as_the_third(folder: Path) -> None:
    third = folder / "Third ABAW Annotations"
    (third / "EXPR_Classification_Challenge").rename(third / "EXPR_Recognition_Challenge")
    third.rename(folder / "6th ABAW Annotations")
    (folder / "cropped_aligned_new_50_vids").mkdir()
    (folder / "cropped_aligned" / "video59_left").rename(folder / "cropped_aligned_new_50_vids" / "video59_left")
    for track in ("au", "expr"):
        raw = AffWild2Raw(folder, track=track)  # type: ignore[arg-type]
        raw.check()
        assert read_barcode(next(raw.frames("video59_left")).image) == 1


@pytest.mark.parametrize("track", ["au", "expr"])
@pytest.mark.parametrize("given", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
def test_annotations_of_another_release_are_recognised(tmp_path: Path, right: str, given: str, track: str) -> None:
    folder = write_folder(tmp_path / "raw", right)
    if given != right:
        error = refusal(folder, release=given, track=track)
        assert f"of release {right}, not {given}" in str(error)
        assert error.remedy == f"give --release {right}"


@pytest.mark.parametrize(("right", "given"), [("abaw1", "abaw2"), ("abaw2", "abaw1")])
def test_a_header_of_another_release_is_recognised_in_folders_of_this_one(
    tmp_path: Path, right: str, given: str
) -> None:
    folder = write_folder(tmp_path / "raw", right)
    annotations = folder / "annotations" / "AU_Set"
    (annotations / LAYOUTS[right][3]).rename(annotations / LAYOUTS[given][3])
    error = refusal(folder, release=given)
    assert f"line 1: the columns are of release {right}" in str(error)
    assert error.remedy == f"give --release {right}"


def test_classes_of_another_release_are_recognised(folder: Path) -> None:
    replace_line(label_file(folder, kind="EXPR_Classification_Challenge"), 1, SEVEN)
    error = refusal(folder, track="expr")
    assert "line 1: the classes are of release abaw1" in str(error)


@pytest.mark.parametrize(("below", "kind"), [("", "mp4"), ("videos", "mp4"), ("videos", "avi")])
def test_videos_are_read_frame_by_frame(folder: Path, below: str, kind: str) -> None:
    """MPEG-4 with B-frames: readers that look frames up by index return others."""
    for batch, name in (
        ("batch1", "10-60-1280x720"),
        ("batch2", "2-30-640x360"),
        ("new_vids", "video59"),
        ("new_vids", "video590"),
    ):
        write_video(folder / below / batch / f"{name}.{kind}", ROWS, b_frames=2 if kind == "mp4" else 0)
    raw = AffWild2Raw(folder, source="videos")
    raw.check()
    assert raw.delivers == ""
    for track in TRACKS:
        records = list(raw.frames(track))
        assert [read_barcode(record.image) for record in records] == list(range(1, ROWS + 1))
        assert [record.pts for record in records] == pytest.approx([k / 30 for k in range(ROWS)])
        assert [record.labels["AU12"] for record in records] == [au_value(track, 12, k) for k in range(1, ROWS + 1)]


def test_a_track_says_on_which_side_its_person_is(folder: Path) -> None:
    raw = AffWild2Raw(with_videos(folder), source="videos")
    sides = {track: next(raw.frames(track)).side for track in raw.clips()}
    # The video's own track is of the other person where one side is given away.
    assert sides == {
        "10-60-1280x720": "left",
        "10-60-1280x720_right": "right",
        "2-30-640x360": "",
        "video59_left": "left",
        "video590": "",
    }


def test_a_video_may_differ_from_its_labels_by_a_little(folder: Path) -> None:
    with_videos(folder)
    write_video(folder / "batch1" / "10-60-1280x720.mp4", ROWS - 5)
    write_video(folder / "new_vids" / "video59.mp4", ROWS + 5)
    raw = AffWild2Raw(folder, source="videos")
    raw.check()
    records = list(raw.frames("10-60-1280x720"))
    assert [record.image is None for record in records] == [False] * 3 + [True] * 5
    assert [record.labels["AU01"] for record in records] == [au_value("10-60-1280x720", 1, k) for k in range(1, 9)]
    assert [read_barcode(record.image) for record in raw.frames("video59_left")] == list(range(1, ROWS + 1))


@pytest.mark.parametrize("frames", [ROWS - 6, ROWS + 6])
def test_a_video_of_another_length_is_refused(folder: Path, frames: int) -> None:
    with_videos(folder)
    write_video(folder / "batch2" / "2-30-640x360.avi", frames, b_frames=0)
    message = str(refusal(folder, source="videos"))
    assert f"2-30-640x360.avi has {frames} frames" in message
    assert f"{ROWS} label lines" in message
    with pytest.raises(DataError, match=f"{frames} frames"):
        list(AffWild2Raw(folder, source="videos").frames("2-30-640x360"))


def test_the_tolerance_grows_with_the_video(folder: Path) -> None:
    path, crops = label_file(folder), folder / "cropped_aligned" / "10-60-1280x720"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[1:2] * 1000]) + "\n")
    last = (crops / "00001.jpg").read_bytes()
    (crops / "01010.jpg").write_bytes(last)
    AffWild2Raw(folder).check()
    (crops / "01011.jpg").write_bytes(last)
    assert "1000 label lines" in str(refusal(folder))


def test_a_label_file_that_is_cut_short_is_refused(folder: Path) -> None:
    path = label_file(folder)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:3]) + "\n")
    message = str(refusal(folder))
    assert str(path) in message
    assert "2 label lines" in message
    assert "go up to 8" in message


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (2, "0,1,0,0,1,0,0,0,1,0,1"),
        (2, "0,1,0,0,1,0,0,0,1,0,1,0,0"),
        (5, "0,1,2,0,1,0,0,0,1,0,1,0"),
        (5, "0,1,-2,0,1,0,0,0,1,0,1,0"),
        (5, "0,1,0.5,0,1,0,0,0,1,0,1,0"),
        (5, "0,1,300,0,1,0,0,0,1,0,1,0"),
        (5, "0,1,,0,1,0,0,0,1,0,1,0"),
        (4, ""),
    ],
)
def test_a_wrong_label_line_is_named(folder: Path, line: int, wrong: str) -> None:
    replace_line(label_file(folder), line, wrong)
    assert f"{label_file(folder)}, line {line}: {wrong!r}" in str(refusal(folder))


def test_every_line_wrong_is_named_too(folder: Path) -> None:
    path = label_file(folder)
    path.write_text("\n".join([path.read_text().splitlines()[0], *["0,1"] * ROWS]) + "\n")
    assert f"{path}, line 2:" in str(refusal(folder))


@pytest.mark.parametrize("wrong", ["8", "-2", "happy", "1,2"])
def test_a_wrong_expression_is_named(folder: Path, wrong: str) -> None:
    path = label_file(folder, kind="EXPR_Classification_Challenge")
    replace_line(path, 5, wrong)
    assert f"{path}, line 5: {wrong!r}" in str(refusal(folder, track="expr"))


def test_seven_is_other_in_the_third_release_alone(tmp_path: Path) -> None:
    for release, allowed in (("abaw2", False), ("abaw3", True)):
        folder = write_folder(tmp_path / release, release)
        path = folder / LAYOUTS[release][0] / LAYOUTS[release][2] / "Train_Set" / "video59_left.txt"
        replace_line(path, 2, "7")
        raw = AffWild2Raw(folder, release=release, track="expr")  # type: ignore[arg-type]
        if allowed:
            assert raw.expressions[next(raw.frames("video59_left")).labels["expression"]] == "Other"
        else:
            assert f"{path}, line 2: '7'" in str(refusal(folder, release=release, track="expr"))


@pytest.mark.parametrize(
    "header", ["AU1,AU2", "AU1,AU1,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26", "valence,arousal"]
)
def test_a_foreign_header_is_named(folder: Path, header: str) -> None:
    replace_line(label_file(folder), 1, header)
    assert f"{label_file(folder)}, line 1: the header" in str(refusal(folder))


@pytest.mark.parametrize("content", ["", "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26\n"])
def test_an_empty_label_file_is_named(folder: Path, content: str) -> None:
    label_file(folder).write_text(content)
    assert str(label_file(folder)) in str(refusal(folder))


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in str(refusal(tmp_path / "nowhere"))
    third = folder / "Third ABAW Annotations"
    validation = third / "AU_Detection_Challenge" / "Validation_Set"
    validation.rename(tmp_path / "kept")
    assert str(validation) in str(refusal(folder))
    validation.mkdir()
    assert str(validation) in str(refusal(folder))
    validation.rmdir()
    (tmp_path / "kept").rename(validation)
    third.rename(tmp_path / "kept")
    assert str(third) in str(refusal(folder))
    (folder / "Third ABAW Annotations.zip").touch()
    error = refusal(folder)
    assert f"{third}.zip is not unpacked" in str(error)
    (tmp_path / "kept").rename(third)
    crops = folder / "cropped_aligned" / "video59_left"
    crops.rename(tmp_path / "kept")
    assert str(crops) in str(refusal(folder))
    crops.mkdir()
    assert f"{crops} has no 00001.jpg" in str(refusal(folder))
    (folder / "cropped_aligned").rename(tmp_path / "all")
    assert str(folder / "cropped_aligned") in str(refusal(folder))


def test_a_missing_video_is_named(folder: Path) -> None:
    with_videos(folder)
    (folder / "new_vids" / "video59.mp4").unlink()
    message = str(refusal(folder, source="videos"))
    assert "video59.mp4 or video59.avi" in message


def test_what_is_there_twice_is_refused(folder: Path) -> None:
    with_videos(folder)
    write_video(folder / "new_vids" / "10-60-1280x720.avi", 2, b_frames=0)
    assert "10-60-1280x720.avi" in str(refusal(folder, source="videos"))
    other = folder / "5th ABAW Annotations" / "AU_Detection_Challenge"
    other.mkdir(parents=True)
    assert str(other) in str(refusal(folder))
    other.rmdir()
    both = label_file(folder).parents[1] / "Validation_Set" / "10-60-1280x720.txt"
    both.write_text(label_file(folder).read_text())
    message = str(refusal(folder))
    assert str(both) in message
    assert "both parts" in message


def test_an_empty_crop_is_named(folder: Path) -> None:
    crop = folder / "cropped_aligned" / "2-30-640x360" / "00004.jpg"
    crop.write_bytes(b"")
    assert str(crop) in str(refusal(folder))
    crop.write_bytes(b"no picture")
    AffWild2Raw(folder).check()  # cheap: pictures are not decoded
    with pytest.raises(DataError, match=r"00004\.jpg"):
        list(AffWild2Raw(folder).frames("2-30-640x360"))


def test_fingerprint_follows_labels_crops_and_settings(folder: Path) -> None:
    def fingerprint(**options: str) -> str:
        return AffWild2Raw(folder, **options).fingerprint("10-60-1280x720")  # type: ignore[arg-type]

    before = fingerprint()
    assert fingerprint() == before
    assert fingerprint(track="expr") != before
    replace_line(label_file(folder), 2, ",".join("1" * 12))
    changed = fingerprint()
    assert changed != before
    (folder / "cropped_aligned" / "10-60-1280x720" / "00008.jpg").unlink()
    assert fingerprint() != changed
    videos = AffWild2Raw(with_videos(folder), source="videos").fingerprint("10-60-1280x720")
    write_video(folder / "batch1" / "10-60-1280x720.mp4", ROWS + 1)
    assert AffWild2Raw(folder, source="videos").fingerprint("10-60-1280x720") != videos
