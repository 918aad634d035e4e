#!/usr/bin/env bash
# Two hosts and a network between them, in network namespaces of this machine: an export runs on executors of both, and one is
# unplugged in the middle. Needs root and iproute2.
#
#   tests/cluster/namespaces.sh target/release/embedsql
set -euo pipefail
program=$(realpath "${1:?the program embedsql}")
cd "$(dirname "$0")/../.."
tag=embed$$
head=$tag-head near=$tag-near far=$tag-far
if ! ip netns add "$head" 2>/dev/null; then
    echo 'NAMESPACES SKIPPED: not allowed to make network namespaces here'
    exit 0
fi
folder=$(mktemp -d)
trap 'set +e; kill $(jobs -p) 2>/dev/null; wait 2>/dev/null; for ns in $head $near $far; do ip netns del $ns 2>/dev/null; done; rm -rf "$folder"' EXIT

# The head has a bridge, and each host a cable to it.
ip -n "$head" link set lo up
ip -n "$head" link add bridge type bridge
ip -n "$head" addr add 10.77.0.1/24 dev bridge
ip -n "$head" link set bridge up
number=1
for host in "$near" "$far"; do
    number=$((number + 1))
    ip netns add "$host"
    ip -n "$host" link set lo up
    ip -n "$head" link add "port$number" type veth peer name cable netns "$host"
    ip -n "$head" link set "port$number" master bridge up
    ip -n "$host" addr add "10.77.0.$number/24" dev cable
    ip -n "$host" link set cable up
done

# Not in a function: what is killed at the end would be a shell around the process.
export EMBEDSQL_TOKEN=$tag-a-token-of-this-run EMBEDSQL_CERTIFICATES=tests/fixtures/tls
ip netns exec "$head" "$program" scheduler --bind 10.77.0.1:50050 &
ip netns exec "$near" "$program" executor --scheduler 10.77.0.1:50050 --bind 10.77.0.2:50051 --tasks 1 &
ip netns exec "$far" "$program" executor --scheduler 10.77.0.1:50050 --bind 10.77.0.3:50051 --tasks 1 &

model=(--model tests/fixtures/tiny-bert)
rows=${ROWS:-40000}
"$program" -q -c "COPY (SELECT value AS id, repeat(md5(CAST(value AS VARCHAR)), 12) AS t FROM generate_series(1, $rows)) TO '$folder/in.parquet' OPTIONS ('format.max_row_group_size' '1000')"
there() { timeout 300 ip netns exec "$head" "$program" --cluster 10.77.0.1:50050 "${model[@]}" -q --format csv "$@"; }
there -c "SELECT count(embed(t)) FROM (SELECT t FROM '$folder/in.parquet' LIMIT 10)" >/dev/null

echo "== both hosts"
SECONDS=0
there -c "COPY (SELECT id, embed(t) AS v FROM '$folder/in.parquet') TO '$folder/both/' STORED AS PARQUET"
whole=$SECONDS
echo "== one of them unplugged in the middle ($whole s before)"
SECONDS=0
there -c "COPY (SELECT id, embed(t) AS v FROM '$folder/in.parquet') TO '$folder/one/' STORED AS PARQUET" &
export=$!
sleep "$(awk "BEGIN { print ($whole > 1 ? $whole : 1) / 2 }")"
ip -n "$far" link set cable down
wait "$export"
echo "ended after $SECONDS s"
answer=$("$program" -q --format csv -c "SELECT count(*) AS n, count(DISTINCT id) AS ids, count(v) AS v FROM '$folder/one/'; SELECT count(*) AS differing FROM '$folder/both/' a JOIN '$folder/one/' b ON a.id = b.id WHERE a.v <> b.v")
expected=$(printf 'n,ids,v\n%s,%s,%s\ndiffering\n0' "$rows" "$rows" "$rows")
if [ "$answer" != "$expected" ]; then
    echo "the rows are others: $answer"
    exit 1
fi
echo 'every row once, with the same bits'
