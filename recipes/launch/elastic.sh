#!/usr/bin/env bash
# Machines that may fail, leave or join: whenever one does, all processes start again from the last checkpoint.
# Start it on each machine, with the same words:
#
#   NODES=1:4 JOB=first HEAD=10.0.0.1 bash recipes/launch/elastic.sh runs/first --config recipes/aot-paired-lora.yaml
#
# NODES is the least and the largest number of machines, JOB any name that they share, HEAD the address of one of
# them, PORT a free port there. The first word is the output folder, which every machine must see; the others go to
# `distal align`. The optimizer batch, and so what is learnt, does not depend on how many machines are there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec torchrun --nnodes "${NODES:?least:largest number of machines}" --nproc-per-node "${GPUS:-gpu}" \
    --rdzv-backend c10d --rdzv-id "${JOB:?any name}" --rdzv-endpoint "${HEAD:?address of one machine}:${PORT:-29500}" \
    --max-restarts "${RESTARTS:-3}" --no-python bash "$here/resumable.sh" "$@"
