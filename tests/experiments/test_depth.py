"""The depth study: its grid, its verdict, and a whole tiny study through the command's own code."""

import math

import pytest

from cnnjax import config as configs
from cnnjax.errors import UserError
from cnnjax.reporting.statistics import binomial_half_width, mean_interval
from cnnjax.training import workdir as workdirs
from configs import defaults
from experiments import depth
from experiments.depth import Cell
from tests.conftest import TINY


def study(*overrides):
    config = defaults.depth_study()
    config.update(configs.load(TINY).copy_and_resolve_references())
    for override in overrides:
        configs.set_field(config, *override.split("=", 1))
    return config


def result(test_error, train_error=0.1, **more):
    return {"test_error": test_error, "train_error": train_error, "test_images": 10_000, "parameters": 1,
            "images_per_second": 1.0, "seconds": 60.0, **more}


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


def test_the_verdict_names_the_numbers_it_rests_on():
    results = {Cell("plain", 20, s): result(0.10 + 0.001 * s) for s in range(3)}
    results |= {Cell("plain", 56, s): result(0.20 + 0.001 * s, train_error=0.3) for s in range(3)}
    results |= {Cell("resnet", 20, s): result(0.10) for s in range(3)}
    results |= {Cell("resnet", 56, s): result(0.08) for s in range(3)}
    plain, residual, note = depth.verdict(results)
    assert plain.startswith("plain: 56 layers worse than 20 by 10.00 ± 0.35 points (test error 10.10 ± 0.25 % at 20")
    assert "training error rises as well, from 10.00 to 30.00 %" in plain
    assert residual.startswith("resnet: 56 layers better than 20 by 2.00 ± 0.00 points")
    assert "over 3 seeds" in note


def test_the_verdict_says_not_shown_when_intervals_overlap():
    results = {Cell("resnet", 20, s): result(0.10 + 0.01 * s) for s in range(3)}
    results |= {Cell("resnet", 56, s): result(0.11 + 0.01 * s) for s in range(3)}
    assert "not shown" in depth.verdict(results)[0]


def test_one_seed_is_judged_by_the_test_images_and_says_so():
    results = {Cell("plain", 20, 0): result(0.10), Cell("plain", 56, 0): result(0.105)}
    sentence, note = depth.verdict(results)
    assert "not shown" in sentence
    assert "one seed says nothing of the spread" in note


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


@pytest.mark.parametrize(("norms", "judged"), [
    ([1e-5] * 3 + [1.0] * 6, "the gradient vanishes"),
    ([1.0] * 9, "neither vanishes nor explodes"),
    ([1e4] * 3 + [1.0] * 6, "the gradient explodes"),
])
def test_findings_on_gradients_come_from_the_numbers(norms, judged):
    (sentence,) = depth.layer_findings({"plain56": {"gradient_norm": norms, "response_std": [1.0]}}, 10)
    assert judged in sentence


def test_a_whole_study(tmp_path, capsys):
    config = study("study.depths=(20,32)", "steps=10", "diagnostics=True")
    depth.run(config, tmp_path)
    shown = capsys.readouterr().out
    assert f"report: {tmp_path / 'report.html'}" in shown
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page.replace("http-equiv", ""), "the report must be readable offline"
    for cell in depth.cells(config):
        rows = workdirs.read_rows(tmp_path / "cells" / cell.folder / workdirs.METRICS)
        layers = [r for r in rows if r["split"] == "layers"]
        # blocks=(1, 1, 1) whatever the name: the stem and two convolutions a block
        assert [len(layers[0]["gradient_norm"]), len(layers[0]["response_std"])] == [7, 7]
    before = page
    depth.run(config, tmp_path)                 # nothing is trained again, the report is the same
    assert (tmp_path / "report.html").read_text() == before
