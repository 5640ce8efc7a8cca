"""`ssd300_vgg16` against torchvision itself, where it is installed (extra `torch`).

Slow: last run with torch 2.14 and torchvision 0.29, all passed.
"""

import jax
import numpy as np
import pytest

from cnnjax import interop, ops
from cnnjax.detection import ssd
from tests.detection import ssd_cases as cases

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def theirs():
    model = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None).eval()
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.tensor(value) for key, value in cases.weights(shapes).items()})
    return model


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    """Variables by the way of a file, and back as a strict state dict."""
    file = tmp_path_factory.mktemp("ssd") / "ssd300.pth"
    torch.save(theirs.state_dict(), file)
    variables = interop.from_torch("ssd300_vgg16", file)
    again = interop.to_torch("ssd300_vgg16", variables)
    theirs.load_state_dict({key: torch.tensor(value) for key, value in again.items()})
    return variables


def nearest(box, label, boxes, labels):
    """The place of the detection of that label that is nearest."""
    return int(np.where(labels == label, np.abs(boxes - box).max(1), np.inf).argmin())


@pytest.mark.parametrize("index", range(3))
def test_detections_of_images_of_three_shapes(theirs, ours, index):
    image = cases.image(index)
    with torch.no_grad():
        expected = theirs([torch.tensor(image).permute(2, 0, 1) / 255])[0]
    detector = ssd.create_torchvision(90)
    canvas, size = detector.preprocess(image)
    boxes, scores, classes, mask = (part[0] for part in detector.predict(ours, canvas[None], size[None])[:4])
    assert mask.sum() == len(expected["scores"])
    boxes, scores = np.asarray(ops.resize_boxes(boxes, image.shape[0] / 300, image.shape[1] / 300)), np.asarray(scores)
    places = [nearest(box, label, boxes, classes + 1) for box, label in
              zip(expected["boxes"].numpy(), expected["labels"].numpy(), strict=True)]
    assert sorted(places) == list(range(len(places)))
    np.testing.assert_allclose(boxes[places], expected["boxes"], atol=0.05)
    np.testing.assert_allclose(scores[places], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(scores, scores[places], atol=2e-5)       # the same order, but for scores this near
    print(f"boxes within {np.abs(boxes[places] - expected['boxes'].numpy()).max():.1g} px, scores within "
          f"{np.abs(scores[places] - expected['scores'].numpy()).max():.1g}")


def test_the_losses_of_a_minibatch(theirs, ours):
    images = [cases.image(i) for i in range(2)]
    truth = [(np.array([[20, 30, 200, 160], [220, 90, 290, 280]], np.float32), np.array([3, 17])),
             (np.zeros((0, 4), np.float32), np.zeros(0, int))]
    detector = ssd.create_torchvision(90)
    canvases = np.stack([detector.preprocess(image)[0] for image in images])
    theirs.train()
    losses = theirs([torch.tensor(canvas).permute(2, 0, 1) / 255 for canvas in canvases],
                    [{"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)} for boxes, labels in truth])
    theirs.eval()
    batch = {"images": canvases, "boxes": np.stack([np.resize(boxes, (2, 4)) for boxes, _ in truth]),
             "classes": np.stack([np.resize(labels - 1, 2) for _, labels in truth]),
             "difficult": np.zeros((2, 2), bool), "mask": np.array([[True, True], [False, False]])}
    _, (_, metrics) = jax.jit(lambda batch: detector.loss(ours, batch, jax.random.key(0), {}))(batch)
    assert float(metrics["class_loss"]) == pytest.approx(losses["classification"].item(), rel=1e-4)
    assert float(metrics["box_loss"]) == pytest.approx(losses["bbox_regression"].item(), rel=1e-4)
