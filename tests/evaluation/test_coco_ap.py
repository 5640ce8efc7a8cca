import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnnjax.data.detection_sets import Objects
from cnnjax.evaluation.coco_ap import coco_ap
from cnnjax.evaluation.voc_ap import Detections


def scene(seed):
    """Objects of four images, and detections that are near them or anywhere."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(4):
        corner = rng.uniform(0, 100, (6, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 60, (6, 2))], 1).astype(np.float32)
        classes, difficult = rng.integers(0, 2, 6), rng.random(6) < 0.2
        truths.append(Objects(boxes, classes.astype(np.int32), difficult, difficult, rng.uniform(10, 12000, 6)))
        near = (boxes + rng.normal(0, 3, boxes.shape)).astype(np.float32)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        detections.append(Detections(near, rng.random(6).astype(np.float32), classes.astype(np.int32)))
    return detections, truths


@pytest.mark.parametrize("annotated", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_what_pycocotools_says_of_the_same_json_files(tmp_path, seed, annotated):
    """With the areas of masks, which put objects elsewhere among small, medium and large, and with those of boxes."""
    detections, truths = scene(seed)
    if not annotated:
        truths = [t._replace(areas=None) for t in truths]
    annotations = [{"id": 1 + 6 * i + j, "image_id": i, "category_id": int(t.classes[j]),
                    "iscrowd": int(t.difficult[j]),
                    "bbox": [*map(float, b[:2]), float(b[2] - b[0]), float(b[3] - b[1])],
                    "area": float(t.areas[j] if annotated else (b[2] - b[0]) * (b[3] - b[1]))}
                   for i, t in enumerate(truths) for j, b in enumerate(t.boxes)]
    results = [{"image_id": i, "category_id": int(d.classes[j]), "score": float(d.scores[j]),
                "bbox": [*map(float, b[:2]), float(b[2] - b[0]), float(b[3] - b[1])]}
               for i, d in enumerate(detections) for j, b in enumerate(d.boxes)]
    (tmp_path / "truth.json").write_text(json.dumps({
        "images": [{"id": i} for i in range(4)], "categories": [{"id": 0}, {"id": 1}], "annotations": annotations}))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(there, there.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = coco_ap(detections, truths, 2)
    assert 0.1 < ours["AP"] < 0.9
    for name, value in zip(ours, evaluation.stats, strict=False):
        assert ours[name] == pytest.approx(value, abs=1e-6) or (np.isnan(ours[name]) and value == -1)


def test_an_object_is_small_by_the_area_of_its_annotation():
    """D8: a box of 40x40 around 900 pixels."""
    box = np.array([[9, 2, 49, 42]], np.float32)
    truth = Objects(box, np.zeros(1, np.int32), np.zeros(1, bool), np.zeros(1, bool), np.array([900.0]))
    ap = coco_ap([Detections(box, np.ones(1, np.float32), np.zeros(1, np.int32))], [truth], 1)
    assert ap["AP small"] == ap["AP"] == pytest.approx(1)
    assert np.isnan(ap["AP medium"])
    assert np.isnan(ap["AP large"])


def test_perfect_and_empty_detections():
    _, truths = scene(1)
    perfect = [Detections(t.boxes, np.ones(6, np.float32), t.classes) for t in truths]
    assert coco_ap(perfect, truths, 2)["AP"] == pytest.approx(1)
    nothing = [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))] * 4
    assert coco_ap(nothing, truths, 2)["AP"] == 0
