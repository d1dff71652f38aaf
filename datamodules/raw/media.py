"""Pictures and videos of raw datasets, read exactly: every frame counted, nothing guessed where a file is damaged."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from datamodules.errors import DataError

_RESTORE_VIDEO = "restore the video from the archive"
_RESTORE_IMAGE = "restore it from the archive, or remove it: its frame then becomes a flagged row"


def decode(video: Path) -> Iterator[tuple[float, np.ndarray]]:
    """Every frame of a video, sequentially: seeking lands on wrong frames in many files.

    Frames stand upright as players show them: a telephone held upright writes them lying, and says so.

    Args:
        video: File in any format that FFmpeg reads.

    Yields:
        Presentation time in seconds (NaN where the file has none) and the (H, W, 3) uint8 RGB picture.

    Raises:
        DataError: When the file is no video, or a frame is damaged.
    """
    count = 0
    with _open(video) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # processes are the parallelism; frame threads would hold frames
        stream.codec_context.options = {"err_detect": "explode"}  # damaged pictures are errors, not grey patches
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise _unreadable(video, count, "damaged")
                picture = frame.to_ndarray(format="rgb24")
                if turns := frame.rotation // 90 % 4:
                    picture = np.ascontiguousarray(np.rot90(picture, turns))
                yield float("nan") if frame.time is None else float(frame.time), picture
                count += 1
        except av.FFmpegError as error:
            raise _unreadable(video, count, error.strerror) from error


def count_packets(video: Path) -> int:
    """Frames in the file by its packets, undecoded: headers of cut or edited files tell other numbers.

    Raises:
        DataError: When the file is no video, or cannot be read to its end.
    """
    with _open(video) as container:
        try:
            return sum(1 for packet in container.demux(video=0) if packet.size)
        except av.FFmpegError as error:
            raise DataError(f"{video} cannot be read: {error.strerror}", _RESTORE_VIDEO) from error


def read_image(source: Path | bytes, name: str = "") -> np.ndarray:
    """A picture in one form, whatever its file holds: grey, colour or colour with alpha, 8 or 16 bits.

    Args:
        source: A file, or what one contains.
        name: What messages call it where ``source`` is bytes.

    Returns:
        (H, W, 3) uint8 RGB; alpha is left out, 16 bits are scaled to 8.

    Raises:
        DataError: When there is no such file, or it is empty, cut short or no picture.
    """
    name = name or (str(source) if isinstance(source, Path) else "a picture")
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}", _RESTORE_IMAGE) from error
    if not data:
        raise DataError(f"{name} is empty", _RESTORE_IMAGE)
    if _is_cut(data):
        raise DataError(f"{name} is cut short: its end is missing", _RESTORE_IMAGE)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        image = None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{name} cannot be read as picture", _RESTORE_IMAGE)
    if image.dtype == np.uint16:
        image = np.round(image / 257).astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """Files of a folder by their number, in ascending order, however many zeros are before it.

    Args:
        folder: Where to look, not deeper.
        pattern: Must match the whole file name; its first group is the number. Other files are ignored.

    Raises:
        DataError: When the folder cannot be read, or two files have the same number.
    """
    files: dict[int, str] = {}
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}", "restore the folder from the archive") from error
    for name in names:
        if match := pattern.fullmatch(name):
            if (number := int(match[1])) in files:
                raise DataError(
                    f"{folder / files[number]} and {name} are both of number {number}", "remove one of the two"
                )
            files[number] = name
    return {number: folder / files[number] for number in sorted(files)}


def _is_cut(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end: decoders fill the rest with grey and say nothing."""
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")  # no end of image after the last start of scan
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    return False


def _open(video: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(video))
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{video} cannot be opened as video: {error.strerror}", _RESTORE_VIDEO) from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{video} has no video stream", _RESTORE_VIDEO)
    return container


def _unreadable(video: Path, frame: int, why: str) -> DataError:
    return DataError(
        f"{video}: frame {frame} (from 0) cannot be read: {why}", f"{_RESTORE_VIDEO}; subjects that are done are kept"
    )
