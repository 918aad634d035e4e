#!/usr/bin/env bash
# The wheel of a release, for the platform that this runs on: python/release.sh [FOLDER], dist otherwise.
#
# On Linux functions of equal code are linked once and everything is packed as tightly as deflate can, which together are 5 % and
# bring the wheel below what a registry takes. It runs where glibc is as new as here, 2.35 at most: for older systems run this
# on one of them. Nothing is published. Needs a Rust toolchain and Python 3.10 or later.
set -euo pipefail
folder=$(realpath -m "${1:-dist}")
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/datafusion-embed/target}"
# Bytes that a registry takes in one file.
most=100000000

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet 'maturin>=1.9,<2'
platform=() linker=()
if [ "$(uname)" = Linux ]; then
    platform=(--compatibility manylinux_2_35)
    linker=(-- -C link-arg=-Wl,--icf=all)
fi
PATH="$work/tools/bin:$PATH" maturin build --release --locked --compression-level 9 --out "$work/wheels" "${platform[@]}" "${linker[@]}"
wheel=$(echo "$work"/wheels/*.whl)

size=$(wc -c <"$wheel")
if [ "$size" -gt $most ]; then
    echo "$(basename "$wheel") has $size bytes, and a registry takes $most" >&2
    exit 1
fi

# In an empty environment, outside the clone and without a network: a vector, and the program.
python3 -m venv "$work/empty"
"$work/empty/bin/pip" install --quiet "$wheel"
cd "$work"
HF_HUB_OFFLINE=1 "$work/empty/bin/python" -c '
from datafusion_embed import SentenceTransformer

assert SentenceTransformer("all-MiniLM-L6-v2").encode(["a bicycle", "a tax form"]).shape == (2, 384)
'
"$work/empty/bin/embedsql" --version
mkdir -p "$folder"
mv "$wheel" "$folder/"
echo "$folder/$(basename "$wheel"): $size bytes"
