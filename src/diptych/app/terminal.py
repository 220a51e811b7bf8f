"""What the terminal shows: lines and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diptych.app import wording
from diptych.results import Row
from diptych.text import visible

if TYPE_CHECKING:
    from rich.console import Console


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = (), title: str = "") -> None:
    """Prints a table; the columns named in `right` are set flush right. No markup is read from the cells."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(
        box=box.SIMPLE_HEAD,
        title=Text(visible(title)) if title else None,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for column in columns:
        made.add_column(Text(visible(column)), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(visible(cell)) for cell in row))
    show(made)


def say(text: str) -> None:
    """Prints lines; control characters in names from data are shown, not obeyed."""
    print(visible(text))


def results(rows: Sequence[Row], title: str = "") -> None:
    """Prints measured figures: value, 95 % interval, number of measured units, chance."""
    if not rows:
        say("No task could run: the data lack the fields, or the method the protocols.")
        return
    told = [name for name in ("run", "data") if len({getattr(row, name) for row in rows}) > 1]
    columns = [*told, "task", "metric", "value", "95 % interval", "chance", "n"]
    lines = []
    for row in rows:
        line = [
            row.task,
            wording.metric_title(row.metric),
            wording.figure(row, row.value),
            wording.interval(row),
            wording.figure(row, row.chance),
            f"{row.n:,}",
        ]
        lines.append([*(getattr(row, name) for name in told), *line])
    table(columns, lines, right=("value", "95 % interval", "chance", "n"), title=title)


def side_by_side(rows: Sequence[Row], tasks: Sequence[str]) -> None:
    """Prints the shares of some tasks, a column a run."""
    shown = [row for row in rows if row.task in tasks and wording.is_share(row)]
    names = list(dict.fromkeys(row.run for row in shown))
    lines = []
    for task, metric in dict.fromkeys((row.task, row.metric) for row in shown):
        by_run = {row.run: row for row in shown if (row.task, row.metric) == (task, metric)}
        some = next(iter(by_run.values()))
        cells = [
            f"{wording.figure(r, r.value)}  [{wording.interval(r)}]" if (r := by_run.get(name)) else ""
            for name in names
        ]
        lines.append([task, wording.metric_title(metric), *cells, wording.figure(some, some.chance)])
    table(["task", "metric", *names, "chance"], lines, right=(*names, "chance"))


def show(renderable: object) -> None:
    """Prints what rich can render."""
    _console().print(renderable)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr: call what it yields with the number done and the number of all, None if that is unknown."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _console() -> Console:
    import shutil
    import sys

    from rich.console import Console

    width = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120
    return Console(width=width, highlight=False)
