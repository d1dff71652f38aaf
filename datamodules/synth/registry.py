"""The twins by the names of their datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from datamodules.synth import bp4d, bp4d_plus, disfa, disfa_plus


class Twin(NamedTuple):
    """A twin of a dataset.

    Attributes:
        write: Renders it; the signature is what synthesize.py and ``synth:`` roots take.
        check: Takes the same settings and raises `DataError` for those that nothing can be rendered with.
    """

    write: Callable[..., Path]
    check: Callable[..., None]


TWINS: dict[str, Twin] = {
    "bp4d": Twin(bp4d.write_bp4d, bp4d.check_settings),
    "bp4d_plus": Twin(bp4d_plus.write_bp4d_plus, bp4d_plus.check_settings),
    "disfa": Twin(disfa.write_disfa, disfa.check_settings),
    "disfa_plus": Twin(disfa_plus.write_disfa_plus, disfa_plus.check_settings),
}
