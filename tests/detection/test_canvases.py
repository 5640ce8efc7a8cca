"""Landscape and portrait images train together, and a run of them goes on where it stopped."""

import jax
import numpy as np

from cnnjax.data.detection_sets import DetectionData, DetectionSet, Objects
from cnnjax.detection import backbones, inference, pretraining, settings, stages
from cnnjax.training import workdir as workdirs
from tests.detection import tiny_ladder


def two_orientations():
    """Six landscape and four portrait images, each with one bright box."""
    images, objects = [], []
    for n in range(10):
        height, width = (32, 64) if n < 6 else (64, 32)
        image = np.zeros((height, width, 3), np.uint8)
        image[8:24, 4 + n:20 + n] = 255
        images.append(image)
        objects.append(Objects.of([((4 + n, 8, 20 + n, 24), 0, False, False)]))
    sizes = np.array([image.shape[:2] for image in images])
    split = DetectionSet(tuple(map(str, range(10))), sizes, tuple(objects), images.__getitem__)
    return DetectionData(split, split, ("box",), ())


def test_two_canvases_train_several_steps_a_dispatch_and_resume_to_the_same_bits(tmp_path):
    config = tiny_ladder.get_config()
    config.data.canvases = ((32, 64), (64, 32))
    data = two_orientations()
    phase = config.faster_rcnn.training
    phase.update(steps=12, batch_size=2, log_every=1, checkpoint_every=4, steps_per_dispatch=3)
    detector, rcnn = (settings.detector_of(config, name, 1) for name in ("faster_rcnn", "rcnn"))
    begin = pretraining.init_variables(detector, 0, rcnn.init(jax.random.key(0)))
    setup = stages.Setup(data.train, phase, 0, config.data.flip, config.data.jitter, begin, list)
    trained = {}

    def train(folder, steps):
        phase.steps = steps
        trained.update(stages.run(stages.stages_of(detector, setup), phase, folder))
        return backbones.flat(trained["params"])

    whole = train(tmp_path / "whole", 12)
    train(tmp_path / "parts", 4)            # ends within a block of steps that share a canvas
    parts = train(tmp_path / "parts", 12)
    for name, leaf in whole.items():
        np.testing.assert_array_equal(leaf, parts[name], err_msg=name)
    rows = workdirs.read_rows(tmp_path / "whole" / workdirs.METRICS)
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows == workdirs.read_rows(tmp_path / "parts" / workdirs.METRICS)
    for i in (0, 9):
        boxes = inference.predict(detector, trained, data.train.read(i)).detections.boxes
        assert (boxes[:, 2] <= data.train.sizes[i][1] + 1e-3).all()
