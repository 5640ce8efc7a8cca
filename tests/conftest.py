"""What the tests share: a tiny run that goes through the real code, and the command line as a process."""

import contextlib
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import pytest

from cnnjax import config as configs
from configs import defaults

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "tiny_config.py"

# Programs compiled once serve all later runs of the tests.
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".pytest_cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture
def tiny():
    """A function of overrides that gives the tiny config: `tiny("steps=40", "seed=1")`."""
    def make(*overrides):
        config = configs.load(TINY, overrides)
        configs.check(config, defaults.classification())
        return config
    return make


def start(*arguments, devices=1, before=None, **variables):
    """Starts `cnnjax ARGUMENTS` as a process on so many virtual CPU devices, and gives its Popen.

    `variables` join the environment; `before` runs in the child before the command does.
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu",
                   "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", **variables}
    return subprocess.Popen([sys.executable, "-m", "cnnjax.cli", *map(str, arguments)], cwd=ROOT, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before)


@contextlib.contextmanager
def compilations():
    """A list that a name is appended to whenever a program is compiled."""
    compiled = []

    def note(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """`start` with a cache of its own."""
    return partial(start, CNNJAX_CACHE=str(tmp_path_factory.mktemp("cache")))
