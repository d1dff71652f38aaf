"""Check a frame store, and look at it. Exit code 1 when something is wrong.

    python experiments/doctor.py data/disfa [--full] [--compare STORE] [--html FILE]

Files, keys, labels, landmarks and pictures are held to the manifest; rows and labels to what is known about the
published archive, or to a twin's truth; folds to the published lists. Pictures that two sides share, label files that
are shifted against their pictures, and frames that others found unusable are found. With ``--compare``, the distance to
the landmarks of another store of the same data is told: delivered against detected ones. The table's facts and faults,
crops with their landmarks and plots stand on a page (STORE.html, one file).
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datamodules.errors import DataError
from datamodules.store import FrameStore
from experiments.examination import comparison, content, reference, timing
from experiments.examination.findings import Case, Check, Finding, Result, carry_out, plural
from experiments.terminal import exit_with

#: What can be looked at only where it is sound itself.
FOUNDATION: dict[str, Check] = {"tables": content.tables}
CHECKS: dict[str, Check] = {
    "keys": content.keys,
    "labels": content.labels,
    "landmarks": content.geometry,
    "faces": content.faces,
    "totals": reference.totals,
    "folds": reference.folds,
    "duplicates": reference.duplicates,
    "bad frames": reference.bad_frames,
    "shards": content.shards,
    "pictures": content.pictures,
}
_SHOWN = 20  # faults and notes of a check that the terminal shows


class Examination(NamedTuple):
    """What came of looking at a store.

    Attributes:
        case: The store.
        results: Of each check, in order.
        timing: How labels and pictures run together; None where the tables are faulty.
    """

    case: Case
    results: list[Result]
    timing: timing.Timing | None

    @property
    def faults(self) -> int:
        """Number of faults."""
        return sum(len(result.faults) for result in self.results)


def main() -> int:
    """Parse the command line, examine, print the table, write the page."""
    parser = argparse.ArgumentParser(
        prog="doctor.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, help="folder that prepare.py made")
    parser.add_argument(
        "--full", action="store_true", help=f"decode every picture, not {content.SAMPLE} spread over the store"
    )
    parser.add_argument("--compare", type=Path, metavar="STORE", help="tell how far its landmarks lie from these")
    parser.add_argument("--html", type=Path, metavar="FILE", help="where to write the page (default: STORE.html)")
    arguments = parser.parse_args()
    FrameStore.check_root(arguments.store)
    page = page_path(arguments.store, arguments.html)
    store, other = FrameStore(arguments.store), None
    if arguments.compare is not None:
        FrameStore.check_root(arguments.compare)
        comparison.check_other(store, other := FrameStore(arguments.compare))
    examination = examine(store, full=arguments.full, other=other)
    print("\n".join(report(examination)))
    if examination.timing is not None:
        from experiments.examination.page import write_page  # matplotlib takes a second

        write_page(examination.case, examination.results, examination.timing, page)
        print(f"page: {page}")
    return 1 if examination.faults else 0


def page_path(store: Path, wanted: Path | None) -> Path:
    """Where the page goes: never into the store, whose files have checksums. Raises `DataError`."""
    root = store.resolve()
    page = root.with_name(f"{root.name}.html") if wanted is None else wanted
    remedy = f"choose a file with --html, for instance {root.with_name(f'{root.name}.html')}"
    if page.is_dir():
        raise DataError(f"--html {page} is a folder", remedy)
    if root in page.resolve().parents:
        raise DataError(f"--html {page} lies in the store", remedy)
    if not page.resolve().parent.is_dir():
        raise DataError(f"--html {page}: the folder {page.resolve().parent} does not exist", remedy)
    return page


def examine(
    store: FrameStore, full: bool = False, progress: bool = True, other: FrameStore | None = None
) -> Examination:
    """Carry out all checks; the manifest is taken at its word, the rest is held to it.

    Args:
        store: The store.
        full: Decode every picture instead of `content.SAMPLE` spread over the store.
        progress: Whether to show progress bars.
        other: A store of the same data, whose landmarks are compared.
    """
    case = Case(store, full, progress)
    results = [carry_out(name, check, case) for name, check in FOUNDATION.items()]
    if any(result.faults for result in results):
        return Examination(case, results, None)
    results += [carry_out(name, check, case) for name, check in CHECKS.items()]
    looked = timing.look(case)
    results.append(carry_out("timing", lambda _: timing.findings(looked), case))
    if other is not None:
        results.append(carry_out("compared", partial(comparison.landmarks, other=other), case))
    return Examination(case, results, looked)


def report(examination: Examination) -> Iterator[str]:
    """Lines for the terminal: a table of the checks, then faults with their remedies, then notes."""
    case, results = examination.case, examination.results
    width = max(len(result.name) for result in results)
    verdicts = max(len(result.verdict) for result in results)
    yield f"{case.store.root}: {describe(case)}"
    for result in results:
        yield f"  {result.name:<{width}}  {result.verdict:<{verdicts}}  {result.seen}".rstrip()
    for result in results:
        for finding in result.faults[:_SHOWN]:
            yield f"fault: {finding.what}\nremedy: {finding.remedy}"
        yield from _rest(result.faults, "fault", result.name)
    for result in results:
        for finding in result.notes[:_SHOWN]:
            yield f"note: {finding.what}"
        yield from _rest(result.notes, "note", result.name)
    if examination.timing is None:
        yield "nothing else can be looked at before that is mended"
    yield plural(examination.faults, "fault") if examination.faults else "no faults"


def describe(case: Case) -> str:
    """What a store is, in a line."""
    manifest = case.store.manifest
    release = f" {manifest['release']}" if manifest.get("release") else ""
    return (
        f"{case.dataset}{release} ({case.edition}), {plural(len(case.store), 'frame')} of "
        f"{plural(manifest['counts']['subjects'], 'subject')}, {manifest['preset']['name']} crops of "
        f"{manifest['preset']['size']} px"
    )


def _rest(findings: list[Finding], noun: str, name: str) -> Iterator[str]:
    if len(findings) > _SHOWN:
        yield f"and {plural(len(findings) - _SHOWN, noun)} more of {name}: see the page"


if __name__ == "__main__":
    exit_with(main)
