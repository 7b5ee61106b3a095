#!/usr/bin/env bash
# make_mini.sh - makes again what models/mini holds beside the trained weights, and checks that the
# file inside the program is what those give. Needs build/release/fathom and Python 3.
#
#   tools/make_mini.sh              the file inside the program again; compared with build/release/mini.gguf
#   tools/make_mini.sh --matrix     also the importance matrix from its corpus; compared with the committed one
#   tools/make_mini.sh --corpus     also the corpus (stories are told by the unquantised model)
#   tools/make_mini.sh --renew      writes matrix and corpus into models/mini instead of comparing
set -eu
cd "$(dirname "$0")/.."
fathom=${FATHOM:-build/release/fathom}
matrix="" corpus="" renew=""
case "${1:-}" in
"") ;;
--matrix) matrix=1 ;;
--corpus) matrix=1 corpus=1 ;;
--renew) matrix=1 corpus=1 renew=1 ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# place FILE NAME: FILE is what models/mini/NAME should be.
place() {
    if [ -n "$renew" ]; then
        cp "$1" "models/mini/$2"
        echo "written: models/mini/$2"
    else
        cmp "$1" "models/mini/$2"
        echo "same bytes: models/mini/$2"
    fi
}

if [ -n "$matrix" ]; then
    # The model without loss (the checkpoint is BF16).
    "$fathom" convert models/mini -o "$work/mini-bf16.gguf" --recipe bf16 2>"$work/log"
fi
if [ -n "$corpus" ]; then
    python3 tools/gen_mini_corpus.py --program "$fathom" --model "$work/mini-bf16.gguf" -o "$work/calibration.jsonl"
    place "$work/calibration.jsonl" calibration.jsonl
fi
if [ -n "$matrix" ]; then
    "$fathom" imatrix -m "$work/mini-bf16.gguf" -f models/mini/calibration.jsonl -o "$work/imatrix.gguf"
    place "$work/imatrix.gguf" imatrix.gguf
fi
"$fathom" convert models/mini -o "$work/mini.gguf" --recipe q2 --imatrix models/mini/imatrix.gguf \
    --imatrix-strict 2>"$work/log"
if [ -n "$renew" ]; then
    echo "now build again: the program carries the file that models/mini gives"
else
    cmp "$work/mini.gguf" build/release/mini.gguf
    echo "same bytes: build/release/mini.gguf"
fi
