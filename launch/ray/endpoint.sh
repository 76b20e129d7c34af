#!/usr/bin/env bash
# A Beam job endpoint on the head node, in the foreground: endpoint.sh runner.num_workers=4 runner.num_cpus=1
# Any Beam pipeline in Python: python my_pipeline.py --runner=PortableRunner --job_endpoint=localhost:8099
# LISTEN_HOST is the address of this machine that it listens on. It takes pipelines from whoever reaches it: a firewall's work.
set -euo pipefail
exec "${PYTHON:-python3}" -P -m beam_semdedup.cli.ray_endpoint host="${LISTEN_HOST:-localhost}" port="${PORT:-8099}" ray_address=auto "$@"
