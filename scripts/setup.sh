# Sourced by the other scripts: leaves an activated virtual environment with cnnjax installed.
# usage: . scripts/setup.sh [EXTRA]
# Reinstalls only when pyproject.toml or constraints.txt changed since the last time.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=""
for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "cnnjax needs Python 3.11, 3.12 or 3.13; none was found on PATH (set PYTHON=/path/to/python3)" >&2
    exit 2
fi

stamp=".venv/installed-${1:-base}"
if [ ! -x .venv/bin/python ]; then
    "$python" -m venv .venv || { echo "could not make .venv: is the venv module of $python installed?" >&2; exit 2; }
fi
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
    echo "installing cnnjax${1:+ with the extra $1} into .venv (about a minute)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".${1:+[$1]}"
    touch "$stamp"
fi
. .venv/bin/activate
