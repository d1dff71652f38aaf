"""The twins by the names of their datasets."""

from collections.abc import Callable
from pathlib import Path

from datamodules.synth.disfa import write_disfa

#: Each renders a twin; its signature is what synthesize.py and ``synth:`` roots take.
WRITERS: dict[str, Callable[..., Path]] = {"disfa": write_disfa}
