"""The table of short runs, from the files that a run leaves."""

import json

import pytest

from cnnjax import config as configs
from cnnjax.configs.zoo import shared
from cnnjax.errors import UserError
from cnnjax.experiments.zoo import table


def test_table(tmp_path):
    config = shared.digits("resnet18", steps=100, rate=0.1, stem="cifar", width=16)
    (tmp_path / "config.json").write_text(configs.dump(config))
    with pytest.raises(UserError, match=r"has no result.json"):
        table([tmp_path])
    result = {"parameters": 1234, "train_error": 0.215, "test_error": 0.117, "seconds": 12.3}
    (tmp_path / "result.json").write_text(json.dumps(result))
    last = table([tmp_path]).splitlines()[-1]
    assert last == "| resnet18 | stem=cifar, width=16 | 1,234 | 16 | 100 x 64 | 0 | 21.5 | 11.70 | 12 |"
