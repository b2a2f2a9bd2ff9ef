#!/usr/bin/env bash
# A fixed number of machines, every GPU with the whole model (DDP). Start it on each machine, with its own NODE_RANK:
#
#   NODES=2 NODE_RANK=0 HEAD=10.0.0.1 bash recipes/launch/several-nodes.sh --config recipes/aot-paired-lora.yaml
#
# HEAD is the address of the machine of rank 0, PORT a free port there. All words go to `distal align`; output_dir
# and the cache of reference scores must lie where every machine sees them.
set -euo pipefail

exec torchrun --nnodes "${NODES:?how many machines}" --node-rank "${NODE_RANK:?0 on HEAD, then 1, 2, ...}" \
    --master-addr "${HEAD:?address of the machine of rank 0}" --master-port "${PORT:-29500}" \
    --nproc-per-node "${GPUS:-gpu}" -m distal align "$@"
