"""Start the workers of a sweep, and wait for them: processes of this machine, an array of Slurm jobs, tasks of Ray."""

import contextlib
import glob
import math
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cnnjax import config as configs
from cnnjax.errors import Interrupted, UserError

Launcher = Literal["local", "slurm", "ray"]


def local(command: Sequence[str], workers: int, workdir: Path, variables: Mapping[str, str]) -> dict[int, str]:
    """Runs `workers` processes of a command, with `variables` in their environment and standard error in
    `workdir/logs`. A signal is passed on to them once, and they save; then Interrupted is raised.

    Returns how each that failed ended, by its number.
    """
    logs = workdir / "logs"
    logs.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        processes = []
        for i in range(workers):
            log = stack.enter_context((logs / f"worker{i}.log").open("a"))
            environment = {**os.environ, **share_of_gpus(i, workers, len(glob.glob("/dev/nvidia[0-9]*"))), **variables}
            processes.append(subprocess.Popen(command, env=environment, stderr=log, start_new_session=True))
        caught: list[int] = []

        def forward(signum: int, frame: Any) -> None:
            caught.append(signum)
            for process in processes:
                process.send_signal(signum)
        for s in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, s, signal.signal(s, forward))
        statuses = [process.wait() for process in processes]
    if caught:
        raise Interrupted(caught[0], f"by its workers in {workdir}")
    ends = {}
    for i, status in enumerate(statuses):
        if status:
            lines = (logs / f"worker{i}.log").read_text().strip().splitlines()
            ends[i] = f"ended with status {status} ({lines[-1] if lines else 'it wrote nothing'})"
    return ends


def share_of_gpus(index: int, workers: int, gpus: int) -> dict[str, str]:
    """Environment variables that give a worker of this machine its share of the GPUs, or of one GPU's memory."""
    if not gpus or "CUDA_VISIBLE_DEVICES" in os.environ:
        return {}
    if workers <= gpus:
        return {"CUDA_VISIBLE_DEVICES": ",".join(str(g) for g in range(index, gpus, workers))}
    sharing = math.ceil(workers / gpus)
    return {"CUDA_VISIBLE_DEVICES": str(index % gpus), "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / sharing:.2f}"}


def options(text: str) -> dict[str, Any]:
    """`config.sweep.launch`, such as "slurm_partition=gpu gpus_per_node=1", as a dict."""
    found = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise UserError(f"config field 'sweep.launch': found {part!r}, expected NAME=VALUE ...")
        found[name] = configs.literal(value)
    return found


def slurm(function: Callable[..., object], arguments: Sequence[Any], workers: int, workdir: Path,
          options: Mapping[str, Any]) -> None:
    """`function(*arguments)` in each of an array of Slurm jobs, by submitit. `options` are those of `AutoExecutor`,
    such as `timeout_min`, `slurm_partition`, `gpus_per_node`; `cluster="local"` tries it on this machine."""
    try:
        import submitit
    except ImportError:
        raise UserError("--launcher slurm needs submitit: pip install 'cnnjax[slurm]'") from None
    options = dict(options)
    executor = submitit.AutoExecutor(folder=workdir / "slurm", cluster=options.pop("cluster", "slurm"))
    executor.update_parameters(**{"timeout_min": 24 * 60, "name": workdir.name, **options})
    for job in executor.map_array(function, *([argument] * workers for argument in arguments)):
        job.result()


def ray(function: Callable[..., object], arguments: Sequence[Any], workers: int, workdir: Path,
        options: Mapping[str, Any]) -> None:
    """`function(*arguments)` in each of several tasks of Ray. `options` are those of `ray.remote`, such as
    `num_gpus`."""
    try:
        import ray
    except ImportError:
        raise UserError("--launcher ray needs ray: pip install 'cnnjax[ray]'") from None
    ray.init(ignore_reinit_error=True)
    task = ray.remote(**{"num_cpus": 1, **options})(function)
    ray.get([task.remote(*arguments) for _ in range(workers)])
