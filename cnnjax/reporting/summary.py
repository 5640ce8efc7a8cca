"""`cnnjax summary`: a network's layers as the papers' tables print them, networks side by side, and a drawing."""

import dataclasses
import json
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from cnnjax import detection
from cnnjax.detection.summary import summarise_detector
from cnnjax.errors import UserError, one_line
from cnnjax.models.summary import Layer, Summary, summarise
from cnnjax.reporting.tables import markdown

COLOURS = {"conv": "#4c78a8", "fully connected": "#e45756", "max pool": "#f2a83b", "average pool": "#f2a83b",
           "global average": "#f2a83b", "add": "#72b7b2", "concat": "#b279a2"}

HEADER = ("layer", "kind", "output", "kernel", "stride", "activation", "parameters", "multiply-adds", "receptive field")


def run_summary(names: Sequence[str], *, num_classes: int | None = None, image: Sequence[int] | None = None,
                compare: bool = False, form: str = "markdown", draw: str | Path | None = None,
                fields: dict[str, Any] | None = None) -> str:
    """The text that `cnnjax summary` prints for these networks.

    `compare` puts them side by side; otherwise their tables follow one another. `form` is "markdown" or "json". `image`
    is `(H, W)` or `(H, W, C)`, by default the paper's. `fields` go to `cnnjax.models.create` for each name. `draw` is
    an SVG file to write, of one network. Raises UserError for bad names, fields, forms, image sizes, or a drawing of
    several.
    """
    if form not in ("markdown", "json"):
        raise UserError(f"form: found {form!r}, expected 'markdown' or 'json'")
    if draw is not None and (len(names) != 1 or Path(draw).suffix != ".svg"):
        raise UserError(f"draw: draws one network to an .svg file, found {len(names)} networks and {str(draw)!r}")
    if image is not None and (len(image) not in (2, 3) or min(image) < 1):
        raise UserError(f"image: found {tuple(image)}, expected height, width and, if not 3, channels")
    shape = None if image is None else (image[0], image[1], image[2] if len(image) == 3 else 3)
    try:
        summaries = [_summarise(name, num_classes, shape, **(fields or {})) for name in names]
    except (ValueError, TypeError, ZeroDivisionError) as error:                 # shapes that come to nothing
        raise UserError(f"image {shape}, fields {fields}: no such network can be built "
                        f"({one_line(error)[:200]})") from error
    if draw is not None:
        Path(draw).write_text(to_svg(summaries[0]))
    if form == "json":
        return json.dumps([to_json(summary) for summary in summaries], indent=1)
    return side_by_side(summaries) if compare else "\n".join(map(to_markdown, summaries))


def _summarise(name: str, num_classes: int | None, image: tuple[int, int, int] | None, **fields: Any) -> Summary:
    of_kind = summarise_detector if name in detection.names() else summarise
    return of_kind(name, num_classes, image, **fields)


def to_json(summary: Summary) -> dict[str, Any]:
    """The summary as plain values: name, image, totals, and a dict for each layer."""
    return {"name": summary.name, "image": list(summary.image), "parameters": summary.parameters,
            "multiply_adds": summary.macs, "training_parameters": summary.training_parameters,
            "layers": [dataclasses.asdict(layer) for layer in summary.layers]}


def to_markdown(summary: Summary) -> str:
    """A heading, a row for each layer, and the totals."""
    rows = [("image", "", _size(summary.image), *[""] * 6)]
    for layer in summary.layers:
        groups = f", {layer.groups} groups" if layer.groups > 1 else ""
        after = ", ".join(part for part in ((layer.norm, layer.activation) if layer.norm == "BN" else
                                            (layer.activation, layer.norm)) if part)
        rows.append((layer.name, layer.kind + groups, _size(layer.output), _size(layer.kernel), _stride(layer), after,
                     f"{layer.parameters:,}" if layer.parameters else "", f"{layer.macs:,}" if layer.macs else "",
                     "" if layer.receptive_field is None else str(layer.receptive_field)))
    if summary.training_parameters:
        rows.append(("auxiliary heads", "in training alone", *[""] * 4, f"{summary.training_parameters:,}", "", ""))
    rows.append(("total", "", "", "", "", "", f"{summary.parameters:,}", f"{summary.macs:,}", ""))
    return f"## {summary.name}\n\n{markdown(HEADER, rows)}"


def side_by_side(summaries: Sequence[Summary]) -> str:
    """A column for each network and a row for each size of the map, as He et al. draw figure 3; then the totals.

    Weighted layers and pools are listed, equal neighbours counted; shortcuts and their projections are not.
    """
    cells = [_by_size(summary) for summary in summaries]
    sizes = sorted({size for column in cells for size in column}, reverse=True)
    header = ["output", *(summary.name for summary in summaries)]
    rows = [[f"{size}x{size}" if size else "vector", *(column.get(size, "") for column in cells)] for size in sizes]
    rows.append(["layers with weights", *(str(_depth(summary)) for summary in summaries)])
    rows.append(["parameters", *(f"{summary.parameters:,}" for summary in summaries)])
    rows.append(["multiply-adds", *(f"{summary.macs:,}" for summary in summaries)])
    rows.append(["multiply-adds, billions", *(f"{summary.macs / 1e9:.3g}" for summary in summaries)])
    return markdown(header, rows)


def _is_projection(layer: Layer) -> bool:
    return layer.name.endswith("conv_shortcut")


def _depth(summary: Summary) -> int:
    """Layers with weights, as papers count depth: projections of shortcuts are not in it."""
    return sum(layer.macs > 0 and not _is_projection(layer) for layer in summary.layers)


def _by_size(summary: Summary) -> dict[int, str]:
    """What happens at each size of the map (0: no map), in one cell."""
    told: dict[int, list[str]] = {}
    for layer in summary.layers:
        if layer.kind in ("add", "concat") or _is_projection(layer):
            continue
        size = layer.output[0] if len(layer.output) == 3 else 0
        kernel = f"{_size(layer.kernel)} " if layer.kernel else ""
        stride = f" /{_stride(layer)}" if layer.stride and layer.stride != (1, 1) else ""
        told.setdefault(size, []).append(f"{kernel}{layer.kind} {layer.output[-1]}{stride}")
    cells = {}
    for size, layers in told.items():
        runs = [(text, len(list(run))) for text, run in groupby(layers)]
        cells[size] = "<br>".join(text + (f" × {count}" if count > 1 else "") for text, count in runs)
    return cells


def to_svg(summary: Summary) -> str:
    """A drawing: a box for each layer from top to bottom, side by side where they run side by side, and what reads
    what.

    A shortcut bows around the layers it passes. Colours tell the kinds apart; a box names the layer, its kernel and its
    output.
    """
    width, height, gap = 236, 34, 18
    rank, column = _ranks(summary.layers), _columns(summary.layers)
    middle = max(map(abs, column.values())) * (width + gap) + width / 2 + 60

    def place(i: int) -> tuple[float, float]:                                   # top centre of a box
        return middle + column[i] * (width + gap), 20.0 + rank[i] * (height + gap)

    boxes = [_box(place(-1), width, height, "#999999", "image", _size(summary.image))]
    lines = []
    for i, layer in enumerate(summary.layers):
        stride = f" /{_stride(layer)}" if layer.stride and layer.stride != (1, 1) else ""
        kernel = f" {_size(layer.kernel)}{stride}" if layer.kernel else ""
        boxes.append(_box(place(i), width, height, COLOURS[layer.kind], layer.name,
                          f"{layer.kind}{kernel}, {_size(layer.output)}"))
        x2, y2 = place(i)
        for j in layer.inputs:
            x1, y1 = place(j)
            if rank[i] - rank[j] > 1 and x1 == x2:                              # a shortcut, around the right side
                side, bow = x1 + width / 2, x1 + width / 2 + 46
                path = (f"M{side:g},{y1 + height / 2:g} C{bow:g},{y1 + height:g} {bow:g},{y2:g} "
                        f"{side:g},{y2 + height / 2:g}")
            else:                                                               # down its own column, then across
                path = f"M{x1:g},{y1 + height:g} L{x1:g},{y2 - gap:g} L{x2:g},{y2:g}"
            lines.append(f'<path d="{path}" fill="none" stroke="#666666" stroke-width="1.3" marker-end="url(#tip)"/>')

    total = 2 * middle
    tall = 40 + (max(rank.values()) + 1) * (height + gap)
    title = f"{summary.name}: {summary.parameters:,} parameters, {summary.macs:,} multiply-adds"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total:g} {tall:g}" width="{total:g}" '
            f'height="{tall:g}" font-family="sans-serif" font-size="11">\n'
            f"<title>{escape(title)}</title>\n"
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
            '<path d="M0,0 L8,4 L0,8 z" fill="#666666"/></marker></defs>\n'
            '<rect width="100%" height="100%" fill="white"/>\n'
            f'<text x="8" y="14" font-size="12" font-weight="bold">{escape(title)}</text>\n'
            + "\n".join(lines + boxes) + "\n</svg>\n")


def _ranks(layers: Sequence[Layer]) -> dict[int, int]:
    """How many layers lie between the image and a layer, by the longest way; the image is 0."""
    rank = {-1: 0}
    for i, layer in enumerate(layers):
        rank[i] = 1 + max(rank[j] for j in layer.inputs)
    return rank


def _columns(layers: Sequence[Layer]) -> dict[int, float]:
    """Where a layer stands beside others, 0 in the middle: branches spread where one layer feeds several, and join in
    the middle."""
    readers = {j: [i for i, layer in enumerate(layers) if layer.inputs == (j,)] for j in range(-1, len(layers))}
    column = {-1: 0.0}
    for i, layer in enumerate(layers):
        beside = readers[layer.inputs[0]] if len(layer.inputs) == 1 else []
        column[i] = column[layer.inputs[0]] + beside.index(i) - (len(beside) - 1) / 2 if beside else 0.0
    return column


def _box(top: tuple[float, float], width: int, height: int, colour: str, first: str, second: str) -> str:
    x, y = top
    return (f'<g><rect x="{x - width / 2:g}" y="{y:g}" width="{width}" height="{height}" rx="5" fill="{colour}"/>'
            '<g text-anchor="middle" fill="white">'
            f'<text x="{x:g}" y="{y + 14:g}" font-weight="bold">{escape(first)}</text>'
            f'<text x="{x:g}" y="{y + 27:g}">{escape(second)}</text></g></g>')


def _size(numbers: Sequence[int] | None) -> str:
    return "x".join(map(str, numbers)) if numbers else ""


def _stride(layer: Layer) -> str:
    if layer.stride is None:
        return ""
    return str(layer.stride[0]) if layer.stride[0] == layer.stride[1] else _size(layer.stride)
