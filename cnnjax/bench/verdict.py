"""What a bench says in words: the CPU it ran on, and who is ahead of whom by how much."""

import os
import platform
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

_VECTORS = (("avx512f", "AVX-512", 512), ("avx2", "AVX2", 256), ("avx", "AVX", 256), ("asimd", "NEON", 128),
            ("sse2", "SSE2", 128))


def cpu(info: str | None = None) -> str:
    """The CPU's name, its widest vectors and the cores this process may use, on one line.

    `info` is the text of /proc/cpuinfo, read where it is not given; elsewhere than on Linux only the name is known.
    """
    if info is None:
        file = Path("/proc/cpuinfo")
        info = file.read_text() if file.exists() else ""
    fields: dict[str, str] = {}
    for line in info.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", "")).split()
    width = next((f"{name}, vectors of {bits} bits" for flag, name, bits in _VECTORS if flag in flags),
                 "vector width unknown")
    name = fields.get("model name") or platform.processor() or platform.machine()
    return f"{name}, {width}, {cores()} cores"


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def against(what: str, ours: ArrayLike, theirs: ArrayLike, other: str = "PyTorch") -> str:
    """One line on the seconds of rounds taken in turn: cnnjax is ahead, behind, or within noise, and the ratio.

    The ratio is of medians. Within noise is a comparison whose rounds disagree: the middle half of their own ratios has
    1 inside.
    """
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    ratio = float(np.median(b) / np.median(a))
    low, high = np.quantile(b / a, (0.25, 0.75))
    word = "within noise" if low <= 1 <= high else "ahead" if ratio > 1 else "behind"
    return f"{what}: {word}, {ratio:.2f} of {other}'s rate"
