#!/usr/bin/env bash
# Find the heads of Qwen/Qwen3-4B-Thinking-2507 as the paper does: rollouts from an SGLang server, training on AReaL.
#
#   scripts/train_qwen3-4b-thinking.sh [FOLDER] [OPTION...]      # default: runs/qwen3-4b-thinking
#
# Options are those of `rlkv train-areal`: --dry-run checks the settings without weights, --preset code takes the
# authors' settings where they differ from the paper's, --rollout sglang:d4 --trainer fsdp:d4 use eight GPUs.
# Data come from the model itself once, unless $DATA names a folder of `rlkv data`. Stopped? Run it again.
set -euo pipefail
out=runs/qwen3-4b-thinking
[[ ${1:-} && $1 != -* ]] && { out=$1; shift; }
data=${DATA:-$out/data}
if [[ " $* " != *" --dry-run "* && ! -e $data/state.json ]]; then
  rlkv data Qwen/Qwen3-4B-Thinking-2507 --source agentica-org/DeepScaleR-Preview-Dataset --out "$data"
fi
rlkv train-areal qwen3-4b-thinking --data "$data" --out "$out" "$@"
