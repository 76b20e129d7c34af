#!/usr/bin/env bash
# A node that joins a Ray cluster: worker.sh HEAD[:6379] [options of ray start]. `ray stop` ends it.
set -euo pipefail
[ $# -ge 1 ] || { echo "worker.sh HEAD[:PORT] [options of ray start]" >&2; exit 2; }
head=$1
shift
[[ $head == *:* ]] || head=$head:${RAY_PORT:-6379}
exec ray start --address="$head" "$@"
