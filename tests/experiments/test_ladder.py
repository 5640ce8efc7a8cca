"""The four detectors from pixels to report, by the real code on tiny images."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import cli
from cnnjax import config as configs
from cnnjax.configs.ladder import bccd, defaults, scatter, voc2007
from cnnjax.data import detection as datasets
from cnnjax.detection import backbones, detect, pictures, saved, settings
from cnnjax.errors import UserError
from cnnjax.experiments import ladder
from cnnjax.training import workdir as workdirs
from tests.conftest import ROOT, free_port, start
from tests.data import test_voc
from tests.tiny_runs import TINY_LADDER as TINY

KINDS = ("rcnn", "sppnet", "fast_rcnn", "faster_rcnn")


@pytest.mark.parametrize("module", [bccd, scatter, voc2007])
def test_every_config_has_the_fields_of_the_defaults(module):
    config = module.get_config()
    configs.check(config, defaults.ladder())
    ladder.check(config)


def test_a_mistaken_detector_is_named():
    with pytest.raises(UserError, match=r"found 'yolo9', expected one of rcnn, .*did you mean 'yolo'"):
        ladder.run(configs.load(TINY, ["detectors=('yolo9',)"]), Path("never"))


def test_the_ladder_leaves_a_table_a_figure_and_a_report(ladder_run):
    for kind in KINDS:
        result = json.loads((ladder_run / "cells" / kind / "result.json").read_text())
        assert 0 <= result["map"] <= 1
        assert result["image_seconds"]["network"] > 0
        assert (result["image_seconds"]["proposals"] > 0) == (kind != "faster_rcnn")
        assert (result["disk_bytes"] > 0) == (kind != "faster_rcnn")
        assert (ladder_run / "cells" / kind / "figures" / "detections.png").stat().st_size > 0
    table = (ladder_run / "table.md").read_text()
    for title in ("R-CNN", "SPP-net", "Fast R-CNN", "Faster R-CNN", "selective search", "region proposal network"):
        assert f"| {title} |" in table
    assert "data:image/png" in (ladder_run / "report.html").read_text()


def result_of(title, proposals_by, accuracy, seconds):
    coco = {"AP": accuracy / 2, "AP small": math.nan, "AP medium": accuracy / 3, "AP large": accuracy}
    return {"title": title, "proposals_by": proposals_by, "map": accuracy, "coco": coco, "seconds": 60.0,
            "resumed": False, "proposal_seconds": 0.0, "disk_bytes": 0,
            "image_seconds": {"proposals": 0.0, "network": seconds, "rest": 0.0}}


def test_the_two_families_are_told_apart(tmp_path):
    results = {"yolo": result_of("YOLO", "", 0.5, 0.01), "fast_rcnn": result_of("Fast", "selective search", 0.6, 0.2),
               "faster_rcnn": result_of("Faster", "region proposal network", 0.9, 0.1),
               "ssd": result_of("SSD", "", 0.8, 0.02)}
    header, rows = ladder.table(results)
    assert [row[:2] for row in rows] == [["Fast", "two-stage"], ["Faster", "two-stage"], ["YOLO", "one-stage"],
                                         ["SSD", "one-stage"]]
    assert all(len(row) == len(header) for row in rows)
    assert rows[1][2:7] == ["90.0", "45.0", "-", "30.0", "90.0"]
    first, second = ladder.verdict(results)
    assert first == ("Faster takes 0.100 s an image, Fast 0.200 s: 2.0 times as fast. Its mAP is +30.0 points, its "
                     "COCO AP +15.0, most of large objects, +30.0. It was trained in 1.0 min, keeping 0.0 MB on disk, "
                     "against 1.0 min and 0.0 MB.")
    assert second.startswith("SSD takes 0.020 s an image, YOLO 0.010 s: 0.5 times as fast, so not faster. Its mAP is")
    ladder.figure(results, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 0


def test_a_finished_ladder_is_not_run_again(ladder_run):
    before = {p: p.stat().st_mtime_ns for p in ladder_run.glob("cells/**/*") if p.is_file()}
    ladder.run(configs.load(TINY), ladder_run)
    assert before == {p: p.stat().st_mtime_ns for p in ladder_run.glob("cells/**/*") if p.is_file()}


def test_the_report_tells_faults_from_what_is_not_used_by_choice():
    text = "".join(ladder.data_parts({"skipped": ["a.xml: no box"], "unused": ["2 objects of 'dog'", "b.jpg: hidden"],
                                      "notes": []}))
    assert "1 faulty, skipped" in text
    assert "2 not used" in text
    assert "fault" not in text[text.index("not used"):]
    assert "notes" not in text
    assert ladder.data_parts({"skipped": []}) == []         # of an older run


def test_a_split_drawn_by_seed_is_kept_said_and_holds_for_the_workdir(tmp_path):
    for i in range(10):
        test_voc.picture(tmp_path / "set" / f"{i}.jpg")
        test_voc.annotation(tmp_path / "set" / f"{i}.xml")
    config = configs.load(TINY, ["data.source=voc", f"data.path={tmp_path / 'set'}"])
    data = datasets.load(config.data, 0)
    ladder.keep_data(tmp_path, data)
    assert "2 of its 10 images are it, drawn by seed 0" in data.said()[0]
    assert json.loads((tmp_path / "data.json").read_text())["split"] == {
        "train": list(data.train.names), "test": list(data.test.names)}
    ladder.keep_data(tmp_path, data)
    with pytest.raises(UserError, match="was begun with another split of the data"):
        ladder.keep_data(tmp_path, datasets.load(config.data, 1))


def test_detections_of_files_are_drawn_and_listed(ladder_run, tmp_path):
    image = datasets.load(configs.load(TINY).data, 0).test.read(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for name, picture in {"a.png": image, "wide.png": np.tile(image, (1, 3, 1)), "one.png": image[:1, :1]}.items():
        detect.boxes.save(picture, folder / name)
    rows = detect.run(ladder_run / "cells" / "faster_rcnn", [folder], tmp_path / "out", score_threshold=0.0)
    assert [Path(r["file"]).name for r in rows] == ["a.png", "one.png", "wide.png"]
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == rows
    assert (tmp_path / "out" / "wide.png").exists()
    for row, (height, width) in zip(rows, [(64, 64), (1, 1), (64, 192)], strict=True):
        for found in row["detections"]:
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 <= x2 <= width + 0.01
            assert 0 <= y1 <= y2 <= height + 0.01
    with pytest.raises(UserError, match="no trained detector"):
        detect.run(tmp_path, [folder], tmp_path / "out")
    with pytest.raises(UserError, match="no such image or folder"):
        detect.run(ladder_run / "cells" / "faster_rcnn", [tmp_path / "b.png"], tmp_path / "out")


def test_pictures_of_anchors_proposals_rois_and_pyramids(ladder_run, tmp_path):
    config = configs.load(TINY)
    image = np.zeros((64, 64, 3), np.uint8)
    faster = settings.detector_of(config, "faster_rcnn", 10)
    assert pictures.anchors_picture(faster, image).any()
    with pytest.raises(UserError, match="the map has 32 rows and 32 columns"):
        pictures.anchors_picture(faster, image, 32, 0)
    assert pictures.rois_picture(faster, image, (10, 10, 30, 40)).any()
    assert pictures.pyramid_picture(faster, image, (1, 2)).any()
    with pytest.raises(UserError, match="--pyramid 0: expected at least 1 bin"):
        pictures.pyramid_picture(faster, image, (0,))
    with pytest.raises(UserError, match="has no area"):
        pictures.rois_picture(faster, image, (10, 10, 10, 40))
    search = settings.detector_of(config, "rcnn", 10).proposals
    kept = pictures.proposals_picture(search, image, [ladder_run / "cells" / "faster_rcnn"])
    assert kept.shape == (384, 384, 3)
    assert (kept != pictures.proposals_picture(search, image)).any()
    workdirs.write(tmp_path / "config.json", configs.dump(config))
    for what in ("anchors", "proposals", "roi"):
        assert pictures.draw(tmp_path, what, image, (10, 10, 30, 40)).stat().st_size > 0
    config.detectors = ("rcnn",)
    workdirs.write(tmp_path / "config.json", configs.dump(config))
    with pytest.raises(UserError, match=r"none of its detectors \(rcnn\) has anchors"):
        pictures.draw(tmp_path, "anchors", image)


def test_a_detector_alone_is_the_step_of_its_ladder(ladder_run, tmp_path):
    config = settings.alone(configs.load(TINY), "fast_rcnn")
    file = tmp_path / "alone.json"
    file.write_text(configs.dump(config))
    assert file.read_text() == (ladder_run / "cells" / "fast_rcnn" / "config.json").read_text()
    workdir = tmp_path / "run"
    assert cli.main(["train", "--config", str(file), "--workdir", str(workdir)]) == 0
    for name in ("metrics.jsonl", "config.json", "detector.json"):
        assert (workdir / name).read_bytes() == (ladder_run / "cells" / "fast_rcnn" / name).read_bytes()
    results = [json.loads((w / "result.json").read_text()) for w in (workdir, ladder_run / "cells" / "fast_rcnn")]
    assert results[0]["ap"] == results[1]["ap"]
    assert "Fast R-CNN, 4 images to train" in (workdir / "report.html").read_text()
    for again in (["report", str(workdir)], ["eval", "--workdir", str(workdir)]):
        (workdir / "report.html").unlink()
        assert cli.main(again) == 0
        assert (workdir / "report.html").exists()
    assert json.loads((workdir / "result.json").read_text())["ap"] == results[0]["ap"]
    assert cli.main(["eval", "--workdir", str(workdir), "--split", "validation"]) == 2
    before = (workdir / "result.json").stat().st_mtime_ns
    assert cli.main(["train", "--config", str(file), "--workdir", str(workdir)]) == 0
    assert (workdir / "result.json").stat().st_mtime_ns == before
    assert pictures.draw(workdir, "proposals", np.zeros((64, 64, 3), np.uint8)).exists()


@pytest.mark.parametrize(("override", "message"), [
    ("model.rois=0", "'model.rois': found 0"), ("model.backbone.pool=0", "'model.backbone.pool': found 0"),
    ("model.roi=3", "no field 'model.roi'"), ("steps=0", "'steps': found 0"), ("windows.side=0", "'windows.side'"),
    ("eval_every=2", "'eval_every': found 2, under steps = 10"), ("model.name=ssd", "lacks the field 'model."),
    ("optimizer.label_smoothing=0.5", "no detector smooths"), ("data.canvases=()", "'data.canvases'"),
    ("transforms=({'name':'iou_crop'},)", "'transforms': found 1"), ("pretraining.steps=0", "'pretraining.steps'")])
def test_a_mistake_in_the_config_of_one_detector_is_named(tmp_path, capsys, override, message):
    file = tmp_path / "alone.json"
    file.write_text(configs.dump(settings.alone(configs.load(TINY), "fast_rcnn")))
    assert cli.main(["train", "--config", str(file), "--workdir", str(tmp_path / "w"), f"--config.{override}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_an_image_without_objects_trains_without_box_losses():
    detector = settings.detector_of(configs.load(TINY), "faster_rcnn", 10)
    variables = detector.init(jax.random.key(0))
    batch = {"images": jnp.full((2, 64, 64, 3), 99, jnp.uint8), "sizes": jnp.full((2, 2), 64),
             "boxes": jnp.zeros((2, 8, 4)), "classes": jnp.zeros((2, 8), jnp.int32),
             "difficult": jnp.zeros((2, 8), bool), "mask": jnp.zeros((2, 8), bool)}

    def value(params):
        return detector.loss({**variables, "params": params}, batch, jax.random.key(0), {})
    (total, (_, metrics)), gradients = jax.jit(jax.value_and_grad(value, has_aux=True))(variables["params"])
    assert jnp.isfinite(total)
    assert metrics["rpn_box_loss"] == metrics["box_loss"] == metrics["foreground"] == 0
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert not gradients["roi_heads"]["boxes"]["kernel"].any()


# Last run 2026-11-24: passed, 10 minutes on two cores with other work beside.
@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_result(ladder_run, tmp_path):
    command = [sys.executable, "-c", "import sys; from pathlib import Path; from cnnjax import config; "
               "from cnnjax.experiments import ladder; ladder.run(config.load(sys.argv[1]), Path(sys.argv[2]))",
               str(TINY), str(tmp_path)]
    for kind in KINDS:                  # killed once in the training of each, at its first checkpoint or soon after
        process = subprocess.Popen(command, cwd=ROOT)
        while process.poll() is None and not list((tmp_path / "cells").glob(f"{kind}/**/checkpoints/step_*")):
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "cells" / kind / "detector.json").exists()
    subprocess.run(command, cwd=ROOT, check=True)
    for kind in KINDS:
        there, here = (backbones.flat(saved.load(w / "cells" / kind).variables) for w in (ladder_run, tmp_path))
        for name, array in there.items():
            np.testing.assert_array_equal(here[name], array, err_msg=f"{kind} {name}")
    rows = [{f.relative_to(w): f.read_text() for f in w.glob("cells/**/metrics.jsonl")} for w in (ladder_run, tmp_path)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 5            # of the pre-training too


# Last run 2026-11-25: passed, 1 minute on two loaded cores.
@pytest.mark.slow
def test_two_processes_train_as_two_devices_of_one(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("from tests.faults import tiny_faster\n\n\ndef get_config():\n"
                      "    config = tiny_faster.get_config()\n    for phase in (config.pretraining, "
                      "config.faster_rcnn.training):\n        phase.update(steps=6, log_every=2, checkpoint_every=6, "
                      "eval_every=6)\n    return config\n")
    address = ("--coordinator", f"localhost:{free_port()}", "--processes", "2")
    several = [start("ladder", "--config", config, "--workdir", tmp_path / "several", *address, "--process", n)
               for n in range(2)]
    for process in (*several, start("ladder", "--config", config, "--workdir", tmp_path / "one", "--devices", "2",
                                    devices=2)):
        assert process.wait(timeout=600) == 0, process.stderr.read()
    rows = [{f.relative_to(w): f.read_text() for f in w.glob("cells/**/metrics.jsonl")}
            for w in (tmp_path / "one", tmp_path / "several")]
    assert len(rows[0]) == 2
    assert rows[0] == rows[1]
    results = [json.loads((tmp_path / w / "cells" / "faster_rcnn" / "result.json").read_text())
               for w in ("one", "several")]
    assert results[0]["ap"] == results[1]["ap"]
    assert (tmp_path / "several" / "report.html").exists()


# Last run 2026-11-24: passed, 3.5 minutes on two loaded cores.
@pytest.mark.slow
def test_alternating_training_holds_what_it_shares(tmp_path):
    config = configs.load(TINY, ["faster_rcnn.method=alternating", "detectors=('faster_rcnn',)"])
    ladder.run(config, tmp_path)
    cell = tmp_path / "cells" / "faster_rcnn"
    last = backbones.flat(saved.load(cell).variables["params"])
    steps = [saved.read_arrays(cell / f"step{n}" / "variables.npz") for n in (1, 2, 3)]
    assert (cell / "step4" / "metrics.jsonl").exists()
    for part, shared in (("trunk", steps[1]), ("rpn", steps[2])):
        for path, value in backbones.flat(shared["params"][part]).items():
            np.testing.assert_array_equal(value, last[f"{part}/{path}"], err_msg=path)
    (begun_from,) = (tmp_path / "cells").glob("backbone-*/variables.npz")
    begun = backbones.flat(saved.read_arrays(begun_from)["params"])
    assert (last["trunk/net/conv1_1/kernel"] != begun["trunk/net/conv1_1/kernel"]).any()
