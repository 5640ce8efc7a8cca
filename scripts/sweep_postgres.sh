#!/usr/bin/env bash
# Tries a sweep on PostgreSQL for real: starts a server of its own in a temporary folder, and two commands on its
# storage at once, each with a workdir of its own as two machines have; checks that each trial ran once; takes all down.
# Needs Debian's package postgresql and the extra: pip install 'cnnjax[postgresql]'.
# Arguments go to the sweep; KEEP names a folder to keep its files in:
# KEEP=runs bash scripts/sweep_postgres.sh --config.sweep.trials=6
set -euo pipefail
extra=postgresql . "$(dirname "$0")/setup.sh"

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
[ -n "$bin" ] || { echo "PostgreSQL's programs were not found: apt-get install postgresql" >&2; exit 2; }
folder=$(mktemp -d ${KEEP:+-p "$KEEP"})
as=()
if [ "$(id -u)" = 0 ]; then             # the server refuses to run as root
    chown postgres "$folder"
    as=(runuser -u postgres --)
fi
server() { "${as[@]}" "$bin/pg_ctl" -D "$folder/data" "$@" > /dev/null; }
trap 'server stop -m fast || true; [ -n "${KEEP:-}" ] || rm -rf "$folder"' EXIT

port=$(python -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
"${as[@]}" "$bin/initdb" -D "$folder/data" -U cnnjax --auth=trust > /dev/null
server start -w -l "$folder/log" -o "-p $port -k $folder -c listen_addresses=localhost"
"${as[@]}" "$bin/createdb" -h localhost -p "$port" -U cnnjax sweeps
storage="postgresql+psycopg://cnnjax@localhost:$port/sweeps"

sweep() {
    cnnjax sweep --config configs/sweep/digits.py --storage "$storage" --workdir "$folder/$1" \
        --config.sweep.study=shared "${@:2}"
}
mkdir "$folder/here" "$folder/there"
chmod 755 "$folder"
sweep here "$@" > "$folder/here.txt" &
one=$!
sweep there "$@" > "$folder/there.txt"
wait "$one"
cat "$folder/here.txt" "$folder/there.txt" | grep '^trial '
python - "$folder" <<'PYTHON'
import json, pathlib, sys
here, there = (pathlib.Path(sys.argv[1], name) for name in ("here", "there"))
trials = json.loads((here / "trials.json").read_text())["trials"]
assert all(t["state"] in ("complete", "pruned") for t in trials), [t["state"] for t in trials]
ran = [sorted(f.name for f in (folder / "trials").iterdir() if f.is_dir()) for folder in (here, there)]
assert sorted(ran[0] + ran[1]) == [f"{t['number']:04d}" for t in trials], ran
print(f"{len(trials)} trials, {len(ran[0])} by one worker, {len(ran[1])} by the other, none twice and none left")
PYTHON
