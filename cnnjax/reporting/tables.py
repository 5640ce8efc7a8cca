"""Tables of text: to a terminal and to Markdown. HTML's are in `cnnjax.reporting.html`."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def show(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, *,
         words: bool = False) -> None:
    """Prints the table to standard output: the first column to the left, the others to the right, or where they hold
    `words` to the left too."""
    table = Table(title=title)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 or words else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=120)        # a log is not cut at 80 columns
    console.print(table)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table in Markdown, its first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent, or "-" where there is none (None or NaN), as the AP of a size that no object has."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.{digits}f}"
