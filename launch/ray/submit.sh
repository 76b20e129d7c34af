#!/usr/bin/env bash
# A job on a Ray cluster, in one of three ways:
#
#   submit.sh command input_path=… output_path=… eps=…      the command here, a node of the cluster, as the driver
#   submit.sh job input_path=… output_path=… eps=…          the command as a Ray job; it goes on when this shell ends
#   submit.sh pipeline my_pipeline.py [its options]          a Beam pipeline of your own, through endpoint.sh
#
# RAY_ADDRESS: auto, or host:6379 (job: RAY_API_SERVER_ADDRESS, http://head:8265). JOB_ENDPOINT: head:8099.
set -euo pipefail
usage() {
    sed -n 's/^# \{0,1\}//p' "$0" | sed 1d >&2
    exit 2
}

[ $# -ge 2 ] || usage
way=$1
shift
case $way in
    command)
        exec semdedup runner=ray ray_address="${RAY_ADDRESS:-auto}" "$@"
        ;;
    job)
        export RAY_API_SERVER_ADDRESS=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}
        unset RAY_ADDRESS # which ray job submit would take for that of the API
        exec ray job submit -- semdedup runner=ray ray_address=auto "$@"
        ;;
    pipeline)
        exec "${PYTHON:-python3}" "$@" --runner=PortableRunner --job_endpoint="${JOB_ENDPOINT:-localhost:8099}"
        ;;
    *)
        usage
        ;;
esac
