#!/usr/bin/env bash
# A worker pool, on which the task managers of this machine start their workers. With hosts: one on each (ssh).
source "$(dirname "$0")/common.sh"

if [ $# -gt 0 ]; then
    for host in "$@"; do
        # shellcheck disable=SC2029  # expanded here on purpose: the host gets this machine's settings
        ssh "$host" "PYTHON=$PYTHON POOL_PORT=$POOL_PORT SLOTS=$SLOTS" "$HERE/worker-pool.sh"
    done
    exit
fi
cores=$(nproc)
threads=$((cores > SLOTS ? cores / SLOTS : 1))
start worker-pool "$PYTHON" -P -m beam_semdedup.runners.flink.worker_pool port="$POOL_PORT" threads="$threads"
await "$PATIENCE" "the worker pool" grep -q "listening on port" "$FLINK_RUN/worker-pool.log"
echo "Worker pool: localhost:$POOL_PORT, with $threads threads for each worker"
