"""A page of sections, as HTML in one file and as Markdown with its pictures beside it."""

from collections.abc import Sequence
from pathlib import Path

import jinja2

from experiments.sections import Section
from experiments.tables import to_markdown


def write_pages(out: Path, name: str, title: str, intro: Sequence[str], sections: Sequence[Section]) -> None:
    """Write ``<name>.html``, ``<name>.md`` and ``figures/*.png``.

    Args:
        out: Folder, made where it is missing.
        name: Of the files.
        title: Of the page.
        intro: Paragraphs before the first section.
        sections: The page.
    """
    (out / "figures").mkdir(parents=True, exist_ok=True)
    markdown = [f"# {title}", *intro]
    for section in sections:
        markdown += [f"## {section.title}", *section.text, *map(to_markdown, section.tables)]
        for picture in section.pictures:
            (out / "figures" / f"{picture.name}.png").write_bytes(picture.png)
            markdown.append(f"![{picture.caption}](figures/{picture.name}.png)\n\n{picture.caption}")
    (out / f"{name}.md").write_text("\n\n".join(markdown) + "\n")
    template = Path(__file__).with_name("report.html.j2").read_text()
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template)
    (out / f"{name}.html").write_text(page.render(title=title, intro=intro, sections=sections))
