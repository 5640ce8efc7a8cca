#!/usr/bin/env bash
# Sets everything up, then lints, checks types and runs the tests. Arguments go to pytest: bash scripts/test.sh -m slow
set -euo pipefail
. "$(dirname "$0")/setup.sh" test
ruff check .
mypy
python -m pytest "$@"
