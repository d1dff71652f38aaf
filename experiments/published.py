"""The published numbers of `published.yaml`, and whether a run may be set against them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PUBLISHED = Path(__file__).with_name("published.yaml")
FACTS = ("label_threshold", "camera", "frame_set", "folds", "split", "threshold")


@dataclass(frozen=True)
class PublishedRow:
    """One printed row.

    Attributes:
        id: Unique name.
        paper: Key of the printing paper; `table` is its number there.
        citation: The paper as a reader would cite it.
        method: Name of the method as printed.
        dataset: Dataset that it was tested on.
        metric: `f1`, `icc`, `mae` or `expression_accuracy`.
        aus: Action units of the table.
        expressions: Classes of the table, where it is about expressions.
        values: `AU01` -> value as a fraction (levels for `mae`); empty where only the mean is known.
        mean: Printed mean, on the same scale; None where none was printed.
        recomputed: Mean of `values` where it contradicts the printed one, else None.
        protocol: Facts that a comparison depends on; None = not stated, absent = not applicable.
        source: Where the printing paper took the number from; empty = its own.
        notes: Doubts about the row.
        table_notes: Doubts about all rows of its table.
    """

    id: str
    paper: str
    citation: str
    table: int
    method: str
    dataset: str
    metric: str
    aus: tuple[int, ...]
    expressions: tuple[str, ...]
    values: dict[str, float]
    mean: float | None
    recomputed: float | None
    protocol: dict[str, Any]
    source: str
    notes: str
    table_notes: str


def load_published(path: Path = PUBLISHED) -> list[PublishedRow]:
    """All rows in the order of the file; percentages become fractions."""
    content = yaml.safe_load(path.read_text())
    rows = []
    for table in content["tables"]:
        scale = {"percent": 0.01, "fraction": 1.0}[table["unit"]]
        for row in table["rows"]:
            values = [value * scale for value in row.get("values", [])]
            names = [f"AU{au:02d}" for au in table["aus"]]
            rows.append(
                PublishedRow(
                    **{key: row[key] for key in ("id", "method")},
                    **{key: table[key] for key in ("paper", "table", "dataset", "metric")},
                    citation=content["papers"][table["paper"]]["citation"],
                    aus=tuple(table["aus"]),
                    expressions=tuple(table.get("expressions", [])),
                    values=dict(zip(names, values, strict=True)) if values else {},
                    mean=None if row["mean"] is None else row["mean"] * scale,
                    recomputed=row["recomputed"] * scale if "recomputed" in row else None,
                    protocol={fact: row.get(fact, value) for fact, value in table["protocol"].items()},
                    source=row.get("source", ""),
                    notes=row.get("notes", ""),
                    table_notes=table.get("notes", ""),
                )
            )
    return rows


def differences(row: PublishedRow, facts: Mapping[str, Any]) -> list[str]:
    """Facts in which a run departs from a published row, as `camera: left vs right` (published vs run).

    A fact that the publication does not state cannot differ. A fact that the run does not state does: a number is not
    comparable by default.

    Args:
        row: The published row.
        facts: Of the run: `edition` (`published` for the real recordings), `task` (`labels` where labels are
            reconstructed from themselves), `aus`, `expressions`, `label_threshold`, `camera`, `frame_set`, `folds`,
            the number of finished folds, `split`, the name of their subject lists, and decision `threshold`.
    """
    found = []
    for fact in FACTS:
        published, ours = row.protocol.get(fact), facts.get(fact)
        if published is not None and published != ours:
            found.append(f"{fact.replace('_', ' ')}: {published} vs {'unknown' if ours is None else ours}")
    if facts.get("task") == "labels":
        found.insert(0, "seen: pictures vs labels")
    if facts.get("edition") != "published":
        found.insert(0, f"data: published vs {facts.get('edition') or 'unknown'}")
    if row.aus and set(row.aus) != set(facts["aus"]):
        found.append(f"AU set: {_listed(row.aus)} vs {_listed(facts['aus'])}")
    if row.expressions and set(row.expressions) != set(facts["expressions"]):
        found.append(f"expressions: {' '.join(row.expressions)} vs {' '.join(facts['expressions']) or 'none'}")
    return found


def unstated(row: PublishedRow, facts: Mapping[str, Any]) -> list[str]:
    """Facts that a comparison depends on, stated by the run and not by the publication."""
    open_facts = [fact for fact in FACTS if fact in row.protocol and row.protocol[fact] is None]
    return [fact.replace("_", " ") for fact in open_facts if facts.get(fact) is not None]


def _listed(aus: Any) -> str:
    return " ".join(str(au) for au in sorted(aus))
