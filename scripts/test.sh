#!/usr/bin/env bash
# Sets everything up, then lints, checks types and runs the tests. Arguments go to pytest: bash scripts/test.sh -m slow
set -euo pipefail
extra=test . "$(dirname "$0")/setup.sh"
ruff check .
mypy
# A process a core, four at most; a file's tests stay together, for what they share, and go in the order of conftest.py.
python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
