"""The environment of a process that trains: what makes it fast on a CPU, which must be there before the process starts,
and what makes it deterministic on a GPU, which must be there before JAX starts."""

import os
import re
import sys
from collections.abc import Mapping

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""Without this flag of XLA two runs on a GPU differ in their last bits: sums of many threads come in any order. On a
CPU they are the same with and without it."""


def deterministic(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base` with XLA's flag for the same bits from the same config on a GPU; what `base` says of it stays."""
    flags = base.get("XLA_FLAGS", "")
    if "--xla_gpu_deterministic_ops" in flags:
        return dict(base)
    return {**base, "XLA_FLAGS": f"{flags} {DETERMINISTIC}".strip()}


def environment(devices: int, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base` with what a JAX process on a CPU needs to use `devices` cores well; what `base` sets already stays.

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
