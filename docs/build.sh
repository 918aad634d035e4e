#!/usr/bin/env bash
# Builds the pages as a book: docs/build.sh [FOLDER], target/book by default. Needs mdBook (`cargo install mdbook`).
#
# The README is its first page: it is copied in, with its links as they are from here. Links are checked by tests/it/pages.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
out="$(realpath -m "${1:-target/book}")"
pages="$(mktemp -d)"
trap 'rm -rf "$pages"' EXIT
cp -r docs/*.md docs/book.toml docs/pictures "$pages"
sed 's|](docs/|](|g' README.md > "$pages/README.md"
sed -i 's|](../README.md|](README.md|g' "$pages"/*.md
mdbook build --dest-dir "$out" "$pages"
echo "$out/index.html"
