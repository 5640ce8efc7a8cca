"""Minibatches of annotated images by step number: shuffled, augmented, placed on canvases, padded."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from cnnjax.data.canvases import choose_canvas, flip_boxes, place, rescale_boxes
from cnnjax.data.detection_sets import DetectionSet
from cnnjax.errors import UserError

Batch = dict[str, np.ndarray]


class Batches:
    """Training batches as a pure function of the step number: `batches(step)`, or `batches.stream(step)` ahead of time.

    A batch has N images of one canvas: `images` (N, H, W, 3) uint8, `sizes` (N, 2) int32 the height and width that the
    image takes on its canvas, `boxes` (N, G, 4), `classes` (N, G), `difficult` (N, G), `mask` (N, G); G is the
    greatest number of objects of the set, rounded up to a multiple of 8; unused rows are zeros with `mask` False.
    With `proposals`, one (P_i, 4) array an image in its own pixels, also `proposals` (N, P, 4) and
    `proposals_mask` (N, P). `transform` (see `box_transforms`) augments an image and its objects before it is placed;
    proposals would not follow it. `stretch` is that of `place`.
    The images of a canvas are visited once an epoch, in an order of its own; the last batch of an epoch is filled with
    its first images. `steps_per_canvas` consecutive steps, those of one dispatch, share a canvas, which is drawn from
    the seed and their block alone; over as many epochs every canvas has its due share of the steps.
    """

    cache_bytes = 1 << 30

    def __init__(self, data: DetectionSet, canvases: Sequence[tuple[int, int]], batch_size: int, seed: int, *,
                 flip: bool = False, jitter: float = 1.0, proposals: Sequence[np.ndarray] | None = None,
                 transform: Callable[[np.random.Generator, Batch], Batch] | None = None, stretch: bool = False,
                 steps_per_canvas: int = 1) -> None:
        if not 0 < jitter <= 1:
            raise UserError(f"data.jitter: found {jitter}, expected the smallest scale, over 0 and at most 1")
        self.data, self.canvases, self.batch_size, self.seed = data, [(c[0], c[1]) for c in canvases], batch_size, seed
        assert transform is None or proposals is None, "proposals do not follow a transform"
        self.flip, self.jitter, self.proposals = flip, jitter, proposals
        self.transform, self.stretch = transform, stretch
        most = max(len(o.classes) for o in data.objects)
        self.max_objects = max(8, -(-most // 8) * 8)
        self.max_proposals = max(map(len, proposals)) if proposals is not None else 0
        self.canvas_of = np.array([choose_canvas(size, self.canvases) for size in data.sizes])
        groups = [np.flatnonzero(self.canvas_of == c) for c in range(len(self.canvases))]
        self.groups = [group for group in groups if len(group)]
        self.steps_per_epoch = [-(-len(group) // batch_size) for group in self.groups]      # of each group
        self.steps_per_canvas = steps_per_canvas
        self._cache: dict[int, np.ndarray] = {}
        self._room = self.cache_bytes

    def indices(self, step: int) -> np.ndarray:
        """The images (N,) of a step, all of one canvas."""
        block, offset = divmod(step, self.steps_per_canvas)
        # As many blocks as an epoch has steps are that many epochs, whatever the length of a block.
        cycle, turn = divmod(block, sum(self.steps_per_epoch))
        canvases = np.repeat(np.arange(len(self.groups)), self.steps_per_epoch)
        canvases = np.random.default_rng([self.seed, 5, cycle]).permutation(canvases)
        g = int(canvases[turn])
        blocks_before = cycle * self.steps_per_epoch[g] + int(np.count_nonzero(canvases[:turn] == g))
        epoch, position = divmod(blocks_before * self.steps_per_canvas + offset, self.steps_per_epoch[g])
        rng = np.random.default_rng((self.seed, 0, epoch, g))
        order = np.resize(rng.permutation(self.groups[g]), self.steps_per_epoch[g] * self.batch_size)
        return order.reshape(-1, self.batch_size)[rng.permutation(self.steps_per_epoch[g])[position]]

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, 1, step])
        rows = [self._example(i, bool(self.flip and rng.random() < 0.5), rng.uniform(self.jitter, 1),
                              np.random.default_rng([self.seed, 6, step, row]))
                for row, i in enumerate(self.indices(step))]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def example(self, i: int) -> Batch:
        """A batch of image i alone, as it is."""
        plain = self._example(i, False, 1.0, np.random.default_rng(0))
        return {key: value[None] for key, value in plain.items()}

    def _example(self, i: int, flip: bool, scale: float, rng: np.random.Generator) -> Batch:
        objects = self.data.objects[i]
        sample = {"image": self._read(i), "boxes": objects.boxes, "classes": objects.classes,
                  "difficult": objects.difficult}
        if self.transform is not None:
            sample = self.transform(rng, sample)
        image, size = place(sample["image"], self.canvases[self.canvas_of[i]], scale, self.stretch)

        def moved(boxes: np.ndarray, rows: int) -> np.ndarray:
            boxes = rescale_boxes(boxes, sample["image"].shape[:2], size)
            return _pad(flip_boxes(boxes, float(size[1])) if flip else boxes, rows)

        if flip:
            image[:, : size[1]] = image[:, : size[1]][:, ::-1].copy()
        count = self.max_objects
        example = {"images": image, "sizes": size, "boxes": moved(sample["boxes"], count),
                   "classes": _pad(sample["classes"], count), "difficult": _pad(sample["difficult"], count),
                   "mask": np.arange(count) < len(sample["classes"])}
        if self.proposals is not None:
            example["proposals"] = moved(self.proposals[i], self.max_proposals)
            example["proposals_mask"] = np.arange(self.max_proposals) < len(self.proposals[i])
        return example

    def _read(self, i: int) -> np.ndarray:
        image = self._cache.get(i)
        if image is None:
            image = self.data.read(i)
            if self._room >= image.nbytes:
                self._room -= image.nbytes
                self._cache[i] = image
        return image

    def stream(self, step: int = 0) -> Iterator[Batch]:
        """The batches from `step` on, made some steps ahead."""
        return ahead_of_time(self, step)


def ahead_of_time(batch: Callable[[int], Batch], step: int) -> Iterator[Batch]:
    """`batch(step)`, `batch(step + 1)`, ..., made by two threads up to four steps ahead."""
    with ThreadPoolExecutor(2) as pool:
        ahead: list[Future[Batch]] = []
        while True:
            while len(ahead) < 4:
                ahead.append(pool.submit(batch, step))
                step += 1
            yield ahead.pop(0).result()


def _pad(rows: np.ndarray, count: int) -> np.ndarray:
    out = np.zeros((count, *rows.shape[1:]), rows.dtype)
    out[: len(rows)] = rows
    return out
