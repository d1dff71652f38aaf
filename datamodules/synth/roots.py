"""``data.root``: the path of a frame store, or ``synth:<dataset>?key=value&...``, which is rendered and prepared once.

Keys are the arguments of the dataset's twin (`datamodules.synth.registry`, or `SynthFACSSource` for ``synth_facs``) and
of its parser (`datamodules.raw.registry`), and ``preset``, the crop: ``synth:synth_facs?subjects=486&frames=20``,
``synth:multi_pie?subjects=10&cameras=05_1,14_0``. Those left out have their defaults; ``size`` is the side of pictures
and crops. The store lies in ``$FACSUITE_CACHE`` (default ``~/.cache/facsuite``) under a hash of the settings and of the
code that makes it. Faces are where they were rendered (``--faces truth`` of prepare.py).
"""

import hashlib
import inspect
import json
import os
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import filelock

from datamodules.align import PRESETS
from datamodules.errors import DataError
from datamodules.jobs import usable_cpus
from datamodules.prepare import prepare
from datamodules.raw.registry import RAW
from datamodules.store import FrameStore
from datamodules.synth.registry import TWINS
from datamodules.synth.synth_facs import SynthFACSSource

PREFIX = "synth:"

_DATASETS = ("synth_facs", *TWINS)
# Not of a rendering: where it goes, and what only real archives have.
_NOT_KEYS = {"self", "out", "root", "workers", "progress", "with_faults", "edition", "boxes"}
_CODE = ("synth", "raw", "faces", "align.py", "presets.yaml", "facs.py", "prepare.py", "shards.py", "store.py")


class SynthRoot(NamedTuple):
    """A parsed ``synth:`` root, defaults filled in.

    Attributes:
        dataset: Name of the dataset.
        twin: Arguments of the rendering: of the twin's writer, or of `SynthFACSSource`.
        raw: Arguments of the parser besides the folder.
        preset: Crop preset; None: the one that fits the faces.
    """

    dataset: str
    twin: dict[str, Any]
    raw: dict[str, Any]
    preset: str | None


def check_root(root: str) -> None:
    """Look at a root without long work; raises `DataError` for a missing or foreign folder, or a bad synth root."""
    if not root.startswith(PREFIX):
        FrameStore.check_root(root)
        return
    parsed = parse_root(root)
    if parsed.dataset == "synth_facs":
        SynthFACSSource(**parsed.twin).check()
        return
    check = TWINS[parsed.dataset].check
    check(**{key: parsed.twin[key] for key in inspect.signature(check).parameters})


def resolve_root(root: str, progress: bool = True) -> Path:
    """Path of the store that ``root`` means; renders and prepares a synth root on its first use.

    Processes that ask at the same time wait for the one that renders. What was rendered is kept; a killed attempt is
    repeated (SynthFACS goes on after its last finished subject).

    Args:
        root: See the module.
        progress: Whether to show progress bars.

    Raises:
        DataError: As `check_root`.
    """
    check_root(root)
    if not root.startswith(PREFIX):
        return Path(root)
    parsed = parse_root(root)
    cache = Path(os.environ.get("FACSUITE_CACHE") or Path.home() / ".cache" / "facsuite")
    out = cache / f"{parsed.dataset}-{_digest(parsed)}"
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cache / f"{out.name}.lock"):
        if not out.exists():
            _make(out, parsed, progress)
    return out


def parse_root(root: str) -> SynthRoot:
    """Dataset and settings of a synth root; raises `DataError` for unknown keys and wrong types."""
    dataset, _, query = root.removeprefix(PREFIX).partition("?")
    if dataset not in _DATASETS:
        raise DataError(f"{root}: there is no synthetic dataset {dataset!r}", f"choose from {', '.join(_DATASETS)}")
    makers = (SynthFACSSource,) if dataset == "synth_facs" else (TWINS[dataset].write, RAW[dataset])
    defaults, hints = zip(*map(_signature, makers), strict=True)
    known = {"preset": str, **{key: hint for found in hints for key, hint in found.items()}}
    given: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise DataError(f"{root}: {error}", f"write {PREFIX}{dataset}?key=value&key=value") from error
    for key, text in pairs:
        if key not in known:
            raise DataError(f"{root}: unknown key {key!r}", f"choose from {', '.join(known)}")
        given[key] = _value(root, key, text, known[key])
    if given.get("preset", "renet") not in PRESETS:
        raise DataError(f"{root}: there is no crop preset {given['preset']!r}", f"choose from {', '.join(PRESETS)}")
    options = [found | {key: value for key, value in given.items() if key in found} for found in defaults]
    return SynthRoot(dataset, options[0], options[1] if len(options) > 1 else {}, given.get("preset"))


def _signature(maker: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Defaults and types of the arguments that are keys."""
    parameters = inspect.signature(maker).parameters
    hints = get_type_hints(maker.__init__ if inspect.isclass(maker) else maker)
    keys = [key for key in parameters if key not in _NOT_KEYS]
    return {key: parameters[key].default for key in keys}, {key: hints[key] for key in keys}


def _value(root: str, key: str, text: str, kind: Any) -> Any:
    if get_origin(kind) is list:
        return [_value(root, key, part, get_args(kind)[0]) for part in text.split(",")]
    allowed = get_args(kind) if get_origin(kind) is Literal else {bool: ("true", "false")}.get(kind)
    if allowed is not None:
        if text not in allowed:
            raise DataError(f"{root}: {key}={text!r} is not allowed", f"choose from {', '.join(allowed)}")
        return text == "true" if kind is bool else text
    if kind is str:
        return text
    try:
        return int(text)
    except ValueError as error:
        raise DataError(f"{root}: {key}={text!r} is no whole number", f"write {key}=1, for example") from error


def _digest(root: SynthRoot) -> str:
    digest = hashlib.sha256(json.dumps(root, sort_keys=True).encode())
    for name in _CODE:
        part = files("datamodules") / name
        for source in sorted(part.iterdir(), key=lambda path: path.name) if part.is_dir() else [part]:
            if source.name.endswith((".py", ".yaml")):
                digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _make(out: Path, root: SynthRoot, progress: bool) -> None:
    cpus = usable_cpus()
    workers = cpus if cpus > 1 else 0
    how: dict[str, Any] = {"preset": root.preset, "size": root.twin["size"], "workers": workers, "progress": progress}
    if root.dataset == "synth_facs":
        prepare(SynthFACSSource(**root.twin), out, **how)
        return
    raw = out.with_name(f"{out.name}-raw")
    shutil.rmtree(raw, ignore_errors=True)
    TWINS[root.dataset].write(raw, **root.twin, workers=workers, progress=progress)
    prepare(RAW[root.dataset](raw, **root.raw), out, faces="truth", **how)
    shutil.rmtree(raw)
