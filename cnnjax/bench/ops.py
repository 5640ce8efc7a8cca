"""Speed of the detection operations on this machine, beside torchvision where it is installed (`cnnjax bench ops`).

    python -m cnnjax.bench_ops [--repeats 11] [--only "nms 2000" ...] [--json FILE]
"""

import argparse
import platform
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import ops
from cnnjax.bench import verdict
from cnnjax.training import workdir as workdirs

SCALES, RATIOS, STRIDE = (128, 256, 512), (0.5, 1.0, 2.0), 16
TARGETS = {"nms 2000": 8, "nms 6000": 5, "nms 12000": 5, "nms 8 x 2000": 8, "roi_pool": 3, "roi_pool and gradient": 2,
           "roi_align": 1.5, "proposals 600x1000": 3}


def proposals(n: int, height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as an untrained RPN makes them: anchors shifted by normal deltas (deviation 0.3), scores uniform."""
    rng = np.random.default_rng(seed)
    anchors = np.asarray(ops.generate_anchors(height // STRIDE, width // STRIDE, STRIDE, SCALES, RATIOS, "centre"))
    chosen = anchors[rng.choice(len(anchors), n, replace=n > len(anchors))]
    deltas = rng.normal(0, 0.3, (n, 4)).astype(np.float32)
    boxes = ops.clip_boxes(ops.decode_boxes(jnp.asarray(deltas), jnp.asarray(chosen)), height, width)
    return np.array(boxes), rng.uniform(size=n).astype(np.float32)


def cases() -> dict[str, tuple[Callable[[], Any], Callable[[Any, Any], Callable[[], Any]]]]:
    """By name: a call of ours, jitted and blocking, and a maker of torchvision's from (torch, torchvision)."""
    made: dict[str, Any] = {}

    def ours(function, *arguments):
        run, arguments = jax.jit(function), jax.device_put(arguments)
        return lambda: jax.block_until_ready(run(*arguments))

    def greedy_nms(name, n, images):
        def theirs(torch, tv):
            tensors = [(torch.tensor(b), torch.tensor(s)) for b, s in images]
            return lambda: [tv.ops.nms(b, s, 0.7) for b, s in tensors]

        run, arguments = partial(ops.nms, iou_threshold=0.7, max_outputs=n), images[0]
        if len(images) > 1:
            run, arguments = jax.vmap(run), tuple(map(np.stack, zip(*images, strict=True)))
        made[name] = ours(run, *arguments), theirs

    for n in (2000, 6000, 12000):
        greedy_nms(f"nms {n}", n, [proposals(n, 600, 1000)])
    greedy_nms("nms 8 x 2000", 2000, [proposals(2000, 600, 1000, seed) for seed in range(8)])

    features = np.random.default_rng(0).normal(size=(38, 50, 512)).astype(np.float32)
    rois, _ = proposals(300, 600, 800)

    def pooling(name, function, torch_name, extra, gradient):
        def theirs(torch, tv):
            x = torch.tensor(features.transpose(2, 0, 1)[None].copy(), requires_grad=gradient)
            r = [torch.tensor(rois)]

            def call():
                out = getattr(tv.ops, torch_name)(x, r, (7, 7), 1 / STRIDE, *extra)
                if gradient:
                    x.grad = None
                    out.sum().backward()
                return out
            return call

        run = jax.value_and_grad(lambda x, r: function(x, r).sum()) if gradient else function
        made[name] = ours(run, features, rois), theirs

    def pool(x, r):
        return ops.roi_pool(x, r, 7, 1 / STRIDE)

    pooling("roi_pool", pool, "roi_pool", (), False)
    pooling("roi_pool and gradient", pool, "roi_pool", (), True)
    pooling("roi_align", lambda x, r: ops.roi_align(x, r, 7, 1 / STRIDE, 2), "roi_align", (2, True), False)

    height, width = 600 // STRIDE, 1000 // STRIDE
    rng = np.random.default_rng(0)
    deltas = rng.normal(0, 0.3, (height * width * 9, 4)).astype(np.float32)
    logits = rng.normal(size=len(deltas)).astype(np.float32)

    def layer(deltas, logits):
        anchors = ops.generate_anchors(height, width, STRIDE, SCALES, RATIOS)
        return ops.propose_boxes(deltas, logits, anchors, 600, 1000, pre_nms_top_n=6000, post_nms_top_n=300)

    def their_layer(torch, tv):
        from torchvision.models.detection._utils import BoxCoder
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        generator, coder = AnchorGenerator((SCALES,), (RATIOS,)), BoxCoder((1.0, 1.0, 1.0, 1.0))
        d, s, stride = torch.tensor(deltas), torch.tensor(logits), torch.tensor(STRIDE)

        def call():
            anchors = generator.grid_anchors([[height, width]], [[stride, stride]])[0]
            boxes = tv.ops.clip_boxes_to_image(coder.decode_single(d, anchors), (600, 1000))
            top, index = s.topk(6000)
            boxes = boxes[index]
            large = tv.ops.remove_small_boxes(boxes, 16)
            boxes, top = boxes[large], top[large]
            return boxes[tv.ops.nms(boxes, top, 0.7)[:300]]
        return call

    made["proposals 600x1000"] = ours(layer, deltas, logits), their_layer
    return made


def measure(repeats: int = 11, names: Sequence[str] = tuple(TARGETS)) -> dict[str, Any]:
    """Medians, in milliseconds, of calls of the named operations, made in turn with torchvision's; ratios to those.

    `cpu_ms` is the processor time of all threads, the least of the calls: what other programs on the machine disturb
    least. The first call includes compilation. `peak_mb_after` is the highest resident memory of the process so far.
    """
    try:
        import torch
        import torchvision
    except ImportError:
        torch = torchvision = None
    rows = []
    made = cases()
    for name in names:
        ours, theirs = made[name]
        start, cpu_start = time.perf_counter(), time.process_time()
        ours()
        first, first_cpu = time.perf_counter() - start, time.process_time() - cpu_start
        calls = [ours] + ([theirs(torch, torchvision)] if torchvision else [])
        times, cpu_times = np.empty((2, repeats, len(calls)))
        for call in calls:
            call()
        for i in range(repeats):
            for j, call in enumerate(calls):
                start, cpu_start = time.perf_counter(), time.process_time()
                call()
                times[i, j] = 1000 * (time.perf_counter() - start)
                cpu_times[i, j] = 1000 * (time.process_time() - cpu_start)
        medians, least = np.median(times, 0), cpu_times.min(0)
        row = {"op": name, "ms": medians[0], "cpu_ms": least[0], "first_call_s": first,
               "first_call_cpu_s": first_cpu, "target": TARGETS[name],
               "peak_mb_after": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        if torchvision:
            row |= {"torchvision_ms": medians[1], "ratio": medians[1] / medians[0],
                    "torchvision_cpu_ms": least[1], "cpu_ratio": least[1] / least[0],
                    "verdict": verdict.against(name, times[:, 0], times[:, 1], "torchvision")}
        rows.append(row)
    packages = ["jax", "jaxlib", "numpy"] + (["torch", "torchvision"] if torchvision else [])
    return {"rows": rows, "repeats": repeats, "machine": platform.machine(), "devices": str(jax.devices()),
            "versions": {package: metadata.version(package) for package in packages}}


def verdicts(result: dict[str, Any]) -> list[str]:
    """A line an operation, ahead of torchvision or behind it; none where it is not installed."""
    return [row["verdict"] for row in result["rows"] if "verdict" in row]


def table(result: dict[str, Any]) -> str:
    """The result of `measure` as a Markdown table."""
    columns = {"op": "op", "ms": "ms", "torchvision_ms": "torchvision, ms", "ratio": "ratio", "target": "wanted",
               "cpu_ms": "CPU ms", "torchvision_cpu_ms": "torchvision, CPU ms", "cpu_ratio": "CPU ratio",
               "first_call_s": "first call, s", "first_call_cpu_s": "first call, CPU s",
               "peak_mb_after": "peak so far, MB"}
    lines = [f"| {' | '.join(columns.values())} |", "|---" * len(columns) + "|"]
    for row in result["rows"]:
        cells = (row.get(key, "-") for key in columns)
        text = [f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append(f"| {' | '.join(text)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments.repeats, arguments.only)
    if arguments.json:
        arguments.json.write_text(workdirs.to_json(result, indent=1) + "\n")
    print(table(result))
    print(result["versions"], result["devices"])


if __name__ == "__main__":
    main()
