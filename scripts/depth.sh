#!/usr/bin/env bash
# Sets everything up, then runs the depth comparison on the embedded data set and prints where the report is.
# Arguments go to the study: bash scripts/depth.sh --config configs/depth/cifar10_budget.py --config.data.path=...
set -euo pipefail
extra="" . "$(dirname "$0")/setup.sh"
cnnjax depth --workdir runs/depth "$@"
