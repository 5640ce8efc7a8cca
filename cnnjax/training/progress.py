"""Progress of a run: a live bar on a terminal, plain lines in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[int, str], None]
"""`report(step, text)`: where the run is and how it does."""


@contextlib.contextmanager
def bar(name: str, steps: int, done: int) -> Iterator[Report]:
    """A function that shows progress on standard error: a live bar on a terminal, a line each ten seconds in a log."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                   TextColumn("{task.fields[text]}"), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(name, total=steps, completed=done, text="compiling")
            yield lambda step, text: progress.update(task, completed=step, text=text)
        return

    began = last = time.monotonic()
    print(f"{name}: step {done}/{steps}, compiling", file=sys.stderr, flush=True)

    def line(step: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 10 or step == steps:
            last = now
            left = (now - began) / max(step - done, 1) * (steps - step)
            print(f"{name}: step {step}/{steps}, {text}, {left:.0f} s left", file=sys.stderr, flush=True)
    yield line
