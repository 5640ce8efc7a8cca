"""Settings of a process that trains: environment variables that make it fast on a CPU and deterministic on a GPU, and
JAX's compilation cache."""

import os
import re
import sys
from collections.abc import Mapping

from cnnjax import config as configs

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""Without this flag of XLA two runs on a GPU differ in their last bits: sums of many threads come in any order. On a
CPU they are the same with and without it."""


def deterministic(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base` with XLA's flag for the same bits from the same config on a GPU; what `base` sets already stays.

    JAX reads it when it first touches a device."""
    flags = base.get("XLA_FLAGS", "")
    if "--xla_gpu_deterministic_ops" in flags:
        return dict(base)
    return {**base, "XLA_FLAGS": f"{flags} {DETERMINISTIC}".strip()}


def environment(devices: int, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base` with what a JAX process on a CPU needs to use `devices` cores well; what `base` sets already stays.

    It must be there when the process starts:

    - One XLA device a core: XLA computes a convolution on one core alone, so two devices run two at a time.
    - Two threads a device: one waits for the others' sums, while the last one may wait for a part of its own work,
      which needs one more. With as many threads as devices they wait for each other for ever.
    - Memory in huge pages (glibc 2.35, Linux): XLA takes the memory of a step anew every time, and the system maps it
      page by page, of 4 kB or of 2 MB.
    """
    result = dict(base)
    flags = result.get("XLA_FLAGS", "")
    given = re.search(r"--xla_force_host_platform_device_count=(\d+)", flags)
    if given:
        devices = int(given[1])
    else:
        result["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
    if devices > 1:
        result.setdefault("PJRT_NPROC", str(max(2 * devices, os.cpu_count() or 1)))
    if sys.platform == "linux" and "glibc.malloc.hugetlb" not in result.get("GLIBC_TUNABLES", ""):
        tunables = result.get("GLIBC_TUNABLES")
        result["GLIBC_TUNABLES"] = f"{tunables}:glibc.malloc.hugetlb=1" if tunables else "glibc.malloc.hugetlb=1"
    return result


def set_compilation_cache() -> None:
    """Has JAX keep compiled programs between runs, in the user's cache directory; what the environment sets stays."""
    import jax
    for name, value in (("jax_compilation_cache_dir", str(configs.cache_directory() / "xla")),
                        ("jax_persistent_cache_min_compile_time_secs", 0.3)):
        if not os.environ.get(name.upper()):
            jax.config.update(name, value)
