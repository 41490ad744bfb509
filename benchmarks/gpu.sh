#!/usr/bin/env bash
# Experiments on one GPU, all at once, for a given time; then their reports, from what is done.
#   bash benchmarks/gpu.sh SECONDS OUT [JOBS EXPERIMENT.yaml]...
# as in: bash benchmarks/gpu.sh 480 experiments 12 configs/experiments/ixi.yaml 6 configs/experiments/ixi-2mm.yaml
# Results go to OUT/NAME, logs to OUT/NAME.log. Run again, it goes on. With PACK=FOLDER, what is small of
# them (all but models and weights) is put there as archives in parts of 15 MB, experiment by experiment:
#   cat FOLDER/NAME.tgz.* | tar -xz -C experiments
# The models are small: one process leaves the GPU idle most of the time, and many take turns, unless
# NVIDIA's Multi-Process Service lets them work side by side. It is used where it is there and works,
# and ended with the work.
set -um  # every experiment is a group of processes, ended as one
limit=$1 out=$2; shift 2
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
start=$(date +%s)
say() { echo "[$(($(date +%s) - start)) s] $*"; }
python3 -c 'import torch; print("torch", torch.__version__, "on", torch.cuda.get_device_name())' || exit 1

export CUDA_MPS_PIPE_DIRECTORY=/tmp/metavoxel-mps CUDA_MPS_LOG_DIRECTORY=/tmp/metavoxel-mps
mkdir -p $CUDA_MPS_PIPE_DIRECTORY "$out"
works() { timeout 40 python3 -c 'import torch; x = torch.ones(9, device="cuda"); assert (x + x).sum() == 18'; }
end_mps() { echo quit | timeout 20 nvidia-cuda-mps-control >/dev/null 2>&1; unset CUDA_MPS_PIPE_DIRECTORY; }
if command -v nvidia-cuda-mps-control >/dev/null && nvidia-cuda-mps-control -d && { works & works && wait $!; }; then
  say "the processes share the GPU through MPS"
else
  end_mps
  say "the processes take turns on the GPU: no MPS here"
fi

names=() groups=()
while [ $# -gt 1 ]; do
  name=$(basename "$2" .yaml) names+=("$2")
  timeout -k 15 -s INT "$limit" \
    python3 -m metavoxel experiment "$2" --out "$out/$name" --jobs "$1" >"$out/$name.log" 2>&1 &
  groups+=($!)
  shift 2
done
while [ -n "$(jobs -rp)" ] && [ $(($(date +%s) - start)) -lt $((limit + 20)) ]; do
  sleep 5
  [ $((($(date +%s) - start) / 5 % 12)) -eq 0 ] && say "$(find "$out" -path '*/pieces/*.json' | wc -l) pieces done," \
    "GPU $(nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader)"
done
for group in "${groups[@]}"; do kill -9 -- "-$group" 2>/dev/null; done
say "the time is over"
end_mps

for path in "${names[@]}"; do
  name=$(basename "$path" .yaml)
  timeout 75 python3 -m metavoxel experiment "$path" --out "$out/$name" --report \
    >"$out/$name.report.log" 2>&1 || tail -n 3 "$out/$name.report.log" &
done
wait
say "reported"
python3 benchmarks/pieces.py "$out"/*/pieces

[ -n "${PACK:-}" ] || exit 0
mkdir -p "$PACK"
for path in "${names[@]}"; do
  name=$(basename "$path" .yaml)
  tar -C "$out" --exclude="$name/models" --exclude='*.safetensors' --exclude='*.ckpt' --exclude='*.lock' \
    --exclude='*tfevents*' -cz "$name" "$name.log" | split -b 15M - "$PACK/$name.tgz."
done
say "packed: $(du -sh "$PACK" | cut -f1) in $PACK"
