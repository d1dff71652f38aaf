"""Pictures and videos, read exactly. The cases of damaged videos are in test_disfa.py."""

import re
import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.media import count_packets, decode, numbered, read_image

RED, GREEN, BLUE = (250, 10, 20), (30, 240, 40), (50, 60, 230)


def encode(pixels: np.ndarray, ending: str = ".png", *settings: int) -> bytes:
    done, data = cv2.imencode(ending, pixels, settings)
    assert done
    return data.tobytes()


def stripes() -> np.ndarray:
    """(8, 24, 3) uint8 RGB: red, green and blue thirds."""
    return np.repeat(np.array([[RED, GREEN, BLUE]], np.uint8).repeat(8, axis=0), 8, axis=1)


def test_colours_come_in_rgb_whatever_the_channels_and_bits(tmp_path: Path) -> None:
    bgr = np.ascontiguousarray(stripes()[..., ::-1])
    np.testing.assert_array_equal(read_image(encode(bgr)), stripes())
    np.testing.assert_array_equal(read_image(encode(np.dstack([bgr, np.full((8, 24), 7, np.uint8)]))), stripes())
    np.testing.assert_array_equal(read_image(encode(bgr.astype(np.uint16) * 257)), stripes())
    path = tmp_path / "one.jpg"
    path.write_bytes(encode(bgr, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert np.abs(image[:, [3, 11, 19]].astype(int) - [RED, GREEN, BLUE]).max() < 6


def test_sixteen_bits_are_rounded() -> None:
    values = np.array([[0, 128, 129, 1000, 30000, 65535]], np.uint16)
    assert read_image(encode(values))[0, :, 0].tolist() == [0, 0, 1, 4, 117, 255]  # value / 257


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_becomes_three_equal_channels(bits: int) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    image = read_image(encode(grey if bits == 8 else grey.astype(np.uint16) * 257))
    assert image.shape == (8, 8, 3)
    np.testing.assert_array_equal(image, grey[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("ending", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.0, 0.4, 0.7, 0.97])
def test_a_picture_cut_short_is_named_not_filled_with_grey(tmp_path: Path, ending: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(noise, ending)
    path = tmp_path / f"0012{ending}"
    path.write_bytes(data[: round(kept * len(data))])
    with pytest.raises(DataError, match=r"0012.* (is empty|is cut short)") as caught:
        read_image(path)
    assert "remove it: its frame then becomes a flagged row" in caught.value.remedy


def test_bytes_after_the_end_of_a_jpeg_are_no_fault() -> None:
    data = encode(stripes(), ".jpg")
    np.testing.assert_array_equal(read_image(data + bytes(300)), read_image(data))


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"F001\.zip: T1/1\.jpg cannot be read"):
        read_image(b"<html>not found</html>", "F001.zip: T1/1.jpg")
    with pytest.raises(DataError, match="nowhere"):
        read_image(tmp_path / "nowhere.jpg")


def test_files_are_found_by_number(tmp_path: Path) -> None:
    for name in ("010.jpg", "0002.jpg", "1.jpg", "2440.jpg", "2440.obj", "x3.jpg", "4.jpg.part", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "5.jpg").mkdir()
    found = numbered(tmp_path, re.compile(r"(\d+)\.jpg"))
    assert [(number, path.name) for number, path in found.items()] == [
        (1, "1.jpg"),
        (2, "0002.jpg"),
        (10, "010.jpg"),
        (2440, "2440.jpg"),
    ]
    (tmp_path / "02.jpg").touch()
    with pytest.raises(DataError, match=r"0002\.jpg and 02\.jpg"):
        numbered(tmp_path, re.compile(r"(\d+)\.jpg"))
    with pytest.raises(DataError, match="nowhere"):
        numbered(tmp_path / "nowhere", re.compile(r"(\d+)\.jpg"))


def test_videos_are_counted_and_timed(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        for number in range(5):
            picture = np.full((32, 32, 3), 50 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert count_packets(path) == 5
    frames = list(decode(path))
    assert [seconds for seconds, _ in frames] == [0, 0.04, 0.08, 0.12, 0.16]
    assert [round(picture.mean() / 50) for _, picture in frames] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, -1), (180, 2), (270, 1)])
def test_a_video_held_upright_stands_upright(tmp_path: Path, degrees: int, turns: int) -> None:
    path = tmp_path / "held.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        lying = np.zeros((32, 48, 3), np.uint8)
        lying[:16, :16] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(lying, format="rgb24")))
        container.mux(stream.encode())
    # What a telephone writes: a matrix in the track's header that turns the picture clockwise.
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    data[place : place + 36] = struct.pack(">9i", *(v << 16 for v in (cos, sin, 0, -sin, cos, 0, 0, 0)), 1 << 30)
    path.write_bytes(data)
    ((_, image),) = decode(path)
    expected = np.rot90(lying, turns)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 12


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    path.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"clip\.avi cannot be opened as video"):
        count_packets(path)
    with pytest.raises(DataError, match=r"clip\.avi cannot be opened as video"):
        next(decode(path))
