# What the scripts share; they source it. All of it can be set in the environment.
# shellcheck shell=bash disable=SC2034
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}                     # with beam-semdedup installed
FLINK_VERSION=${FLINK_VERSION:-1.20.3}
FLINK_HOME=${FLINK_HOME:-$HOME/.semdedup-flink/flink-$FLINK_VERSION} # fetched where it is not there
FLINK_RUN=${FLINK_RUN:-$HOME/.semdedup-flink} # pids and logs
FLINK_PORT=${FLINK_PORT:-8081}                # the REST API
FLINK_RPC_PORT=${FLINK_RPC_PORT:-6123}
SLOTS=${SLOTS:-$(nproc)}                      # of each task manager
POOL_PORT=${POOL_PORT:-50000}
PATIENCE=${PATIENCE:-120}                     # seconds that something may take to come up
JAVA=${JAVA_HOME:+$JAVA_HOME/bin/}java

# Starts a command in the background: NAME COMMAND …; its output is in NAME.log, its process in NAME.pid.
start() {
    local name=$1
    shift
    if [ -e "$FLINK_RUN/$name.pid" ] && kill -0 "$(<"$FLINK_RUN/$name.pid")" 2>/dev/null; then
        echo "$name is running already (stop.sh ends it)" >&2
        return 1
    fi
    nohup "$@" >"$FLINK_RUN/$name.log" 2>&1 </dev/null &
    echo $! >"$FLINK_RUN/$name.pid"
}

# Waits until a command succeeds: SECONDS WHAT COMMAND …
await() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "$what did not come up; see $FLINK_RUN/*.log" >&2
            return 1
        fi
        sleep 0.3
    done
}

mkdir -p "$FLINK_RUN"
