#!/usr/bin/env bash
# Other engines against embedsql on the same rows; rivals.py says what is measured.
#
#     benches/rivals/run.sh [ROWS] [THREADS] [option of rivals.py ...]
#
# FILE is a Parquet file with columns id and body, EMBEDSQL the program (both relative to the repository's root).
# The first run downloads about 3 GB of Python packages and converts the model: both stay in the user's cache folder.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

rows=1000 threads=2
if [[ ${1:-} =~ ^[0-9]+$ ]]; then rows=$1 && shift; fi
if [[ ${1:-} =~ ^[0-9]+$ ]]; then threads=$1 && shift; fi

requirements=benches/rivals/requirements.txt
cache=${XDG_CACHE_HOME:-$HOME/.cache}/datafusion-embed/rivals
# Named after the versions, so that a changed pin never meets packages or converted models of the old one.
cache+=/$(sha256sum "$requirements" | cut -c 1-12)
mkdir -p "$cache"

# The mark is written last: a run that was cut short leaves none, and the next one starts anew.
if [[ ! -e $cache/venv/installed ]]; then
    python3 -m venv --clear "$cache/venv"
    "$cache/venv/bin/pip" install --requirement "$requirements" >&2
    touch "$cache/venv/installed"
fi

exec "$cache/venv/bin/python" benches/rivals/rivals.py --rows "$rows" --threads "$threads" --cache "$cache" \
    --file "${FILE:-sql/docs.parquet}" --embedsql "${EMBEDSQL:-target/release/embedsql}" "$@"
