"""SynthFACS as a raw dataset: rendered on demand, one clip a subject.

Nothing lies on disk; a clip's name is its subject, and `prepare` reads it like any other dataset.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from datamodules.errors import DataError
from datamodules.raw.records import FrameRecord
from datamodules.synth.behaviour import SYNTH_AUS, Rates
from datamodules.synth.clips import render_clip


class SynthFACSSource:
    """Rendered faces, a `RawDataset`: AUs 1 2 4 5 6 7 9 10 12 14 15 17 20 23 24 25 26.

    Args:
        subjects: How many; identities teach more than frames do, so prefer many subjects with few frames each.
        frames: Frames a subject.
        seed: Every picture and label follows from it.
        size: Side of the pictures in pixels.
        rates: ``balanced`` (15 to 40 % of frames at level 1 or more) or ``published`` base rates.
        stride: Frames of the label process (20 a second) between two that are rendered; 200 gives independent stills.
        coder_noise: Whether a coder's delays and one-level errors are in the labels.
        independent: Draw AUs independently of each other.
    """

    name = "synth_facs"
    edition = "twin"
    release = ""
    licence = "none: rendered by this software, nobody is shown"
    expressions: tuple[str, ...] = ()
    delivers: Literal["landmarks", "box", "crop", ""] = "landmarks"
    root = Path("synth:synth_facs")

    def __init__(
        self,
        subjects: int = 200,
        frames: int = 12,
        seed: int = 0,
        size: int = 128,
        rates: Rates = "balanced",
        stride: int = 200,
        coder_noise: bool = True,
        independent: bool = False,
    ) -> None:
        self.subjects, self.frames_per_subject, self.seed, self.size = subjects, frames, seed, size
        self.rates, self.stride, self.coder_noise, self.independent = rates, stride, coder_noise, independent
        self.label_columns = [f"AU{au:02d}_intensity" for au in SYNTH_AUS]

    def check(self) -> None:
        """Refuse settings that nothing can be rendered with; raises `DataError`."""
        for key, value, least, most in (
            ("subjects", self.subjects, 1, 99_999),
            ("frames", self.frames_per_subject, 1, 1_000_000),
            ("seed", self.seed, 0, 2**32 - 1),
            ("size", self.size, 32, 2048),
            ("stride", self.stride, 1, 1_000_000),
        ):
            if not least <= value <= most:
                raise DataError(f"synth_facs: {key}={value} is out of range", f"give a {key} from {least} to {most}")
        if self.rates not in get_args(Rates):
            raise DataError(f"synth_facs: rates={self.rates} is unknown", f"give one of {', '.join(get_args(Rates))}")

    def clips(self) -> list[str]:
        """``S0001``, ``S0002``, ..."""
        return [f"S{k:04d}" for k in range(1, self.subjects + 1)]

    def shard(self, clip: str) -> str:
        """The clip's name: one file a subject."""
        return clip

    def count(self, clip: str) -> int:
        """Frames of every clip."""
        return self.frames_per_subject

    def fingerprint(self, clip: str) -> str:
        """All settings: a clip follows from them."""
        return repr(sorted(vars(self).items()))

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        """Render a clip; ``frame`` is the number in the label process, a multiple of ``stride``."""
        number = re.fullmatch(r"S(\d{4,5})", clip)
        if number is None:
            raise DataError(f"synth_facs: no clip {clip}", "clips are named S0001, S0002, ...")
        rendered = render_clip(
            int(number[1]),
            self.frames_per_subject,
            seed=self.seed,
            size=self.size,
            rates=self.rates,
            stride=self.stride,
            coder_noise=self.coder_noise,
            independent=self.independent,
        )
        for k, picture in enumerate(rendered):
            yield FrameRecord(
                subject=clip,
                sequence=clip,
                frame=k * self.stride,
                pts=k * self.stride / 20.0,
                image=picture.image,
                landmarks=picture.landmarks,
                labels={f"AU{au:02d}_intensity": level for au, level in picture.intensity.items()},
                occluded=picture.occluded,
            )
