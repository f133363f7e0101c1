#!/usr/bin/env bash
# Find the heads of deepseek-ai/DeepSeek-R1-Distill-Llama-8B as the paper does: rollouts from an SGLang server, training on AReaL.
#
#   scripts/train_llama-8b-r1.sh [FOLDER] [OPTION...]      # default: runs/llama-8b-r1
#
# Options are those of `rlkv train-areal`: --dry-run checks the settings without weights, --preset code takes the
# authors' settings where they differ from the paper's, --rollout sglang:d4 --trainer fsdp:d4 use eight GPUs.
# Data come from the model itself once, unless $DATA names a folder of `rlkv data`. Stopped? Run it again.
set -euo pipefail
out=runs/llama-8b-r1
[[ ${1:-} && $1 != -* ]] && { out=$1; shift; }
data=${DATA:-$out/data}
if [[ " $* " != *" --dry-run "* && ! -e $data/state.json ]]; then
  rlkv data deepseek-ai/DeepSeek-R1-Distill-Llama-8B --source agentica-org/DeepScaleR-Preview-Dataset --out "$data"
fi
rlkv train-areal llama-8b-r1 --data "$data" --out "$out" "$@"
