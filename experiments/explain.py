"""What an emotion network still knows of the action units that it started from: tables and pictures.

    python experiments/explain.py runs/emotiram_fau_caer_s [runs/ANOTHER ...] [--out DIR] [--faces]

For every finished EmotiRAMFAU run (Masur et al. 2023, Sec. IV-B): scores of its AUs on the held-out subjects of the AU
stage before and after it learnt emotions (Table II), AU6 and AU12 on pictures of happiness (Table III), which AUs are
called on which emotion against EMFACS, and pictures with AUs and emotions (Figs. 3 and 4), heat-maps laid over them.
The predictions that this takes are kept in the run folders. Writes ``explanation.html``, ``explanation.md`` and
``figures/*.png``.
"""

import experiments.environment  # noqa: F401  # isort: skip
import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.explanation.runs import EmotionRun
from experiments.explanation.sections import forgetting_section, happiness_section, picture_section, profile_section
from experiments.ledgers import load_experiment
from experiments.pages import write_pages
from experiments.tables import to_text
from experiments.terminal import exit_with


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, print the tables, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNDIR", help="folder of a run: runs/emotiram_fau_caer_s"
    )
    parser.add_argument("--out", type=Path, help="folder to write to (default: RUNDIR/explanation of the first run)")
    parser.add_argument("--faces", action="store_true", help="show people, where the licence of the data allows it")
    parser.add_argument("--au_config", default="", help="AU stage whose data judge a body that others published")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples; 0: no intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    options = parser.parse_args(arguments)
    au_config = ["--config", *options.au_config.split()] if options.au_config else []
    runs = [EmotionRun(fold, au_config) for path in options.runs for fold in load_experiment(path).runs]
    resampling = options.bootstrap, options.seed
    sections = [
        forgetting_section(runs, *resampling),
        happiness_section(runs, *resampling),
        profile_section(runs, *resampling),
        picture_section(runs, options.faces),
    ]
    for section in sections:
        for table in section.tables:
            print(f"\n{to_text(table)}")
    out = options.out or options.runs[0] / "explanation"
    title = f"AUs behind emotions: {', '.join(dict.fromkeys(run.run.result['name'] for run in runs))}"
    intro = ["Before: the body as its AU stage left it. After: the same body when it had learnt emotions."]
    write_pages(out, "explanation", title, intro, sections)
    print(f"\nexplanation: {out / 'explanation.html'}")
    return 0


if __name__ == "__main__":
    exit_with(main, goes_on=False)
