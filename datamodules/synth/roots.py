"""``data.root``: the path of a frame store, or ``synth:<dataset>?key=value&...``, which is rendered and prepared once.

Keys are the arguments of `SynthFACSSource` (``synth_facs``) or `write_disfa` (``disfa``, a twin in DISFA's layout), as
in ``synth:synth_facs?subjects=486&frames=20&seed=0&size=128``; those left out have their defaults. The store lies in
``$FACSUITE_CACHE`` (default ``~/.cache/facsuite``) under a hash of the settings and of the code that makes it.
"""

import hashlib
import inspect
import json
import os
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import filelock

from datamodules.errors import DataError
from datamodules.jobs import usable_cpus
from datamodules.prepare import prepare
from datamodules.raw.disfa import DISFARaw
from datamodules.store import FrameStore
from datamodules.synth.disfa import check_settings, write_disfa
from datamodules.synth.synth_facs import SynthFACSSource

PREFIX = "synth:"

_MAKERS: dict[str, Any] = {"synth_facs": SynthFACSSource.__init__, "disfa": write_disfa}
_NOT_KEYS = {"self", "out", "workers", "progress"}
_CODE = ("synth", "raw", "align.py", "facs.py", "prepare.py", "store.py")


def check_root(root: str) -> None:
    """Look at a root without long work; raises `DataError` for a missing or foreign folder, or a bad synth root."""
    if not root.startswith(PREFIX):
        FrameStore.check_root(root)
        return
    dataset, options = parse_root(root)
    if dataset == "synth_facs":
        SynthFACSSource(**options).check()
    else:
        check_settings(**{key: options[key] for key in ("subjects", "frames", "seed", "size")})


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
    dataset, options = parse_root(root)
    cache = Path(os.environ.get("FACSUITE_CACHE") or Path.home() / ".cache" / "facsuite")
    out = cache / f"{dataset}-{_digest(options)}"
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cache / f"{out.name}.lock"):
        if not out.exists():
            _make(out, dataset, options, progress)
    return out


def parse_root(root: str) -> tuple[str, dict[str, Any]]:
    """Dataset and settings of a synth root, defaults filled in; raises `DataError` for unknown keys and wrong types."""
    dataset, _, query = root.removeprefix(PREFIX).partition("?")
    if dataset not in _MAKERS:
        raise DataError(f"{root}: there is no synthetic dataset {dataset!r}", f"choose from {', '.join(_MAKERS)}")
    hints = get_type_hints(_MAKERS[dataset])
    parameters = inspect.signature(_MAKERS[dataset]).parameters
    options = {key: parameter.default for key, parameter in parameters.items() if key not in _NOT_KEYS}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise DataError(f"{root}: {error}", f"write {PREFIX}{dataset}?key=value&key=value") from error
    for key, text in pairs:
        if key not in options:
            raise DataError(f"{root}: unknown key {key!r}", f"choose from {', '.join(options)}")
        options[key] = _value(root, key, text, hints[key])
    return dataset, options


def _value(root: str, key: str, text: str, kind: Any) -> Any:
    allowed = get_args(kind) if get_origin(kind) is Literal else {bool: ("true", "false")}.get(kind)
    if allowed is not None:
        if text not in allowed:
            raise DataError(f"{root}: {key}={text!r} is not allowed", f"choose from {', '.join(allowed)}")
        return text == "true" if kind is bool else text
    try:
        return int(text)
    except ValueError as error:
        raise DataError(f"{root}: {key}={text!r} is no whole number", f"write {key}=1, for example") from error


def _digest(options: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for name in _CODE:
        part = files("datamodules") / name
        for source in sorted(part.iterdir(), key=lambda path: path.name) if part.is_dir() else [part]:
            if source.name.endswith(".py"):
                digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _make(out: Path, dataset: str, options: dict[str, Any], progress: bool) -> None:
    cpus = usable_cpus()
    workers = cpus if cpus > 1 else 0
    if dataset == "synth_facs":
        prepare(SynthFACSSource(**options), out, size=options["size"], workers=workers, progress=progress)
        return
    raw = out.with_name(f"{out.name}-raw")
    shutil.rmtree(raw, ignore_errors=True)
    write_disfa(raw, **options, workers=workers, progress=progress)
    source = DISFARaw(raw, options["camera"], edition="twin")
    prepare(source, out, size=options["size"], workers=workers, progress=progress)
    shutil.rmtree(raw)
