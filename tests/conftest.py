"""What the tests share: a tiny run that goes through the real code, and the command line as a process."""

import os
import subprocess
import sys
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


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """A function that starts `cnnjax ARGUMENTS` as a process and gives its Popen; `devices` are virtual ones."""
    cache = tmp_path_factory.mktemp("cache")

    def start(*arguments, devices=1):
        environment = {**os.environ, "CNNJAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu",
                       "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        return subprocess.Popen([sys.executable, "-m", "cnnjax.cli", *map(str, arguments)], cwd=ROOT, env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return start
