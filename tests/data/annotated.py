"""Small detection data sets in files, for the tests of their readers: made, loaded, and compared with what was made."""

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cnnjax.data import detection

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF",
           ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM"}


def picture(path, size=(64, 48)):
    """Writes an image of that width and height, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 60)).save(path, FORMATS[path.suffix.lower()])


def load(source, root, train, test, seed=0, **fields):
    """The data set at `root`, by default with all its classes, refused at the first fault."""
    return detection.load(ConfigDict({"source": source, "path": str(root), "train_split": train, "test_split": test,
                                      "classes": (), "on_error": "stop", **fields}), seed)


def check(images, names, box):
    """Asserts that the images are those of `picture` by these names, each with that one box of the first class."""
    assert images.names == names
    for i in range(len(names)):
        assert images.read(i).shape == (48, 64, 3)
        np.testing.assert_array_equal(images.objects[i].boxes, [box])
        assert images.objects[i].classes.tolist() == [0]
