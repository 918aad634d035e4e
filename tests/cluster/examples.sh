#!/usr/bin/env bash
# What docs/cluster.md and examples/cluster say, by the program itself, by systemd and by the schema of Kubernetes, as far as they
# are here.
#
#   tests/cluster/examples.sh target/release/embedsql
set -euo pipefail
program=$(realpath "${1:?the program embedsql}")
cd "$(dirname "$0")/../.."

# Every flag that is named is one.
help=$("$program" --help; "$program" scheduler --help; "$program" executor --help; "$program" models --help)
while read -r flag; do
    if ! grep -q -- "^ *\(-., \)\?$flag\b" <<<"$help"; then
        echo "$flag is no flag of the program"
        exit 1
    fi
done < <(grep -hvE 'kubectl|groupadd' docs/cluster.md examples/cluster/* | grep -E 'embedsql|`--|--work-folder' | grep -oE -- '(^|[ `"])--[a-z-]+' | grep -oE -- '--[a-z-]+' | sort -u)

if command -v systemd-analyze >/dev/null; then
    units=$(mktemp -d)
    trap 'rm -rf "$units"' EXIT
    for unit in examples/cluster/*.service; do
        sed "s|/usr/local/bin/embedsql|$program|" "$unit" >"$units/$(basename "$unit")"
    done
    systemd-analyze verify "$units"/*.service
else
    echo 'UNITS SKIPPED: no systemd-analyze here'
fi

if command -v kubernetes-validate >/dev/null; then
    kubernetes-validate --quiet examples/cluster/kubernetes.yaml
else
    echo 'MANIFESTS SKIPPED: no kubernetes-validate here (pip install kubernetes-validate)'
fi
