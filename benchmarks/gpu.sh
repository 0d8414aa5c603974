#!/usr/bin/env bash
# Everything that needs a GPU, in one call of at most 9 minutes: the laws on CUDA, then training, emulation, images that stay
# on the device and memory, side by side with torchvision's and timm's steps where those are installed. Writes one file.
#
#   benchmarks/gpu.sh                     on a machine with a GPU and a torch that can use it
#   DEVICE=cpu QUICK=1 benchmarks/gpu.sh  the same steps in small on the processor: does the script itself work?
#
# Variables (all may be left out):
#   PYTHON   the Python that has torch (python3)
#   NAME     of the results file, benchmarks/results/gpu-NAME.json (the GPU's name); OUT for another place
#   WHEELS   a folder with wheels of what this Python lacks; they are installed into a temporary environment and nowhere else.
#            Where there is a network, make one for another machine (here Python 3.12) by
#              python3 -m pip download --only-binary=:all: --python-version 3.12 --no-deps -d wheels -c constraints.txt \
#                pydantic pydantic-core annotated-types typing-inspection cyclopts docstring-parser rich-rst simplejpeg
#   SECONDS_IN_ALL  the time to end within (530)
#
# Ends with 0 when every part did, else with the number of parts that did not; each has a limit of its own, and what the others
# found is kept. No network and no git are needed.
set -u
cd "$(dirname "$0")/.." || exit 99
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-cuda} QUICK=${QUICK:-0} WHEELS=${WHEELS:-} LIMIT=${SECONDS_IN_ALL:-530}
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 WIDESTEP_TEST_DEVICE=$DEVICE
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
WORK=$(mktemp -d) || exit 99
trap 'rm -rf "$WORK"' EXIT
export TORCHINDUCTOR_CACHE_DIR=$WORK/compiled TRITON_CACHE_DIR=$WORK/triton # so that compiling is done, and timed, here
FAILED=0

part() { # part NAME SECONDS COMMAND...: run it within its seconds and those that are left
  local name=$1 seconds=$2 left=$((LIMIT - SECONDS)) began=$SECONDS code
  shift 2
  if ((left < 10)); then
    code=no-time
  elif [[ $(type -t "$1") == function ]]; then
    "$@"
    code=$?
  else
    timeout --kill-after=5 $((seconds < left ? seconds : left)) "$@"
    code=$?
  fi
  echo "== $name: ended with $code after $((SECONDS - began)) s"
  echo "$name $code $((SECONDS - began))" >>"$WORK/parts"
  [[ $code == 0 ]] || FAILED=$((FAILED + 1))
}

wheels() { # an environment beside the Python that has torch: its own packages, then those
  "$PYTHON" -m venv --without-pip "$WORK/venv" || return
  local site
  site=$("$WORK/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$PYTHON" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' >"$site/parent.pth"
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
}
if [[ -n $WHEELS ]]; then
  part wheels 60 wheels
  PYTHON=$WORK/venv/bin/python
fi
part "packages to train" 30 "$PYTHON" -m benchmarks.needed train
if [[ $DEVICE == cuda ]]; then
  part "a GPU" 30 "$PYTHON" -c 'import torch; print(torch.cuda.get_device_name(), torch.randn(9, device="cuda").sum().item())'
fi
if ((FAILED)); then
  echo "Nothing can be measured here, and nothing was written."
  exit "$FAILED"
fi

if [[ -z ${OUT:-} ]]; then
  named=$("$PYTHON" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "none")')
  NAME=${NAME:-$(echo "${named##* }" | tr -cd '[:alnum:]-' | tr '[:upper:]' '[:lower:]')}
  OUT=benchmarks/results/gpu-$NAME.json
fi
rm -f "$OUT"
SMALL=$([[ $QUICK == 1 ]] && echo --quick)

measure() { # measure NAME SECONDS ARGUMENTS...: what is measured is in the file at once
  local name=$1 seconds=$2
  shift 2
  part "$name" "$seconds" "$PYTHON" -m benchmarks "$@" --device "$DEVICE" --gpu ${SMALL:+"$SMALL"} --add --out "$OUT"
}

if [[ $QUICK == 1 ]]; then
  measure training 400 training
else
  measure "training ResNet-50" 190 training --model resnet50
fi
part "packages to test" 30 "$PYTHON" -m benchmarks.needed test
SIDE_BY_SIDE=$("$PYTHON" -c 'import xdist' 2>/dev/null && echo "-n $(($(nproc) < 8 ? $(nproc) : 8))")
CHOSEN=$([[ $QUICK == 1 ]] && echo "-k cifar-resnet20")
# shellcheck disable=SC2086 # options, each a word of its own
part laws 170 "$PYTHON" -m pytest tests/gpu -q -p no:cacheprovider -p no:benchmark $SIDE_BY_SIDE $CHOSEN
measure resident 40 resident
measure memory 80 memory
if [[ $QUICK != 1 ]]; then
  measure "training, CIFAR" 120 training --model cifar-resnet20
fi
measure emulation 100 emulation

"$PYTHON" - "$OUT" "$WORK/parts" <<'END' || FAILED=$((FAILED + 1))
import json, sys
out, parts = sys.argv[1:]
with open(parts) as file:
    found = [line.rsplit(" ", 2) for line in file.read().splitlines()]
try:
    with open(out) as file:
        results = json.load(file)
except OSError:
    sys.exit("nothing was measured")
results["parts"] = [{"name": name, "ended_with": code, "seconds": int(seconds)} for name, code, seconds in found]
with open(out, "w") as file:
    json.dump(results, file, indent=1)
END
echo "$OUT: $FAILED parts failed; $SECONDS s"
exit "$FAILED"
