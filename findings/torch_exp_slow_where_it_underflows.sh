#!/usr/bin/env bash
# Surprise: on a CPU `torch.exp` of float32 takes many times as long where its result is 0 or below the smallest normal
# number: for entries that a mask has set to -inf, and for logarithms below -87. `torch.logsumexp` is made of it and is
# slow with them; `softmax`, `log_softmax` and `exp2` are not slow at -inf. The builds for x86 call MKL's exp, which
# treats each such entry apart.
# Version: torch 2.11.0.
# Why it matters: losses in log space mask what is no positive with -inf, and at low temperatures most entries of a
# row underflow. The slow step is then the exponential, not the matrix product, and its time depends on the data.
# Instead: let softmax or log_softmax do the exponential where it can.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'torch==2.11.0' 'numpy==2.4.6' || exit 2
cat > exponentials.py <<'PY'
import statistics
import sys
import time

import torch

torch.set_num_threads(1)
print("torch", torch.__version__, "with MKL" if torch.backends.mkl.is_available() else "without MKL")
plain = torch.full((512, 512), -3.0)
rows = {"no mask": plain, "-inf beside the diagonal": plain.masked_fill(~torch.eye(512, dtype=torch.bool), -torch.inf)}
rows["about -95"] = plain - 92
calls = {
    "exp": torch.exp,
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "exp2": torch.exp2,
    "softmax": lambda x: torch.softmax(x, 1),
    "log_softmax": lambda x: torch.log_softmax(x, 1),
}


def seconds(call, x):
    times = []
    for _ in range(60):
        start = time.perf_counter()
        call(x)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


ratios = {}
for name, call in calls.items():
    base = seconds(call, rows["no mask"])
    ratios[name] = {kind: seconds(call, x) / base for kind, x in rows.items()}
    print(f"{name}: {base * 1e6:.0f} us; " + ", ".join(f"{kind} x {r:.1f}" for kind, r in ratios[name].items()))
masked = {name: ratio["-inf beside the diagonal"] for name, ratio in ratios.items()}
slow = masked["exp"] > 4 and masked["logsumexp"] > 2 and ratios["exp"]["about -95"] > 4
level = all(masked[name] < 2 for name in ("exp2", "softmax", "log_softmax"))
sys.exit(not (slow and level))
PY
if venv/bin/python exponentials.py; then
  echo "As described."
else
  echo "The behaviour has changed."
  exit 1
fi
