"""Frames of videos and pictures as the samples of a network: located, cropped and transformed like those of a store.

A store of the same files (``prepare.py --faces detect``, same preset and side) gives the same samples of the frames
that show a face. Here nothing is written, and nothing is kept but the crops that neighbours need.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, groupby
from typing import NamedTuple

from torch import Tensor

from datamodules.align import Preset
from datamodules.faces import Face, FaceSource
from datamodules.frames import pixels
from datamodules.raw.records import FrameRecord
from datamodules.shards import Clock, crop_landmarks, encoded, places
from datamodules.store import decode_crop
from datamodules.transforms import Frame, Transform


class Seen(NamedTuple):
    """A frame that was looked at.

    Attributes:
        record: The frame, without its picture.
        face: What was found in it.
        crop: The face as a store would give it back; None where none is located.
    """

    record: FrameRecord
    face: Face | None
    crop: Frame | None


def video_of(frame: Seen) -> tuple[str, str]:
    """What the frames of one video share."""
    return frame.record.subject, frame.record.sequence


def seen(records: Iterable[FrameRecord], source: FaceSource, preset: Preset, side: int) -> Iterator[Seen]:
    """Locate and crop the face of every frame.

    Args:
        records: Frames of the first video, of the second, ...
        source: Finds the faces.
        preset: Where a crop puts the face.
        side: Of the crop in pixels.
    """
    clock = Clock()
    for place in places(records, source, preset, side, clock):
        crop = None
        # Through JPEG, since that is what networks are trained and scored on.
        if place.face is not None and place.matrix is not None and (data := encoded(place, side, clock)):
            image = decode_crop(data)
            assert image is not None
            crop = Frame(image, crop_landmarks(place), place.face.box, place.matrix)
        yield Seen(replace(place.record, image=None), place.face, crop)


def samples(frames: Iterable[Seen], transform: Transform, reach: int = 0) -> Iterator[tuple[Seen, Tensor | None]]:
    """Every frame with what a network sees of it, as `datamodules.frames.FrameDataset` gives it.

    Args:
        frames: Of the first video, of the second, ...; without gaps.
        transform: Evaluation crop.
        reach: T > 0 gives clips of the frames -T, 0 and T of a video. A neighbour that the video lacks, or in which no
            face is located, is replaced by the frame itself.

    Yields:
        The frame, and uint8 (3, H, W) or (3, 3, H, W); None where no face is located.
    """
    for _, video in groupby(frames, key=video_of):
        window: deque[Seen | None] = deque([None] * (2 * reach + 1), maxlen=2 * reach + 1)
        for latest in chain(video, [None] * reach):
            window.append(latest)
            if (centre := window[reach]) is None:  # the first is still on its way there
                continue
            crop = centre.crop
            if crop is None:
                yield centre, None
                continue
            around = (window[0], centre, window[-1]) if reach else (centre,)
            clip = [crop if frame is None or frame.crop is None else frame.crop for frame in around]
            yield centre, pixels(transform(clip, (0, 0, 0))[0])
