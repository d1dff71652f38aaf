"""What the files of a W&B run hold, read without the client that wrote them."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32 * 1024  # of LevelDB's log format


def records(path: Path) -> Iterator[Any]:
    """The protobuf records of a ``.wandb`` file, a LevelDB log behind seven bytes of its own."""
    content, position, held = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if (left := BLOCK - position % BLOCK) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        held += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            yield record
            held = b""


def written(path: Path, seconds: float = 20) -> list[Any]:
    """All records of a run that has ended; a process beside this one writes them, the last ones after a moment."""
    deadline = time.monotonic() + seconds
    while True:
        found = list(records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.1)


def read(run: Path) -> dict[str, Any]:
    """Of a run folder of W&B: ``run`` (its record), ``config``, ``summary``, ``history`` (rows), by plain values."""
    (path,) = run.glob("*.wandb")
    found: dict[str, Any] = {"run": None, "config": {}, "summary": {}, "history": []}

    def update(target: dict[str, Any], items: Any) -> None:
        for item in items:
            *groups, last = item.nested_key or [item.key]
            where = target
            for group in groups:
                where = where.setdefault(group, {})
            where[last] = json.loads(item.value_json)

    for record in written(path):
        match record.WhichOneof("record_type"):
            case "run":
                found["run"] = record.run
                update(found["config"], record.run.config.update)
            case "config":
                update(found["config"], record.config.update)
            case "summary":
                update(found["summary"], record.summary.update)
            case "history":
                row: dict[str, Any] = {}
                update(row, record.history.item)
                found["history"].append(row)
    return found
