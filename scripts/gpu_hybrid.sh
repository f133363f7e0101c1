#!/usr/bin/env bash
# Check and time the hybrid cache on a CUDA machine, one part at a time; results go to a folder.
#
#   scripts/gpu_hybrid.sh kernels            tests of the kernels against the window's definition
#   scripts/gpu_hybrid.sh server             bf16 tests of a real server, with CUDA graphs and without
#   scripts/gpu_hybrid.sh steps [FLAGS]      decode steps, prefill and a shared prefix, stock against sparsities
#   scripts/gpu_hybrid.sh replay [FLAGS]     MATH-500 replay in the KV memory of 150,000 full tokens
#
# Both with the shape of Llama-3.1-8B and made-up weights. HEADS is a heads file of that model, OUT the folder of
# results. FLAGS go to scripts/bench_hybrid_steps.py or rlkv eval throughput.
set -euo pipefail
cd "$(dirname "$0")/.."
part=${1:?"kernels, server, steps or replay"}
shift
OUT=${OUT:-runs/gpu}

case $part in
    kernels) exec python3 -m pytest -q -m gpu tests/gpu/test_hybrid_kernels_gpu.py "$@" ;;
    server) exec python3 -m pytest -q -s -m gpu tests/gpu/test_hybrid_server_gpu.py "$@" ;;
    steps)
        exec python3 scripts/bench_hybrid_steps.py --model eval/throughput/shapes/llama-3.1-8b \
            --heads "${HEADS:?}" --out "$OUT" --context-length 16384 --attention-backend flashinfer "$@"
        ;;
    replay)
        exec python3 -m rlkv eval throughput --shape llama-3.1-8b --heads "${HEADS:?}" --out "$OUT" \
            --sparsities 0.5,0.6 --cases memory --chunked-prefill-size 2048 \
            --server-flags "--attention-backend flashinfer --context-length 16384" "$@"
        ;;
    *) echo "gpu_hybrid.sh: found part '$part', see the head of this file" >&2 && exit 2 ;;
esac
