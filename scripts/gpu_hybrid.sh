#!/usr/bin/env bash
# Check and time the hybrid cache on a CUDA machine, one part at a time; results go to a folder.
#
#   scripts/gpu_hybrid.sh kernels            tests of the kernels against the window's definition
#   scripts/gpu_hybrid.sh server             bf16 tests of real servers, with CUDA graphs and without, all at once
#   scripts/gpu_hybrid.sh steps [FLAGS]      decode steps, prefill and a shared prefix, stock against sparsities
#   scripts/gpu_hybrid.sh replay [FLAGS]     MATH-500 replay in the KV memory of 150,000 full tokens
#   scripts/gpu_hybrid.sh pair RANKS         stock and 0.5 up at once on RANKS GPUs in the KV memory of 300,000 full
#                                            tokens each: 96 equal requests, which fit into either; 176, which fit into
#                                            0.5 alone; and time to the first token of 64 behind a shared prefix of 8,192
#
# All but the tests with the shape of Llama-3.1-8B and random weights. HEADS is a heads file of that model, OUT the
# folder of results. FLAGS go to scripts/bench_hybrid_steps.py or rlkv eval throughput.
set -euo pipefail
cd "$(dirname "$0")/.."
part=${1:?"kernels, server, steps, replay or pair"}
shift
OUT=${OUT:-runs/gpu}

case $part in
    kernels) exec python3 -m pytest -q -m gpu tests/gpu/test_hybrid_kernels_gpu.py "$@" ;;
    server) exec python3 -m pytest -v -rP -n 6 --dist loadgroup -m gpu tests/gpu/test_hybrid_server_gpu.py "$@" ;;
    steps)
        exec python3 scripts/bench_hybrid_steps.py --model eval/throughput/shapes/llama-3.1-8b \
            --heads "${HEADS:?}" --out "$OUT" --context-length 16384 --attention-backend flashinfer "$@"
        ;;
    replay)
        exec python3 -m rlkv eval throughput --shape llama-3.1-8b --heads "${HEADS:?}" --out "$OUT" \
            --sparsities 0.5,0.6 --cases memory --chunked-prefill-size 2048 \
            --server-flags "--attention-backend flashinfer --context-length 16384" "$@"
        ;;
    pair)
        ranks=${1:?"number of GPUs"}
        model=eval/throughput/shapes/llama-3.1-8b
        flags=(--load-format dummy --skip-tokenizer-init --incremental-streaming-output --grammar-backend none
            --page-size 1 --chunked-prefill-size 8192 --attention-backend flashinfer --context-length 16384
            --max-running-requests 200 --mem-fraction-static 0.9 --tp "$ranks")
        mkdir -p "$OUT"
        trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
        python3 -m rlkv serve --model $model "${flags[@]}" --max-total-tokens 300000 --port 31000 \
            >"$OUT/full.log" 2>&1 &
        sleep 15 # the second one sizes itself by the memory that the first leaves
        python3 -m rlkv serve --model $model "${flags[@]}" --port 31001 --rlkv-heads "${HEADS:?}" --rlkv-sparsity 0.5 \
            --rlkv-request-tokens 2560 --max-total-tokens 547000 >"$OUT/0.5.log" 2>&1 &
        for port in 31000 31001; do
            until curl --silent --fail --output /dev/null "http://127.0.0.1:$port/health"; do
                [ "$(jobs -r | wc -l)" = 2 ] || { echo "error: a server ended, see $OUT/*.log" >&2 && exit 1; }
                sleep 1
            done
        done
        bench() {
            python3 -m rlkv eval throughput --shape llama-3.1-8b --heads "$HEADS" --sparsities 0.5 --output-tokens 1024 \
                --running full=http://127.0.0.1:31000 --running 0.5=http://127.0.0.1:31001 \
                --bandwidth $((4300 * ranks)) "$@"
        }
        bench --cases concurrency,prefix --concurrency 96 --out "$OUT"
        bench --cases concurrency --concurrency 176 --seed 1 --out "$OUT/equal-memory" # prompts that no cache has
        ;;
    *) echo "gpu_hybrid.sh: found part '$part', see the head of this file" >&2 && exit 2 ;;
esac
