# What the training scripts share; they source it. A script defines
#
#   make_data    `rlkv data` of its model; takes --out
#   train        its trainer; takes --data, --out and the options of the user
#
# and calls find_heads. Of --help and --dry-run the trainer's own is shown, and nothing else happens.
# shellcheck shell=bash

# find_heads DEFAULT_FOLDER [FOLDER] [OPTION...]
find_heads() {
  local out=$1 data=${DATA:-} dry_run="" previous="" word said
  shift
  if [[ ${1:-} && $1 != -* ]]; then out=$1 && shift; fi
  for word in "$@"; do
    case $previous in
      --out) out=$word ;;
      --data) data=$word ;;
    esac
    case $word in
      -h | --help) train --help; return ;;
      --dry-run) dry_run=1 ;;
      --out=*) out=${word#*=} ;;
      --data=*) data=${word#*=} ;;
    esac
    previous=$word
  done
  local options=(--data "${data:-$out/data}" --out "$out" "$@")
  if [[ $dry_run ]]; then train "${options[@]}"; return; fi
  if [[ $data && ! -e $data ]]; then
    echo "error: $data: no such file or folder, expected training data of rlkv data" >&2
    return 2
  fi
  # Ends as the trainer does with bad settings, before data are made: that may take hours.
  said=$(train "${options[@]}" --dry-run 2>&1 >/dev/null) || { local status=$?; echo "$said" >&2; return $status; }
  if [[ ! $data && ! -e $out/data/state.json ]]; then make_data --out "$out/data"; fi
  train "${options[@]}"
}
