"""The twins by the names of their datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from datamodules.synth import affwild2, bp4d, bp4d_plus, caer_s, disfa, disfa_plus, multi_pie


class Twin(NamedTuple):
    """A twin of a dataset.

    Attributes:
        write: Renders it; the signature is what synthesize.py and ``synth:`` roots take.
        check: Takes the same settings and raises `DataError` for those that nothing can be rendered with.
    """

    write: Callable[..., Path]
    check: Callable[..., None]


TWINS: dict[str, Twin] = {
    "affwild2": Twin(affwild2.write_affwild2, affwild2.check_settings),
    "bp4d": Twin(bp4d.write_bp4d, bp4d.check_settings),
    "bp4d_plus": Twin(bp4d_plus.write_bp4d_plus, bp4d_plus.check_settings),
    "caer_s": Twin(caer_s.write_caer_s, caer_s.check_settings),
    "disfa": Twin(disfa.write_disfa, disfa.check_settings),
    "disfa_plus": Twin(disfa_plus.write_disfa_plus, disfa_plus.check_settings),
    "multi_pie": Twin(multi_pie.write_multi_pie, multi_pie.check_settings),
}
