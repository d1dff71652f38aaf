"""What becomes of the trials of a sweep: a table that changes on a terminal, a line for each event elsewhere."""

import time
from collections.abc import Sequence
from typing import Literal

import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.sweeping.plan import Sweep, Trial

Status = Literal["waiting", "running", "elsewhere", "queued", "done", "failed"]
WIDTH = 160  # of what no terminal shows


class Board:
    """Shows trials by experiment (rows) and fold and seed (columns). A context: the table moves inside it.

    Args:
        sweep: Says which score is shown: the best of an epoch, on validation subjects, which choose.
        trials: All of them.
        console: Where to.
    """

    def __init__(self, sweep: Sweep, trials: Sequence[Trial], console: Console | None = None) -> None:
        self.sweep, self.trials = sweep, list(trials)
        self.console = console or Console()
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, WIDTH)
        self.status: dict[str, Status] = {str(trial.path): "waiting" for trial in trials}
        self.codes: dict[str, int] = {}
        self._shown: dict[str, str] = {}
        self._began = time.monotonic()
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def set(self, trial: Trial, status: Status, code: int | None = None) -> None:
        """Tell what became of a trial, with its exit code where it failed."""
        key = str(trial.path)
        news = self.status[key] != status
        self.status[key] = status
        if code is not None:
            self.codes[key] = code
        if news and not self.console.is_terminal:
            said = self.cell(trial) if status in ("done", "failed") else ""
            done = sum(value == "done" for value in self.status.values())
            self.console.print(
                f"[{done}/{len(self.trials)}] {key}: {status} {said}".rstrip(), markup=False, highlight=False
            )
        self.refresh()

    def refresh(self) -> None:
        """Show the table as it is now, where it can move."""
        if self.console.is_terminal and self._live.is_started:
            self._live.update(self.table(), refresh=True)

    def having(self, *status: Status) -> list[Trial]:
        """Trials of which this became."""
        return [trial for trial in self.trials if self.status[str(trial.path)] in status]

    def score(self, trial: Trial) -> float | None:
        """The best epoch's score of the sweep's metric; None where none was logged."""
        name, highest = self.sweep.metric
        values = trial.curve().get(name, pd.Series(dtype=float)).dropna()
        return None if values.empty else float(values.max() if highest else values.min())

    def cell(self, trial: Trial) -> str:
        """What the table says of a trial."""
        key = str(trial.path)
        status = self.status[key]
        if status == "running":
            seen = trial.curve()["epoch"]
            return f"{0 if seen.empty else int(seen.max()) + 1}/{trial.epochs or '?'}"
        if status == "failed":
            return f"failed ({self.codes.get(key, '?')})"
        if status == "done":
            if key not in self._shown:
                score = self.score(trial)
                self._shown[key] = "done" if score is None else f"{score:.3f}"
            return self._shown[key]
        return "·" if status == "waiting" else status

    def table(self) -> Table:
        """The table as it is now."""
        parts = list(dict.fromkeys(trial.part for trial in self.trials))
        experiments = list(dict.fromkeys(trial.experiment for trial in self.trials))
        counted = ", ".join(
            f"{number} {status}"
            for status in ("done", "running", "elsewhere", "queued", "failed", "waiting")
            if (number := sum(value == status for value in self.status.values()))
        )
        spent = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self._began))
        table = Table(title=f"{self.sweep.name}: {counted}; {spent}", title_justify="left", caption_justify="left")
        table.caption = f"{self.sweep.metric[0]} of the best epoch; epochs of what runs"
        table.add_column("run", overflow="fold")
        for part in parts:
            table.add_column(part.replace("fold", "P").replace("-seed", " s"), justify="right")
        table.add_column("mean", justify="right")
        cells = {(trial.experiment, trial.part): trial for trial in self.trials}
        for experiment in experiments:
            own = [cells[experiment, part] for part in parts if (experiment, part) in cells]
            scores = [self.score(trial) for trial in own if self.status[str(trial.path)] == "done"]
            known = [score for score in scores if score is not None]
            mean = f"{sum(known) / len(known):.3f}" if len(known) == len(own) else ""
            row = [self.cell(cells[experiment, part]) if (experiment, part) in cells else "" for part in parts]
            table.add_row(experiment, *row, mean)
        return table
