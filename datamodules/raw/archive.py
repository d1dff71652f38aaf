"""Whether a folder is the right dataset's, is unpacked and is all of it: what the parsers' checks share."""

import re
from collections.abc import Mapping
from pathlib import Path

from datamodules.errors import DataError
from datamodules.known import Known

#: Titles of the datasets by the names that commands use.
TITLES = {
    "bp4d": "BP4D",
    "bp4d_plus": "BP4D+",
    "disfa": "DISFA",
    "disfa_plus": "DISFA+",
    "affwild2": "Aff-Wild2",
    "caer_s": "CAER-S",
    "multi_pie": "Multi-PIE",
}
# Entries of a root folder that one dataset has and the others have not.
_SIGNS = {
    "bp4d": r"Sequences\(2D\+3D\)|BP4D-training|AU[ -]Intensity[ -]Codes.*|BP4D-AUIntensityCodes",
    "bp4d_plus": r"2D\+3D|IRFeatures|Physiology|Thermal",
    "disfa": r"Videos?_(Left|Right)Camera|ActionUnit_Labels",
    "disfa_plus": r"DISFAPlusDataset",
    "affwild2": r"cropped_aligned.*|annotations|Third ABAW Annotations",
    "caer_s": r"CAER-S",
    "multi_pie": r"session0[1-4]",
}
_ARCHIVE = re.compile(r"\.(zip|z\d\d|tar|tgz|gz|7z|rar|part\d+)$", re.IGNORECASE)


def recognise(root: Path) -> str | None:
    """Name of the dataset whose layout a folder has, by its entries; None where none fits or several do."""
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    found = {dataset for dataset, sign in _SIGNS.items() if any(re.fullmatch(sign, name) for name in names)}
    if {"Images", "Labels"} <= names and any((root / "Labels").glob("SN[0-9][0-9][0-9]")):
        found.add("disfa_plus")
    if {"train", "test"} <= names and any((root / "train" / name).is_dir() for name in ("Anger", "Angry")):
        found.add("caer_s")
    if (root / "data" / "session01").is_dir():
        found.add("multi_pie")
    return found.pop() if len(found) == 1 else None


def absent(root: Path, dataset: str, wanted: Path) -> DataError:
    """The error for a folder of an archive that is not where it should be: finds the likeliest reason.

    Args:
        root: What the user gave as the archive's folder.
        dataset: Whose archive it should be.
        wanted: The folder, in ``root``.
    """
    title = TITLES[dataset]
    if not root.exists():
        return DataError(f"{root} does not exist", f"point --raw to {title}'s root folder")
    if not root.is_dir():
        return DataError(f"{root} is a file, not a folder", f"unpack {title}'s archive, and point --raw to the folder")
    if (other := recognise(root)) not in (None, dataset):
        return DataError(
            f"{root} has the layout of {TITLES[str(other)]}, not of {title}: {wanted.name} is missing",
            f"use python experiments/prepare.py {other} --raw {root}, or point --raw to {title}'s root folder",
        )
    for packed in sorted(wanted.parent.glob("*")) if wanted.parent.is_dir() else []:
        if packed.is_file() and _ARCHIVE.search(packed.name) and _stem(packed.name) == wanted.name:
            return DataError(f"{packed} is not unpacked", f"unpack it so that the folder {wanted} exists")
    inner = wanted.relative_to(root)
    for near in (root.parent, *sorted(path for path in root.iterdir() if path.is_dir())):
        if (near / inner).is_dir():
            return DataError(f"{wanted} is missing; {near / inner} exists", f"point --raw to {near}")
    return DataError(f"{wanted} is missing", "unpack the archive so that this folder exists, spelled like this")


def check_published(
    known: Known, rows: Mapping[str, int], sequences: Mapping[str, int] | None = None, count: int | None = None
) -> None:
    """Hold an archive to what is known about the published one; raises `DataError` for the first difference.

    Args:
        known: The published numbers; what is not known is not checked.
        rows: Subject to number of label rows.
        sequences: Name of a sequence to its number of label rows over all subjects.
        count: Number of coded sequences.
    """
    remedy = "complete the archive, or leave out --edition published"
    for subject, found in rows.items():
        if known.subjects and subject not in known.subjects:
            raise DataError(f"{subject} is no subject of the published archive", remedy)
        if (expected := known.rows.get(subject, found)) != found:
            raise DataError(f"{subject} has {found} label rows, in the published archive {expected}", remedy)
    if missing := sorted(set(known.subjects) - set(rows)):
        raise DataError(f"{', '.join(missing)} of the published archive are missing", remedy)
    for name, found in (sequences or {}).items():
        if (expected := known.sequence_rows.get(name, found)) != found:
            raise DataError(f"all {name} have {found} label rows, in the published archive {expected}", remedy)
    if count is not None and known.sequences not in (None, count):
        raise DataError(f"{count} sequences are coded, in the published archive {known.sequences}", remedy)


def read_text(path: Path) -> list[str]:
    """Lines of a label file without empty ones at its end; raises `DataError` when it cannot be read or has none."""
    remedy = "restore the label file from the archive"
    try:
        lines = path.read_bytes().decode("utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", remedy) from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise DataError(f"{path} is empty", remedy)
    return lines


def _stem(name: str) -> str:
    """Name without the endings of archives: ``AUCoding.tar.gz`` and ``AUCoding.zip`` -> ``AUCoding``."""
    while match := _ARCHIVE.search(name):
        name = name[: match.start()]
    return name
