"""JSON that is written holds no bare NaN, which no other reader of JSON takes."""

import json
import math
from typing import Any

import numpy as np
import pytest

from cnnjax.experiments import ladder
from cnnjax.training import workdir as workdirs


def strict(text: str) -> Any:
    """JSON as the standard has it."""
    def refuse(constant: str) -> None:
        raise AssertionError(f"bare {constant}")
    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(("value", "expected"), [
    (math.nan, None), (math.inf, None), (-math.inf, None), (np.float64("nan"), None), (1.5, 1.5), (3, 3),
    ("NaN", "NaN"), ({"a": [math.nan, (1.0, math.inf)], "b": {"c": math.nan, "d": True}},
     {"a": [None, [1.0, None]], "b": {"c": None, "d": True}})])
def test_numbers_that_are_not_finite_are_null(value, expected):
    assert strict(workdirs.to_json(value)) == expected


def test_rows_with_nan_are_read_back_as_they_were(tmp_path):
    path = tmp_path / workdirs.METRICS
    workdirs.write_rows(path, [{"step": 1, "loss": math.nan}])
    rows = workdirs.Rows(path, 1)
    rows.append({"step": 2, "loss": math.inf, "error": 0.5})
    rows.close()
    assert [strict(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": None}, {"step": 2, "loss": None, "error": 0.5}]
    back = workdirs.read_rows(path)
    assert [math.isnan(row["loss"]) for row in back] == [True, True]
    assert back[1]["error"] == 0.5


def test_ladder_reports_a_class_without_objects_as_nan():
    result = {"map": 0.5, "ap": {"cat": 0.5, "dog": math.nan}}
    text = workdirs.to_json(result)
    assert strict(text)["ap"] == {"cat": 0.5, "dog": None}
    back = {"title": "R-CNN"} | workdirs.with_nan(json.loads(text))
    assert ladder.class_table({"rcnn": back})[1] == [["R-CNN", "50.0", "nan"]]
