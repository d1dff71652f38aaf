"""A page of sections, as HTML in one file and as Markdown with its pictures beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from experiments.files import write_whole
from experiments.sections import Section
from experiments.tables import to_markdown

# Facts of runs that are no settings of theirs, and whose values are too many or too long to choose from.
NO_FACETS = {"AUs", "expressions", "subject lists", "parameters", "finished folds (seeds)", "unfinished"}
NO_FACETS |= {"held-out subjects", "held-out frames", "commit", "licence of the data"}
CHOICES = 12


def write_pages(
    out: Path,
    name: str,
    title: str,
    intro: Sequence[str],
    sections: Sequence[Section],
    runs: Mapping[str, Mapping[str, str]] = {},
) -> None:
    """Write ``<name>.html``, ``<name>.md`` and ``figures/*.png``.

    Args:
        out: Folder, made where it is missing.
        name: Of the files.
        title: Of the page.
        intro: Paragraphs before the first section.
        sections: The page.
        runs: Name of a run -> its facts, by which rows and sections about a run can be filtered.
    """
    markdown = [f"# {title}", *intro]
    for section in sections:
        markdown += [f"## {section.title}", *section.text, *map(to_markdown, section.tables)]
        for picture in section.pictures:
            write_whole(out / "figures" / f"{picture.name}.png", picture.png)
            markdown.append(f"![{picture.caption}](figures/{picture.name}.png)\n\n{picture.caption}")
    write_whole(out / f"{name}.md", "\n\n".join(markdown) + "\n")
    template = Path(__file__).with_name("report.html.j2").read_text()
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(template)
    facts = [fact for fact in next(iter(runs.values()), {}) if fact not in NO_FACETS]
    values = {fact: sorted({of[fact] for of in runs.values() if of[fact]}) for fact in facts}
    facets = {fact: found for fact, found in values.items() if 1 < len(found) <= CHOICES}
    text = page.render(title=title, intro=intro, sections=sections, facets=facets, runs=runs)
    write_whole(out / f"{name}.html", text)
