"""Contact sheet of SynthFACS: subjects down, neutral face and action units (level 5) across.

python -m datamodules.synth.sheet --out docs/synth_facs.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from datamodules.synth.clips import SYNTH_AUS, Clip


def contact_sheet(subjects: int, seed: int, size: int) -> np.ndarray:
    """(subjects * size + caption, 18 * size, 3) uint8 RGB."""
    rows = []
    for subject in range(1, subjects + 1):
        clip = Clip(subject, seed=seed, size=size)
        rows.append(np.hstack([clip.still({au: 5.0}).image for au in (0, *SYNTH_AUS)]))
    caption = np.full((18, rows[0].shape[1], 3), 255, np.uint8)
    for k, text in enumerate(["neutral", *(f"AU{au}" for au in SYNTH_AUS)]):
        cv2.putText(caption, text, (k * size + 8, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([caption, *rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the sheet as PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=96)
    args = parser.parse_args(arguments)
    if args.out.suffix != ".png" or not args.out.absolute().parent.is_dir():
        parser.error(f"--out {args.out}: give a path that ends in .png, in a folder that exists")
    picture = contact_sheet(args.subjects, args.seed, args.size)
    cv2.imwrite(str(args.out), picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
