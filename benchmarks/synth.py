"""Frames a second that one core renders.

python benchmarks/synth.py [--frames 120]
"""

import argparse
import platform
import time

import cv2

from datamodules.synth.clips import Clip


def main() -> None:
    """Print frames a second per picture size; setting up a subject is counted in the second column, 12 frames each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=120)
    frames = parser.parse_args().frames
    cv2.setNumThreads(1)
    print(f"{platform.machine()}, python {platform.python_version()}, OpenCV {cv2.__version__}, one thread")
    print(f"{'size':>6}{'video, frames/s':>20}{'stills, frames/s':>20}")
    for size in (64, 128, 256):
        clip = Clip(1, size=size)
        clip.frame(0)
        start = time.perf_counter()
        for index in range(frames):
            clip.frame(index)
        video = frames / (time.perf_counter() - start)
        start = time.perf_counter()
        for number in range(frames):
            if number % 12 == 0:
                clip = Clip(2 + number // 12, size=size, rates="balanced")
            clip.frame(200 * (number % 12))
        stills = frames / (time.perf_counter() - start)
        print(f"{size:6d}{video:20.0f}{stills:20.0f}")


if __name__ == "__main__":
    main()
