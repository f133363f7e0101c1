#!/usr/bin/env bash
# Find the heads of deepseek-ai/DeepSeek-R1-Distill-Qwen-7B as the paper does, on SGLang servers and AReaL.
#
#   scripts/train_qwen-7b-r1.sh [FOLDER] [OPTION...]      # default: runs/qwen-7b-r1
#
# Options are those of `rlkv train-areal`: --dry-run checks the settings without weights, --preset code takes
# the authors' settings where they differ from the paper's, --rollout sglang:d4 --trainer fsdp:d4 use eight
# GPUs. Data come from the model itself once, unless $DATA or --data names some. Stopped? Run it again.
set -euo pipefail
# shellcheck source=scripts/train_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/train_common.sh"
make_data() {
  rlkv data deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --source agentica-org/DeepScaleR-Preview-Dataset "$@"
}
train() { rlkv train-areal qwen-7b-r1 "$@"; }
find_heads runs/qwen-7b-r1 "$@"
