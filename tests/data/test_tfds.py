"""TensorFlow Datasets: prepared by its own builder in a process with TensorFlow, read in one without."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest

from cnnjax import data
from cnnjax.data import tfds
from cnnjax.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


def _run(code_or_args, **environment):
    return subprocess.run([sys.executable, *code_or_args], env={**os.environ, **environment}, capture_output=True,
                          text=True, check=False, timeout=600)


def _cifar_archive():
    """cifar-10-binary.tar.gz in the official layout: per image one byte of label and 3x32x32 of pixels, planes R, G, B.

    Returns its bytes, and images and labels by split in the order of the files.
    """
    rng = np.random.RandomState(0)
    files, truth = {"batches.meta.txt": "\n".join((*CLASSES, "")).encode()}, {}
    for split, names, count in (("train", [f"data_batch_{i}.bin" for i in range(1, 6)], 8),
                                ("test", ["test_batch.bin"], 20)):
        images = rng.randint(0, 256, (len(names) * count, 32, 32, 3)).astype(np.uint8)
        labels = (np.arange(len(images)) % 10).astype(np.uint8)
        rows = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(len(images), -1)], 1)
        files |= {name: rows[i * count:(i + 1) * count].tobytes() for i, name in enumerate(names)}
        truth[split] = images, labels
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue(), truth


def _place_download(data_dir, url, content):
    """Puts an archive where TFDS keeps what it has downloaded and checked, so that it finds it there."""
    import tensorflow_datasets
    from tensorflow_datasets.core.download import resource

    info = tensorflow_datasets.builder("cifar10", data_dir=data_dir, try_gcs=False).url_infos[url]
    file = data_dir / "downloads" / "cifar10" / resource.get_dl_fname(url, info.checksum)
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    file.with_name(file.name + ".INFO").write_text(json.dumps({"urls": [url], "dataset_names": ["cifar10"]}))


READ = """
import sys
import numpy as np
from cnnjax import data
dataset = data.load({"source": "cifar10", "path": sys.argv[1], "cache": sys.argv[2]}, 0)
again = data.load({"source": "tfds:cifar10", "path": sys.argv[1], "cache": sys.argv[2]}, 0)
assert isinstance(again.train.images, np.memmap)

import jax
from pathlib import Path
from cnnjax import classification
from cnnjax.data import streaming
from cnnjax.configs import defaults
config = defaults.classification()
config.data.update(source="cifar10", path=sys.argv[1], cache=sys.argv[2])
config.model.width = 4
config.schedule.name = "constant"
config.update(batch_size=8, steps=2, log_every=1, eval_every=2, checkpoint_every=2, tensorboard=False)
result = classification.train(config, Path(sys.argv[2]) / "run")
print("trained:", result)

photographs = streaming.open_tfds("cifar10", sys.argv[1])
(one, *_) = streaming.evaluation_batches(photographs.test, 20, 32, 32, workers=1)
assert np.array_equal(one["image"], dataset.test.images) and np.array_equal(one["label"], dataset.test.labels)
assert "tensorflow" not in sys.modules, "TensorFlow was imported"
np.savez(sys.argv[3], train_images=dataset.train.images, train_labels=dataset.train.labels,
         test_images=dataset.test.images, test_labels=dataset.test.labels, classes=dataset.classes)
"""


def _by_image(images, labels):
    return {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}


@pytest.mark.slow      # a minute, most of it TensorFlow's import; last run 2026-11-24, TensorFlow 2.21
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs the extra tfds")
def test_cifar10_is_prepared_by_tfds_and_read_without_tensorflow(tmp_path):
    content, truth = _cifar_archive()
    _place_download(tmp_path, ARCHIVE, content)
    done = _run(["-m", "cnnjax.data.prepare", "cifar10", "--data-dir", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("cifar10/3.0.2")

    done = _run(["-c", READ, str(tmp_path), str(tmp_path / "cache"), str(tmp_path / "read.npz")])
    assert done.returncode == 0, done.stderr
    assert "trained: {" in done.stdout
    read = np.load(tmp_path / "read.npz")
    assert tuple(read["classes"]) == CLASSES
    for split, (images, labels) in truth.items():       # TFDS shuffles once while it prepares
        assert _by_image(read[f"{split}_images"], read[f"{split}_labels"]) == _by_image(images, labels)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs the extra tfds")
def test_a_set_that_is_not_prepared_is_prepared_by_load(tmp_path, capfd):
    content, truth = _cifar_archive()
    _place_download(tmp_path, ARCHIVE, content)
    dataset = data.load({"source": "cifar10", "path": str(tmp_path), "cache": str(tmp_path / "cache")}, 0)
    assert "preparing the TFDS set cifar10" in capfd.readouterr().err
    assert _by_image(*dataset.test[:2]) == _by_image(*truth["test"])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs the extra tfds")
def test_without_a_network_it_says_so_at_once(tmp_path):
    started = time.monotonic()
    unreachable = "http://127.0.0.1:9"                  # the discard port: refused
    done = _run(["-m", "cnnjax.data.prepare", "cifar10", "--data-dir", str(tmp_path)], https_proxy=unreachable,
                HTTPS_PROXY=unreachable, no_proxy="", NO_PROXY="")
    assert done.returncode == 2
    assert time.monotonic() - started < 60              # TFDS alone: over three minutes
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("no network to download the TFDS set 'cifar10': put cifar-10-binary.tar.gz (https://")
    assert str(tmp_path / "downloads" / "manual") in last


def test_without_tensorflow_it_says_what_to_install(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else found(name))
    with pytest.raises(UserError) as caught:
        data.load({"source": "cifar10", "path": str(tmp_path)}, 0)
    assert str(caught.value) == (f"data.source: TFDS set 'cifar10' is not prepared in {tmp_path}, and preparing it "
                                 "needs TensorFlow: pip install 'cnnjax[tfds]', or copy the prepared folder here and "
                                 "set data.path")


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="is about its absence")
def test_preparing_without_tensorflow_is_one_line_and_status_2(tmp_path):
    done = _run(["-m", "cnnjax.data.prepare", "cifar10", "--data-dir", str(tmp_path)])
    assert done.returncode == 2
    assert done.stderr == "preparing the TFDS set 'cifar10' needs TensorFlow: pip install 'cnnjax[tfds]'\n"


def test_a_config_or_version_that_does_not_exist_is_told(tmp_path):
    for name in ("cifar10:1.0.0", "cifar10/none", "cifar10_corrupted/none"):
        with pytest.raises(UserError, match=f"TFDS set '{name}' cannot be opened") as caught:
            data.load({"source": name, "path": str(tmp_path)}, 0)
        assert "\n" not in str(caught.value)


def test_a_set_without_one_label_an_image_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_is_prepared", lambda folder: True)
    for name, said in (("voc/2007", "is not one of images with a label (it has no supervised keys)"),
                       ("imdb_reviews", "is not one of images with a label (its keys are 'text' and 'label')")):
        with pytest.raises(UserError) as caught:
            data.load({"source": name, "path": str(tmp_path)}, 0)
        assert said in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="is about its absence")
def test_a_builder_that_needs_tensorflow_is_told(tmp_path):
    with pytest.raises(UserError, match="TFDS set 'coco/2017' cannot be opened: it needs the module"):
        data.load({"source": "coco/2017", "path": str(tmp_path)}, 0)


def test_where_sets_are_prepared(tmp_path, monkeypatch):
    assert tfds.data_dir(str(tmp_path)) == tmp_path
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "b"))
    assert tfds.data_dir("") == tmp_path / "b"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tfds.data_dir("") == tmp_path / "tensorflow_datasets"


def test_reading_a_set_does_not_import_tensorflow():
    done = _run(["-c", "import sys; from cnnjax.data import tfds; tfds.builder('cifar10', '');"
                       "assert 'tensorflow' not in sys.modules"])
    assert done.returncode == 0, done.stderr
