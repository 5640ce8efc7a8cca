"""What the tests share: tiny runs that went through the real code, and the command line as a process."""

import contextlib
import fcntl
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from cnnjax.errors import UserError
from cnnjax.training import workdir as workdirs
from tests import tiny_runs

ROOT = Path(__file__).parent.parent
TINY = tiny_runs.TINY

# Programs compiled once serve all processes and all later runs of the tests. They are compiled quickly: without LLVM's
# expensive passes, as JAX compiles those of its own tests, and by XLA's older emitters, which this JAX still has. With
# JAX_DISABLE_MOST_OPTIMIZATIONS=False they are compiled as those of a user's run.
QUICK = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "True") == "True"
JAX = {"jax_compilation_cache_dir": str(ROOT / ".pytest_cache" / "xla"),
       "jax_persistent_cache_min_compile_time_secs": 0.0, "jax_disable_most_optimizations": QUICK}
for name, value in JAX.items():
    os.environ[name.upper()] = str(value)   # of the processes that tests start
    jax.config.update(name, value)
if QUICK and jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}".strip()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests take a shared run go first: they are the longest, and pytest-xdist takes files in order."""
    long = {item.path for item in items if not SHARED.keys().isdisjoint(getattr(item, "fixturenames", ()))}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """What is imported by now stays to the end: Python's collector need not look through it, nor come so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture
def tiny() -> Callable[..., ConfigDict]:
    """A function of overrides that gives the tiny config: `tiny("steps=40", "seed=1")`."""
    return tiny_runs.classifier


# Finished runs, one of each kind. They are to be read only: a test that writes into one copies it first.

def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Path:
    """A folder that `make(folder)` fills once for the session, whichever of pytest-xdist's workers needs it first."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent                  # of all workers
    folder, finished = base / name, base / f"{name}.finished"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            make(folder)
            finished.touch()
    return folder


# The workdirs of the finished runs, by fixture.
SHARED: dict[str, Callable[[Path], Any]] = {
    "classifier_run": tiny_runs.train_classifier,
    "depth_run": tiny_runs.run_depth_study,
    "sweep_run": tiny_runs.run_sweep,
    "ladder_run": tiny_runs.run_ladder,
}


def shared_run(name: str) -> Any:
    """The fixture `name`: the workdir that `SHARED[name]` fills once for the session."""
    @pytest.fixture(scope="session", name=name)
    def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return made_once(tmp_path_factory, name.removesuffix("_run"), SHARED[name])
    return run


classifier_run, depth_run, sweep_run, ladder_run = map(shared_run, SHARED)


def devices_of_cpu(count: int) -> dict[str, str]:
    """The environment of a process that is to have so many virtual CPU devices; XLA's other flags that are set stay."""
    count_flag = "--xla_force_host_platform_device_count"
    given = {flag.split("=")[0]: flag for flag in os.environ.get("XLA_FLAGS", "").split()}
    merged = {**given, count_flag: f"{count_flag}={count}"}
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(merged.values())}


def start(*arguments: Any, devices: int = 1, before: Callable[[], object] | None = None,
          **variables: str) -> subprocess.Popen[str]:
    """Starts `cnnjax ARGUMENTS` as a process on so many virtual CPU devices, and gives its Popen.

    `variables` join the environment; `before` runs in the child before the command does.
    """
    return subprocess.Popen([sys.executable, "-m", "cnnjax.cli", *map(str, arguments)], cwd=ROOT,
                            env=devices_of_cpu(devices) | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, preexec_fn=before)


class Killed(BaseException):
    """What ends a run in the midst of this process, as SIGKILL would end one of its own."""


@pytest.fixture
def at_row(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """A function `(n, act)` that makes the next runs call `act()` once, before row `n`, from 1, of their metrics."""
    def arm(n: int, act: Callable[[], object]) -> None:
        append, rows = workdirs.Rows.append, 0

        def counted(self: workdirs.Rows, row: dict[str, Any]) -> None:
            nonlocal rows
            if "split" in row:              # not of timing.jsonl
                rows += 1
                if rows == n:
                    act()
            append(self, row)
        monkeypatch.setattr(workdirs.Rows, "append", counted)
    return arm


def kill() -> None:
    raise Killed


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """A list that a name is appended to whenever a program is compiled."""
    compiled: list[str] = []

    def note(event: str, *_: Any, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def error_line(function: Callable[..., object], *arguments: Any, **fields: Any) -> str:
    """The one line of the UserError that the call must raise."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **fields)
    line = str(caught.value)
    assert line
    assert "\n" not in line
    return line


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[str]]:
    """`start` with a cache of its own."""
    return partial(start, CNNJAX_CACHE=str(tmp_path_factory.mktemp("cache")))
