"""The depth study: its grid, its verdict, and a whole tiny study through the command's own code."""

import json
import math
import shutil

import pytest

from cnnjax import config as configs
from cnnjax.configs import defaults
from cnnjax.errors import UserError
from cnnjax.experiments import collect, depth
from cnnjax.experiments.depth import Cell
from cnnjax.reporting.statistics import binomial_half_width, difference_interval, mean_interval
from cnnjax.training import workdir as workdirs
from tests import tiny_runs


def study(*overrides):
    return tiny_runs.depth_study("study.depths=(20,56)", *overrides)


def result(test_error, train_error=0.1, **more):
    return {"test_error": test_error, "train_error": train_error, "test_images": 10_000, "parameters": 1,
            "images_per_second": 1.0, "seconds": 60.0, "steps": 4000, **more}


def test_the_grid_is_all_kinds_and_depths_seed_by_seed():
    config = study("study.seeds=(3,4)")
    cells = list(depth.cells(config))
    assert [c.folder for c in cells[:4]] == ["plain20-seed3", "resnet20-seed3", "plain56-seed3", "resnet56-seed3"]
    assert len(cells) == 8


def test_a_cell_is_what_train_would_be_given():
    config = depth.cell_config(study(), Cell("plain", 56, 7))
    configs.check(config, defaults.classification())
    assert (config.model.name, config.seed, config.schedule.warmup_steps) == ("plain56", 7, 0)


def test_110_layers_are_warmed_up_as_in_the_paper():
    config = depth.cell_config(study(), Cell("resnet", 110, 0))
    assert (config.schedule.warmup_steps, config.schedule.warmup_factor) == (400, 0.1)
    assert config.schedule.warmup == "constant"


@pytest.mark.parametrize("override", ["study.kinds=('plane',)", "study.depths=(21,)", "study.depths=()",
                                      "study.seeds=(1,1)"])
def test_a_study_without_sense_is_refused(override):
    with pytest.raises(UserError, match="config field 'study"):
        depth.check(study(override))


def seeds(network, errors, train_errors):
    kind, depth = network
    return {Cell(kind, depth, s): result(e, t) for s, (e, t) in enumerate(zip(errors, train_errors, strict=True))}


def test_the_verdict_judges_test_and_training_error_over_seeds():
    """Welch's t of two samples of three, deviation 0.1 points each: half = 2.776 * 0.1 * sqrt(2 / 3) = 0.23."""
    results = seeds(("plain", 20), [0.099, 0.100, 0.101], [0.08] * 3)
    results |= seeds(("plain", 56), [0.199, 0.200, 0.201], [0.3] * 3)
    results |= seeds(("resnet", 20), [0.099, 0.100, 0.101], [0.08] * 3)
    results |= seeds(("resnet", 56), [0.089, 0.090, 0.091], [0.06] * 3)
    plain, residual, note = depth.verdict(results, 128)
    assert plain == ("plain, 56 layers against 20 (3 seeds): test error worse by 10.00 ± 0.23 points (10.00 to 20.00 "
                     "%), and training error worse by 22.00 ± 0.00 points (8.00 to 30.00 %): the deeper net fits its "
                     "own training images worse, which is degradation and not overfitting.")
    assert "test error better by 1.00 ± 0.23 points" in residual
    assert "depth pays" in residual
    assert note == "Intervals are 95 %, over the seeds."


def test_a_worse_test_error_with_a_better_training_error_is_overfitting():
    results = seeds(("plain", 20), [0.099, 0.1, 0.101], [0.08] * 3) | seeds(("plain", 56), [0.2] * 3, [0.02] * 3)
    assert "overfitting and not degradation" in depth.verdict(results, 128)[0]


def test_the_verdict_says_not_shown_where_the_interval_holds_zero():
    results = seeds(("resnet", 20), [0.10, 0.11, 0.12], [0.1] * 3)
    results |= seeds(("resnet", 56), [0.11, 0.12, 0.13], [0.1] * 3)
    sentence = depth.verdict(results, 128)[0]
    assert "a difference in test error is not shown (11.00 to 12.00 %: +1.00 ± 2.27 points)" in sentence
    assert "a difference in training error is not shown" in sentence
    assert "depth pays" not in sentence


def test_one_seed_is_called_one_seed_and_judged_by_its_images():
    sentence, note = depth.verdict({Cell("plain", 20, 0): result(0.10), Cell("plain", 56, 0): result(0.105)}, 128)
    assert "(one seed)" in sentence
    assert "not shown" in sentence
    assert "nothing of the spread" in note
    mixed = seeds(("plain", 20), [0.1] * 3, [0.1] * 3) | {Cell("plain", 56, 0): result(0.3)}
    assert "(one seed against 3 seeds)" in depth.verdict(mixed, 128)[0]


def test_the_table_keeps_the_paper_in_a_column_of_its_own():
    config = study()
    config.study.published = defaults.CIFAR10_PUBLISHED
    header, rows = depth.table(config, {Cell("resnet", 20, 0): result(0.0912), Cell("plain", 20, 0): result(0.1)})
    assert [r[header.index("paper %")] for r in rows] == ["-", "8.75"]
    assert [r[header.index("test err %")] for r in rows] == ["10.00", "9.12"]


def test_intervals():
    """Student's t of 3 values: 4.303 s / sqrt(3); Wilson's interval of 50 of 100."""
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((2.0, 4.3027 / math.sqrt(3)), rel=1e-4)
    assert math.isnan(mean_interval([1.0])[1])
    assert binomial_half_width(0.5, 100) == pytest.approx(0.0962, abs=1e-4)
    assert binomial_half_width(0.0, 100) > 0


def test_welch_interval_of_a_difference():
    """Equal deviations s of three values each: 4 degrees of freedom, half 2.776 s sqrt(2 / 3)."""
    difference, half = difference_interval([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert (difference, half) == pytest.approx((3.0, 2.7764 * math.sqrt(2 / 3)), rel=1e-4)
    assert math.isnan(difference_interval([1.0], [1.0, 2.0])[1])


def test_the_paper_is_drawn_at_the_depths_of_the_study_only():
    config = study("study.depths=(20,56)")
    assert depth.paper(config) == {}
    config.study.published = defaults.CIFAR10_PUBLISHED
    assert depth.paper(config) == {"plain": [(20, 9.5), (56, 13.5)], "resnet": [(20, 8.75), (56, 6.97)]}


def test_a_whole_study(depth_run):
    page = (depth_run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "http" not in page.replace("http-equiv", ""), "the report must be readable offline"
    for cell in depth.cells(tiny_runs.depth_study()):
        rows = workdirs.read_rows(depth_run / "cells" / cell.folder / workdirs.METRICS)
        layers = [r for r in rows if r["split"] == "layers"]
        # blocks=(1, 1) whatever the name: the stem and two convolutions a block
        assert [len(layers[0]["gradient_norm"]), len(layers[0]["response_std"])] == [5, 5]


def test_a_finished_study_is_not_trained_again_and_its_report_is_the_same(tmp_path, capsys, depth_run):
    shutil.copytree(depth_run, tmp_path / "depth")
    config = tiny_runs.depth_study()
    depth.run(config, tmp_path / "depth")
    assert f"report: {tmp_path / 'depth' / 'report.html'}" in capsys.readouterr().out
    for name in ("report.html", *(f"cells/{cell.folder}/{workdirs.METRICS}" for cell in depth.cells(config))):
        assert (tmp_path / "depth" / name).read_bytes() == (depth_run / name).read_bytes()


def finished(folder, config, cell, test_error):
    """A finished cell as another workdir holds it, without its checkpoints."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(configs.dump(depth.cell_config(config, cell)))
    (folder / "result.json").write_text(json.dumps(result(test_error, steps=20)))
    workdirs.write_rows(folder / workdirs.METRICS, [{"step": 20, "split": split, "error": test_error}
                                                    for split in ("train", "test")])


def test_cells_of_several_workdirs_are_reported_together(tmp_path):
    config = study("study.kinds=('plain',)", "study.seeds=(0,1)")
    (tmp_path / "config.json").write_text(configs.dump(config))
    elsewhere = study("optimizer.accumulate=2", "data.path=elsewhere", "checkpoint_every=7")
    for cell in depth.cells(config):
        if cell.folder != "plain56-seed1":
            finished(tmp_path / "cells" / cell.folder, elsewhere if cell.seed else config, cell, 0.1 + cell.depth / 500)
    page = depth.report(tmp_path).read_text()
    assert "plain, 56 layers against 20 (one seed against 2 seeds): test error worse by 7.20" in page
    assert "own config: plain20-seed1 (optimizer.accumulate: 2 there, 1 here)." in page
    assert "not in any figure here: plain56-seed1." in page


def test_collected_cells_make_the_report_again(tmp_path, capsys):
    config, out = study(), tmp_path / "out"
    config.data.path = "/home/someone/cifar10.tar"
    for cell in (Cell("plain", 20, 0), Cell("plain", 56, 0)):
        finished(tmp_path / cell.folder, config, cell, 0.25)
    folders = [tmp_path / "plain20-seed0", tmp_path / "plain56-seed0"]
    rows = collect.collect(folders, out, commit="abc", hardware="a core")
    assert rows[0] == {"network": "plain20", "seed": 0, "steps": 20, "train_error": 0.1, "test_error": 0.25,
                       "commit": "abc", "hardware": "a core"}
    assert json.loads((tmp_path / "out.json").read_text()) == rows
    assert "someone" not in (out / "cells" / "plain20-seed0" / "config.json").read_text()
    assert depth.report(out).exists()
    with pytest.raises(UserError, match="no finished cell"):
        collect.collect([tmp_path], out, commit="", hardware="")
