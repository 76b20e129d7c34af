#!/usr/bin/env bash
# A Beam job endpoint on the head node, in the foreground: endpoint.sh runner.num_workers=4 runner.num_cpus=1
# Any Beam pipeline in Python: python my_pipeline.py --runner=PortableRunner --job_endpoint=HEAD:8099
set -euo pipefail
exec "${PYTHON:-python3}" -m beam_semdedup.cli.ray_endpoint port="${PORT:-8099}" ray_address=auto "$@"
