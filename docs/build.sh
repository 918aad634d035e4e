#!/usr/bin/env bash
# Builds the pages as a book: docs/build.sh [FOLDER], target/book by default. Needs mdBook (`cargo install mdbook`).
#
# The README is its first page, and that of the benches the last: they are copied in, with links as they are from here. Links are
# checked by tests/it/pages.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
out="$(realpath -m "${1:-target/book}")"
pages="$(mktemp -d)"
trap 'rm -rf "$pages"' EXIT
cp -r docs/*.md docs/book.toml docs/pictures "$pages"
cp README.md "$pages"
cp benches/README.md "$pages/benches.md"
mkdir "$pages/examples"
cp -r examples/cluster "$pages/examples"
sed -i -e 's|](\(\.\./\)\?docs/|](|g' -e 's|](SUMMARY.md)|](print.html)|g' -e 's|](\.\./benches/README.md|](benches.md|g' \
    -e 's|](\.\./README.md|](README.md|g' -e 's|](\.\./examples/|](examples/|g' "$pages"/*.md
mdbook build --dest-dir "$out" "$pages"
echo "$out/index.html"
