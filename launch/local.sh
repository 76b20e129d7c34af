#!/usr/bin/env bash
# One worker process per core of this machine: launch/local.sh input_path=… output_path=… eps=…
set -euo pipefail
exec semdedup runner.num_workers="${WORKERS:-auto}" "$@"
