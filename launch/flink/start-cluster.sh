#!/usr/bin/env bash
# A Flink session cluster, in the foreground until it is up.
#
#   start-cluster.sh 2                      a job manager and two task managers on this machine
#   start-cluster.sh host1 host2            a job manager here, a task manager on each host (ssh, the same paths there)
#   start-cluster.sh --join jobmanager 2    two more task managers on this machine
#
# FLINK_HOME is a Flink distribution; without it, Flink is taken from the PyPI package apache-flink-libraries. Beam's
# job server stands last in the class path of its processes and comes before what jobs bring: a class loader of a job
# never goes away, and ten of them fill a task manager's Metaspace.
source "$(dirname "$0")/common.sh"

OPENED=()
for package in java.lang java.lang.reflect java.io java.net java.nio java.text java.time java.util \
    java.util.concurrent java.util.concurrent.atomic java.util.concurrent.locks; do
    OPENED+=("--add-opens=java.base/$package=ALL-UNNAMED")
done

find_flink() {
    [ -d "$FLINK_HOME/lib" ] && return
    echo "Fetching Flink $FLINK_VERSION into $FLINK_HOME" >&2
    local name=apache-flink-libraries-$FLINK_VERSION
    "$PYTHON" -m pip download -q --no-deps --no-binary apache-flink-libraries -d "$FLINK_RUN" \
        "apache-flink-libraries==$FLINK_VERSION"
    mkdir -p "$FLINK_HOME.part"
    tar xzf "$FLINK_RUN/$name.tar.gz" -C "$FLINK_HOME.part" --strip-components=2 "$name/deps"
    mv "$FLINK_HOME.part" "$FLINK_HOME"
    rm "$FLINK_RUN/$name.tar.gz"
}

configure() { # JOB_MANAGER_HOST
    mkdir -p "$FLINK_RUN/conf" "$FLINK_RUN/tmp"
    cat >"$FLINK_RUN/conf/config.yaml" <<YAML
jobmanager.rpc.address: $1
jobmanager.rpc.port: $FLINK_RPC_PORT
jobmanager.bind-host: ${BIND_HOST:-localhost}
jobmanager.memory.process.size: ${JOB_MANAGER_MEMORY:-1g}
rest.address: $1
rest.port: $FLINK_PORT
rest.bind-address: ${BIND_HOST:-localhost}
taskmanager.bind-host: ${BIND_HOST:-localhost}
taskmanager.memory.process.size: ${TASK_MANAGER_MEMORY:-2g}
taskmanager.numberOfTaskSlots: $SLOTS
classloader.resolve-order: parent-first
heartbeat.timeout: 20000
io.tmp.dirs: $FLINK_RUN/tmp
YAML
    cat >"$FLINK_RUN/conf/log4j.properties" <<'LOG4J'
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
appender.out.name = out
appender.out.type = CONSOLE
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss} %-5p %c{1} - %m%n
LOG4J
}

# Starts one of Flink's processes: NAME MAIN_CLASS RESOURCES …, with the memory that Flink computes for it.
start_java() {
    local name=$1 main=$2 resources=$3 answer jvm dynamic
    shift 3
    local dist=("$FLINK_HOME"/lib/flink-dist*.jar)
    answer=$("$JAVA" -cp "$FLINK_HOME/bin/bash-java-utils.jar:${dist[0]}" \
        org.apache.flink.runtime.util.bash.BashJavaUtils "$resources" --configDir "$FLINK_RUN/conf" |
        sed -n 's/^BASH_JAVA_UTILS_EXEC_RESULT://p')
    read -ra jvm <<<"$(sed -n 1p <<<"$answer")"
    read -ra dynamic <<<"$(sed -n 2p <<<"$answer")"
    start "$name" "$JAVA" "${jvm[@]}" "${OPENED[@]}" -Dlog4j.configurationFile="$FLINK_RUN/conf/log4j.properties" \
        -cp "$FLINK_HOME/lib/*:$JOB_SERVER" "$main" --configDir "$FLINK_RUN/conf" "${dynamic[@]}" "$@"
}

start_task_managers() { # HOW_MANY
    local running number
    running=$(find "$FLINK_RUN" -name 'taskmanager-*.pid' | wc -l)
    for ((number = running + 1; number <= running + $1; number++)); do
        start_java "taskmanager-$number" org.apache.flink.runtime.taskexecutor.TaskManagerRunner GET_TM_RESOURCE_PARAMS
    done
}

slots() {
    "$PYTHON" -c 'import json, sys, urllib.request
print(json.load(urllib.request.urlopen(sys.argv[1] + "/overview"))["slots-total"])' "http://$1:$FLINK_PORT"
}

has_slots() { # HOST HOW_MANY
    [ "$(slots "$1")" -ge "$2" ]
}

find_flink
JOB_SERVER=${JOB_SERVER:-$("$PYTHON" -P -m beam_semdedup.runners.flink.job_server "${FLINK_VERSION%.*}")}
if [ "${1:-}" = --join ]; then
    [ $# -ge 2 ] || { echo "start-cluster.sh --join JOB_MANAGER [HOW_MANY]" >&2; exit 2; }
    BIND_HOST=0.0.0.0 configure "$2"
    before=$(slots "$2")
    start_task_managers "${3:-1}"
    await "$PATIENCE" "a task manager" has_slots "$2" $((before + ${3:-1} * SLOTS))
    echo "$2 has $(slots "$2") slots now"
    exit
fi
[ $# -ge 1 ] || set -- 1
if [[ $1 =~ ^[0-9]+$ ]]; then
    host=localhost managers=$1 hosts=()
else
    host=$(hostname -f) managers=0 hosts=("$@")
    BIND_HOST=0.0.0.0
fi
configure "$host"
start_java jobmanager org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint GET_JM_RESOURCE_PARAMS
start_task_managers "$managers"
for one in "${hosts[@]}"; do
    # shellcheck disable=SC2029  # expanded here on purpose: the host gets this machine's settings
    ssh "$one" "FLINK_VERSION=$FLINK_VERSION FLINK_PORT=$FLINK_PORT FLINK_RPC_PORT=$FLINK_RPC_PORT" \
        "SLOTS=$SLOTS PYTHON=$PYTHON" "$HERE/start-cluster.sh" --join "$host"
done
await "$PATIENCE" "the cluster" has_slots "$host" $(((managers + ${#hosts[@]}) * SLOTS))
echo "Flink $FLINK_VERSION: http://$host:$FLINK_PORT with $(slots "$host") slots"
