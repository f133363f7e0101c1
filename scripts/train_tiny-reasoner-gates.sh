#!/usr/bin/env bash
# Find the heads of the tiny reasoner with the full recipe.
#
#   scripts/train_tiny-reasoner-gates.sh [FOLDER]                  # default: runs/tiny-reasoner-gates
#   ENGINE=areal scripts/train_tiny-reasoner-gates.sh [FOLDER]     # the same on AReaL and an SGLang server
#
# In this process: about 8 minutes on one H200; made the gates that ship with the model. docs/training.md says
# what the AReaL way needs. Its servers have no float32 attention on a GPU, so there it trains in bfloat16.
set -euo pipefail
out=${1:-runs/tiny-reasoner-gates}
engine=${ENGINE:-in-process}
case $engine in
  in-process) train=(rlkv train --preset tiny) ;;
  areal)
    train=(rlkv train-areal tiny-reasoner)
    if nvidia-smi --list-gpus >/dev/null 2>&1; then train+=(--dtype bfloat16); fi
    ;;
  *) echo "error: ENGINE is '$engine', expected in-process or areal" >&2; exit 2 ;;
esac
rlkv data tiny-reasoner --source tiny --levels medium --batch-size 1200 --buckets 2400:0-230 --out "$out/data"
"${train[@]}" --data "$out/data" --out "$out"
