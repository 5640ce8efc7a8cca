# Sourced by the other scripts: leaves an activated virtual environment with cnnjax installed, and its extra $extra.
# (Not an argument: without one, a sourced script gets those of the script that sources it.)
# Reinstalls only when pyproject.toml, setup.py or constraints.txt changed since the last time.
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

stamp=".venv/installed-${extra:-base}"
if [ ! -x .venv/bin/python ]; then
    "$python" -m venv .venv || { echo "could not make .venv: is the venv module of $python installed?" >&2; exit 2; }
fi
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ setup.py -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
    echo "installing cnnjax${extra:+ with the extra $extra} into .venv (about a minute)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".${extra:+[$extra]}"
    touch "$stamp"
fi
. .venv/bin/activate
