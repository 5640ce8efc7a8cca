"""A contender's side of a bench: it says that it is ready, then answers every line with seconds. See `networks.Worker`.

It imports the standard library alone, since the interpreter that has PyTorch may lack all else.
"""

import sys
import time
from collections.abc import Callable


def answer(step: Callable[[], object], *, before: Callable[[], object] = lambda: None, steps: int = 1,
           ready: str = "ready") -> None:
    """Prints `ready`, then for every line on standard input the seconds of a call of `step`, which takes so many
    `steps`, over their number; `before` is called first each time and is not timed."""
    print(ready, flush=True)
    for _ in sys.stdin:
        before()
        began = time.perf_counter()
        step()
        print((time.perf_counter() - began) / steps, flush=True)
