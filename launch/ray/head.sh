#!/usr/bin/env bash
# The head node of a Ray cluster; worker.sh on the other machines joins it. `ray stop` ends it.
set -euo pipefail
exec ray start --head --port="${RAY_PORT:-6379}" --dashboard-host="${DASHBOARD_HOST:-127.0.0.1}" "$@"
