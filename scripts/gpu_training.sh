#!/usr/bin/env bash
# Time asynchronous training on a CUDA machine, one part at a time; results go to a folder.
#
#   scripts/gpu_training.sh tiny [OPTION...]    the tiny reasoner's settings for the paper's 185 steps, on the GPUs that are visible
#   scripts/gpu_training.sh large [OPTION...]   two steps at Qwen3-4B's shape with random weights, 16 responses of
#                                               8,192 tokens each
#
# Rollouts may be one version of the gates behind (--max-staleness 1), so that generation and training run at the same
# time; gates go over NCCL where there are two GPUs.
#
# OUT is the folder of results: areal.log, tensorboard/ (timeperf/*, memory/peak_gib) and gpus.csv, which has the load
# and the memory of every GPU twice a second. OPTIONs go to rlkv train-areal, such as --max-staleness 0.
set -euo pipefail
cd "$(dirname "$0")/.."
part=${1:?"tiny or large"}
shift
OUT=${OUT:-runs/gpu-training}
mkdir -p "$OUT"
gpus=$(nvidia-smi --list-gpus | wc -l)
if [ "${CUDA_VISIBLE_DEVICES:-}" ]; then gpus=$(tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l); fi

nvidia-smi --query-gpu=timestamp,index,utilization.gpu,memory.used --format=csv,nounits -lms 500 >"$OUT/gpus.csv" &
trap 'kill $(jobs -p) 2>/dev/null' EXIT
options=(--out "$OUT" --max-staleness 1 --server-flags=--grammar-backend=none)
# Graphs of the prefill take 15 to 45 s of the start, and there is next to no prefill.
options+=(--server-flags=--disable-prefill-cuda-graph)
if [ "$gpus" -gt 1 ]; then options+=(--weight-update xccl); fi

case $part in
    tiny)
        python3 scripts/gpu_training.py data "$OUT/data" --level medium --problems 2400
        rlkv train-areal tiny-reasoner --dtype bfloat16 --steps 185 --data "$OUT/data" "${options[@]}" "$@"
        ;;
    large)
        # Sampling with top-p is compiled for two minutes where it never was: meanwhile the servers start.
        python3 -c "from flashinfer.sampling import get_sampling_module; get_sampling_module()" &
        python3 scripts/gpu_training.py data "$OUT/data" --level easy --problems 64
        python3 scripts/gpu_training.py model "$OUT/model"
        rlkv train-areal qwen3-4b-thinking --model "$OUT/model" --data "$OUT/data" --steps 2 --prompts-per-step 2 \
            --group-size 8 --save-every 1 --server-flags=--cuda-graph-max-bs-decode=16 "${options[@]}" "$@"
        ;;
    *) echo "gpu_training.sh: found part '$part', see the head of this file" >&2 && exit 2 ;;
esac
