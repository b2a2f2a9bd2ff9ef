#!/usr/bin/env bash
# One process of a run that goes on where an earlier start of it left off; elastic.sh and slurm.sbatch run it.
#
#   bash recipes/launch/resumable.sh runs/first --config recipes/aot-paired-lora.yaml
#
# The first word is the output folder, the others go to `distal align`. run.json is written once all processes have
# met, so they agree on whether it is there.
set -euo pipefail

folder=${1:?the output folder}
shift
resume=()
if [ -e "$folder/run.json" ]; then
    resume=(--resume)
fi
exec "${PYTHON:-python}" -m distal align --output-dir "$folder" "$@" ${resume[@]+"${resume[@]}"}
