#!/usr/bin/env bash
# Check and time the hybrid cache on a CUDA machine, one part at a time; results go to a folder.
#
#   scripts/gpu_hybrid.sh kernels            tests of the kernels against the window's definition
#   scripts/gpu_hybrid.sh server             bf16 tests of a real server, with CUDA graphs and without
#   scripts/gpu_hybrid.sh decode [FLAGS]     decode steps: 256 requests, context 2,048 to 2,560
#   scripts/gpu_hybrid.sh prefill [FLAGS]    a prompt of 8,192 tokens
#   scripts/gpu_hybrid.sh prefix [FLAGS]     64 requests that share a prefix of 8,192 tokens
#   scripts/gpu_hybrid.sh replay [FLAGS]     MATH-500 replay in the KV memory of 150,000 full tokens
#
# MODEL is a folder with a config.json, HEADS a heads file, OUT the folder of results (runs/gpu), SPARSITIES what
# is timed, 'stock' being the server without --rlkv-heads. FLAGS go to scripts/bench_sglang.py and to SGLang.
set -euo pipefail
cd "$(dirname "$0")/.."
part=${1:?"kernels, server, decode, prefill, prefix or replay"}
shift
OUT=${OUT:-runs/gpu}

bench() {
    python3 scripts/bench_sglang.py "$part" --model "${MODEL:?}" --heads "${HEADS:?}" --out "$OUT" \
        --sparsities "${SPARSITIES:-stock,0,0.2,0.4,0.5,0.6,0.8}" --context-length 16384 "$@"
}

case $part in
    kernels) exec python3 -m pytest -q -m gpu tests/gpu/test_hybrid_kernels_gpu.py "$@" ;;
    server) exec python3 -m pytest -q -s -m gpu tests/gpu/test_hybrid_server_gpu.py "$@" ;;
    decode) bench --profile --max-running-requests 256 --cuda-graph-bs-decode 1 256 --disable-prefill-cuda-graph "$@" ;;
    prefill | prefix) bench --max-running-requests 64 --cuda-graph-max-bs-decode 64 "$@" ;;
    replay) bench --disable-radix-cache "$@" ;;
    *) echo "gpu_hybrid.sh: found part '$part', see the head of this file" >&2 && exit 2 ;;
esac
