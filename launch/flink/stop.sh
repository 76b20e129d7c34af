#!/usr/bin/env bash
# Ends what the scripts started on this machine, and with hosts also there (ssh).
source "$(dirname "$0")/common.sh"

for host in "$@"; do
    # shellcheck disable=SC2029  # the same path there, on purpose
    ssh "$host" "$HERE/stop.sh"
done
shopt -s nullglob
for file in "$FLINK_RUN"/*.pid; do
    pid=$(<"$file")
    if kill "$pid" 2>/dev/null; then
        for _ in {1..50}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.2
        done
        kill -9 "$pid" 2>/dev/null || true
    fi
    rm "$file"
done
