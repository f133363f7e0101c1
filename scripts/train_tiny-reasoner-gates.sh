#!/usr/bin/env bash
# Find the heads of the tiny reasoner with the full recipe.
#
#   scripts/train_tiny-reasoner-gates.sh [FOLDER] [OPTION...]      # default: runs/tiny-reasoner-gates
#   ENGINE=areal scripts/train_tiny-reasoner-gates.sh ...          # the same on AReaL and an SGLang server
#
# In this process: about 8 minutes on one H200; made the gates that ship with the model. docs/training.md says
# what the AReaL way needs. Its servers have no float32 attention on a GPU, so there it trains in bfloat16.
# Options are those of `rlkv train`, or of `rlkv train-areal`. Data come from the model itself once, unless
# $DATA or --data names some. Stopped? Run it again.
set -euo pipefail
# shellcheck source=scripts/train_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/train_common.sh"
make_data() {
  rlkv data tiny-reasoner --source tiny --levels medium --batch-size 1200 --buckets 2400:0-230 "$@"
}
engine=${ENGINE:-in-process}
case $engine in
  in-process) train() { rlkv train --preset tiny "$@"; } ;;
  areal)
    bfloat16=()
    if nvidia-smi --list-gpus >/dev/null 2>&1; then bfloat16=(--dtype bfloat16); fi
    train() { rlkv train-areal tiny-reasoner "${bfloat16[@]}" "$@"; }
    ;;
  *) echo "error: ENGINE is '$engine', expected in-process or areal" >&2; exit 2 ;;
esac
find_heads runs/tiny-reasoner-gates "$@"
