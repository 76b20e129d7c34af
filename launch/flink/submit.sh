#!/usr/bin/env bash
# The command on a session cluster: submit.sh input_path=… output_path=… eps=…
# Paths must be the same for all hosts: a shared file system, or s3:// and the like.
source "$(dirname "$0")/common.sh"
exec "$PYTHON" -P -m beam_semdedup runner=flink \
    runner.flink_master="${FLINK_MASTER:-localhost:$FLINK_PORT}" runner.worker_pool="localhost:$POOL_PORT" "$@"
