"""A table of text cells, and how it is written down."""

import re
from dataclasses import dataclass, field

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "–": "--",
    "·": r"$\cdot$",
    "²": r"$^2$",
    "<": r"$<$",
    ">": r"$>$",
}
NARROW = 10  # columns; more do not fit a page
PREAMBLE = r"% needs \usepackage{booktabs,graphicx}"


@dataclass(frozen=True)
class Table:
    """Cells as text: the first column names the row, the others hold numbers.

    Attributes:
        caption: One line above the table.
        header: One name a column.
        rows: As many cells as the header has.
        notes: Lines below the table.
        text: All cells are words rather than numbers, and set flush left.
        name: Of a file for this table alone; empty = none.
        rule: Number of rows above a rule, 0 = none; the row of the mean has one anyway.
    """

    caption: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    text: bool = False
    name: str = ""
    rule: int = 0


def to_markdown(table: Table) -> str:
    """A pipe table, padded so that it is readable as plain text too."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (table.header, *table.rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(table.header))]

    def line(row: list[str]) -> str:
        padded = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join(f"{'-' * (w + 1)}{'-' if i == 0 or table.text else ':'}" for i, w in enumerate(widths))
    parts = [f"**{table.caption}**", "", line(cells[0]), f"|{rule}|", *map(line, cells[1:])]
    return "\n".join(parts + [f"\n{note}" for note in table.notes])


def to_text(table: Table) -> str:
    """Aligned columns for a terminal, the mean set off by a rule."""
    rows = [table.header, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]

    def line(row: list[str]) -> str:
        return "  ".join(_padded(table, row, widths)).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [table.caption, line(table.header), rule]
    for row in table.rows:
        lines += [rule, line(row)] if row[0] == "mean" else [line(row)]
    return "\n".join([*lines, *table.notes])


def to_latex(table: Table) -> str:
    """A booktabs table, of many columns made as wide as the line; see `PREAMBLE`."""
    wide = len(table.header) > NARROW
    lines = [
        r"\begin{table}",
        r"  \centering\small",
        rf"  \caption{{{escape_latex(table.caption)}}}",
        r"  \resizebox{\linewidth}{!}{%" if wide else "  {%",
        rf"  \begin{{tabular}}{{{'l' + ('l' if table.text else 'r') * (len(table.header) - 1)}}}",
        r"    \toprule",
        f"    {_latex_row(table.header)}",
        r"    \midrule",
    ]
    for place, row in enumerate(table.rows):
        ruled = row[0] == "mean" or 0 < place == table.rule
        lines += [r"    \midrule"] * ruled + [f"    {_latex_row(row)}"]
    lines += [r"    \bottomrule", r"  \end{tabular}}"]
    lines += [rf"  \par\smallskip\footnotesize {escape_latex(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"])


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters escaped, and a minus before a number longer than a hyphen."""
    escaped = "".join(LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.)-])-(?=\.?\d)", "$-$", escaped)


def _padded(table: Table, row: list[str], widths: list[int]) -> list[str]:
    left = [i == 0 or table.text for i in range(len(row))]
    return [cell.ljust(w) if at_left else cell.rjust(w) for cell, w, at_left in zip(row, widths, left, strict=True)]


def _latex_row(cells: list[str]) -> str:
    # A row that starts with [ would be read as the optional argument of the \\ before it.
    return (
        " & ".join(f"{{{escape_latex(cell)}}}" if cell.startswith("[") else escape_latex(cell) for cell in cells)
        + r" \\"
    )
