#!/usr/bin/env bash
# Every GPU of this machine, each with the whole model (DDP).
#
#   bash recipes/launch/one-node.sh --config recipes/aot-paired-lora.yaml
#
# All words go to `distal align`. GPUS=2 in front takes only so many of them.
set -euo pipefail

exec torchrun --standalone --nproc-per-node "${GPUS:-gpu}" -m distal align "$@"
