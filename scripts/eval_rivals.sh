#!/usr/bin/env bash
# Every method at equal KV bytes on the tiny reasoner: scripts/eval_rivals.sh OUT [MORE FLAGS OF rlkv eval run ...]
# A process for each group of methods, side by side on one GPU; OUT then holds one comparison of all.
# N=1000 DEVICE=cuda BATCH=500 WINDOW=4+28 by default; HEADS=NAME=FILE adds a method. Batches of 1,000 need more
# than the 140 GB of an H200 for all groups together.
set -euo pipefail
out=${1:?expected an output folder}
shift
flags=(--tasks tiny:medium --n "${N:-1000}" --device "${DEVICE:-cuda}" --batch-size "${BATCH:-500}" --random-seeds 3
  --window "${WINDOW:-4+28}" --budgets 0.8,0.6,0.5,0.4 "$@")
heads=(${HEADS:+--heads "$HEADS"})
groups=(rlkv,kvzip-heads ablation random h2o snapkv streaming-llm kvzip r-kv random-attention)

mkdir -p "$out"
python3 -m rlkv eval run --out "$out/full" "${flags[@]}" --methods full
processes=()
for group in "${groups[@]}"; do
  own=(); if [ "$group" = "${groups[0]}" ]; then own=("${heads[@]}"); fi
  cp -r "$out/full" "$out/$group" # its answers are the same for all
  python3 -m rlkv eval run --out "$out/$group" "${flags[@]}" --methods "full,$group" "${own[@]}" >"$out/$group.log" 2>&1 &
  processes+=($!)
done
for i in "${!groups[@]}"; do
  wait "${processes[$i]}" || { echo "error: ${groups[$i]} failed, see $out/${groups[$i]}.log" >&2; failed=1; }
done
if [ "${failed:-}" ]; then exit 1; fi

mkdir -p "$out/all/results" "$out/all/heads"
for group in "${groups[@]}"; do
  cp "$out/$group"/results/* "$out/all/results/"
  cp "$out/$group"/heads/* "$out/all/heads/" 2>/dev/null || true # token droppers have none
done
all=$(IFS=,; echo "full,${groups[*]}")
python3 -m rlkv eval run --out "$out/all" "${flags[@]}" --methods "$all" "${heads[@]}" # answers nothing anew
