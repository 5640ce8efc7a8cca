"""Gathers finished cells of the CIFAR-10 depth study into the repository: a row each, and curves to draw.

    python -m cnnjax.experiments.collect FOLDER... --out experiments/results/depth_cifar10 --commit 454e1e4 \\
        --hardware "..."

FOLDER is a cell's: config.json, result.json, metrics.jsonl. `OUT.json` gets a row a cell (network, seed, steps, errors
as fractions, commit, hardware; a cell that is there is replaced), `OUT/cells/CELL/` its files, `OUT/config.json` the
config of a study of these cells. So OUT is the workdir of a finished study without its checkpoints, and the report is
made in it.
"""

import argparse
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnjax import config as configs
from cnnjax.configs.depth import cifar10_budget
from cnnjax.errors import UserError
from cnnjax.training import workdir as workdirs

from . import depth

FILES = ("config.json", "result.json", workdirs.METRICS)


def collect(folders: Sequence[Path], out: Path, *, commit: str, hardware: str) -> list[dict[str, Any]]:
    """Copies the cells into `out / "cells"` and gives the rows that `out.json` then holds.

    Numbers are kept with six digits. Raises UserError for a folder that holds no finished cell; nothing is then
    written.
    """
    unfinished = [str(folder) for folder in folders if not all((folder / name).is_file() for name in FILES)]
    if unfinished:
        raise UserError(f"{', '.join(unfinished)}: no finished cell; expected {', '.join(FILES)}")
    table = out.with_suffix(".json")
    rows = {(row["network"], row["seed"]): row for row in (json.loads(table.read_text()) if table.exists() else [])}
    for folder in folders:
        config, result = (json.loads((folder / name).read_text()) for name in FILES[:2])
        network, seed = config["model"]["name"], config["seed"]
        rows[network, seed] = {"network": network, "seed": seed, "steps": result["steps"],
                               "train_error": round(result["train_error"], 6), "test_error": result["test_error"],
                               "commit": commit, "hardware": hardware}
        cell = out / "cells" / f"{network}-seed{seed}"
        cell.mkdir(parents=True, exist_ok=True)
        config["data"] |= {"path": Path(config["data"]["path"]).name, "cache": ""}      # not of another's machine
        workdirs.write(cell / "config.json", workdirs.to_json(config, indent=2) + "\n")
        workdirs.write(cell / "result.json", workdirs.to_json(result, indent=2) + "\n")
        workdirs.write_rows(cell / workdirs.METRICS, map(_rounded, workdirs.read_rows(folder / workdirs.METRICS)))
    study = cifar10_budget.get_config()
    study.data.source = "tar"
    with study.ignore_type():
        study.study.kinds = tuple(kind for kind in study.study.kinds if any(n.startswith(kind) for n, _ in rows))
        study.study.depths = tuple(sorted({int(network.lstrip(string.ascii_letters)) for network, _ in rows}))
        study.study.seeds = tuple(sorted({seed for _, seed in rows}))
    workdirs.write(out / "config.json", configs.dump(study))
    ordered = [rows[key] for key in sorted(rows)]
    workdirs.write(table, "[\n" + ",\n".join(" " + workdirs.to_json(row) for row in ordered) + "\n]\n")
    return ordered


def _rounded(value: Any) -> Any:
    """The value with its numbers to six digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--hardware", required=True)
    options = parser.parse_args()
    rows = collect(options.folders, options.out, commit=options.commit, hardware=options.hardware)
    print(f"{len(rows)} cells in {options.out.with_suffix('.json')}")
    depth.report(options.out)


if __name__ == "__main__":
    main()
