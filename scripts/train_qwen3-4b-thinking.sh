#!/usr/bin/env bash
# Find the heads of Qwen/Qwen3-4B-Thinking-2507 as the paper does, on SGLang servers and AReaL.
#
#   scripts/train_qwen3-4b-thinking.sh [FOLDER] [OPTION...]      # default: runs/qwen3-4b-thinking
#
# Options are those of `rlkv train-areal`: --dry-run checks the settings without weights, --preset code takes
# the authors' settings where they differ from the paper's, --rollout sglang:d4 --trainer fsdp:d4 use eight
# GPUs. Data come from the model itself once, unless $DATA or --data names some. Stopped? Run it again.
set -euo pipefail
# shellcheck source=scripts/train_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/train_common.sh"
make_data() {
  rlkv data Qwen/Qwen3-4B-Thinking-2507 --source agentica-org/DeepScaleR-Preview-Dataset "$@"
}
train() { rlkv train-areal qwen3-4b-thinking "$@"; }
find_heads runs/qwen3-4b-thinking "$@"
