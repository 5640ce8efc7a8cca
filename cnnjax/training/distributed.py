"""One run in several processes: on the machines of a cluster, each with devices of its own, by `jax.distributed`.

All processes run the same program on the same workdir, a folder that all see. Each computes on its devices' share of
every batch; the first one writes. A process that is asked to stop makes all of them save and stop at the same step; one
that dies ends the others, since no step can be taken without it, and the same command starts them all again.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from cnnjax.errors import UserError, first_line

HEARTBEAT = 30
"""Seconds after which a silent process counts as dead, and JAX aborts the others, if no broken connection told
`guard` before."""

LOST = 75
"""Exit status of a process that lost another one, or its devices: EX_TEMPFAIL of sysexits.h, try again later."""


def initialize(coordinator: str | None, processes: int | None = None, process: int | None = None) -> None:
    """Makes this process number `process` of `processes`, before JAX touches a device.

    `coordinator` is HOST:PORT of process 0, or "auto": Slurm, Open MPI, Kubernetes and Cloud TPU say in the
    environment who is who. None leaves the process alone. Raises UserError for numbers that make no sense, and when the
    others cannot be reached.
    """
    if coordinator is None:
        if processes is not None or process is not None:
            raise UserError("--processes and --process need --coordinator HOST:PORT, the same for all of them")
        return
    if coordinator != "auto":
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--coordinator {coordinator}: expected HOST:PORT of process 0, or auto")
        if processes is None or process is None:
            raise UserError(f"--coordinator {coordinator}: needs --processes N and --process I as well")
        if not 0 <= process < processes:
            raise UserError(f"--process {process}: expected a number from 0 to {processes - 1}, since --processes is "
                            f"{processes}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its handler of SIGTERM would take the place of the loop's, which saves as well as on one machine.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(None if coordinator == "auto" else coordinator, processes, process,
                                   initialization_timeout=120, heartbeat_timeout_seconds=HEARTBEAT,
                                   shutdown_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--coordinator {coordinator}: {first_line(error)}") from error


def is_writer() -> bool:
    """Whether this process writes the files of the run."""
    return jax.process_index() == 0


@contextlib.contextmanager
def guard(workdir: Path) -> Iterator[None]:
    """Ends this process with one line, when what it does with the others fails since one of them is gone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(f"cnnjax: process {jax.process_index()} of {jax.process_count()} stops, another process of this run is "
              f"gone ({first_line(error)}); run the same command again in all of them to go on from the last "
              f"checkpoint in {workdir}", file=sys.stderr, flush=True)
        os._exit(LOST)      # an ordinary exit waits for the others, and is aborted with a stack trace when they miss


def wait_for_all(workdir: Path) -> None:
    """Waits until all processes of a run have come here: the first one writes its report while the others are done.

    Without it JAX, which has them wait for each other at their ends, aborts all of them after HEARTBEAT seconds.
    """
    if jax.process_count() > 1:
        with guard(workdir):
            multihost_utils.sync_global_devices("all is written")


def end_stalled(workdir: Path, step: int, seconds: float) -> None:
    """Ends this process with one line, since its devices have not answered for so many seconds."""
    print(f"cnnjax: the devices have not answered for {seconds:.0f} s; run the same command again to go on from the "
          f"checkpoint of step {step} in {workdir}", file=sys.stderr, flush=True)
    os._exit(LOST)          # an ordinary exit waits for the devices
