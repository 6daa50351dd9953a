#!/usr/bin/env bash
# Long trainings beside published scores. Each trains, scores, and writes results/record_NAME.md.
#
#   DATA=CamVid benchmarks/records.sh camvid      towards test mIoU .694 (FC-DRN, from scratch); a GPU
#   DATA=DRIVE  benchmarks/records.sh drive       towards Dice .828 in the field of view (W-Net); a GPU
#   DATA=DRIVE  benchmarks/records.sh drive-cpu   a network of W-Net's 68,000 parameters on a CPU
#
# The test split is scored where DATA has one, else the validation images that chose the weights.
# DATA of the records: CamVid as 367, 101 and 233 images of 360×480 with 11 classes, in folders
# train, val and test; DRIVE as training/ and test/ with 1st_manual/ (20 images each).
#
# Interrupted, the same command goes on. Flags after the name go to `unetseg train` too.
# BUDGET (8h, 2h, 45m), OUT (checkpoints), RESULTS (benchmarks/results), SEED (0), PYTHON
set -euo pipefail

name=${1:?camvid, drive or drive-cpu}
shift
DATA=$(realpath "${DATA:?the folder of the pairs}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${OUT:-checkpoints}
RESULTS=${RESULTS:-benchmarks/results}
SEED=${SEED:-0}
PYTHON=${PYTHON:-.venv/bin/python}

case $name in
camvid)
    budget=8h
    # Residual blocks, as FC-DRN has. Crops of nearly the whole height: a street needs its context.
    # Coarse levels are trained too, for there are few images and many steps.
    flags=(--block residual --width 32 --depth 5 --patch 352 --batch 8 --augment full
        --deep-supervision)
    ;;
drive)
    budget=2h
    # Whole images (565×584). Vessels are a few pixels wide: little depth, and not much width for 20
    # images that are seen thousands of times.
    flags=(--width 16 --depth 4 --patch 576 --batch 4 --augment full)
    ;;
drive-cpu)
    budget=45m
    # 68,354 parameters. Two whole images a step: more steps than W-Net's four would give.
    flags=(--device cpu --width 6 --depth 3 --patch 576 --batch 2 --augment full)
    ;;
*)
    echo "no record $name: camvid, drive or drive-cpu" >&2
    exit 2
    ;;
esac
flags+=(--budget "${BUDGET:-$budget}" --seed "$SEED" "$@")
run=$OUT/$name

if [[ $name == drive* ]]; then # what is scored is inside the field of view
    if [[ ! -d $OUT/$name-data ]]; then
        mkdir -p "$OUT"
        rm -rf "$OUT/$name-data.part"
        "$PYTHON" -m benchmarks.fields_of_view "$DATA" "$OUT/$name-data.part"
        mv "$OUT/$name-data.part" "$OUT/$name-data"
    fi
    DATA=$OUT/$name-data
fi
said=${flags[*]}
if [[ -e $run/last.pt ]]; then
    flags+=(--resume)
fi
"$PYTHON" -m unetseg train "$DATA" --out "$OUT" --name "$name" "${flags[@]}"

mkdir -p "$RESULTS"
{
    printf '# Record: %s\n\n```\n' "$name"
    "$PYTHON" -c 'from benchmarks.rounds import machine_lines; print(*machine_lines(), sep="\n")'
    printf '\nunetseg train %s\nunetseg eval --tta\n\n' "$said"
    "$PYTHON" -m unetseg eval "$run" "$DATA" --tta
    printf '```\n'
} | tee "$run/record.md"
cp "$run/record.md" "$RESULTS/record_${name//-/_}.md"
