"""Watchdog: ends a run whose devices no longer answer, since the threads of several devices can deadlock."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

LEAST = 30.0
"""Seconds that the devices may always take. XLA itself aborts, with a stack trace, 40 s into a sum over devices."""

FACTOR = 10
"""A wait may be so many times as long as the longest one before it: what is slow is not stuck."""

TICK = 0.5


@contextmanager
def watchdog(stalled: Callable[[float], None]) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """A context in which to wait for the devices. `stalled` is called, in another thread, with the seconds of a wait
    that takes too long.

    The first wait may take any time, since nothing is known of the steps' length yet.
    """
    over = threading.Event()
    limit, longest, waited, waiting = math.inf, 0.0, 0.0, False

    def count() -> None:
        nonlocal waited
        while not over.wait(TICK):
            # Ticks, not a clock: a process that was suspended, and goes on, has waited for nobody.
            waited += TICK * waiting
            if waited > limit:
                stalled(waited)
                return

    @contextmanager
    def wait() -> Iterator[None]:
        nonlocal limit, longest, waited, waiting
        waited, waiting = 0.0, True
        try:
            yield
        finally:
            waiting, longest = False, max(longest, waited)
            limit = max(LEAST, FACTOR * longest)

    thread = threading.Thread(target=count, name="watchdog", daemon=True)
    thread.start()
    try:
        yield wait
    finally:
        over.set()
        thread.join()
