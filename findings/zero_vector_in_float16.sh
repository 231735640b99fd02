#!/usr/bin/env bash
# Surprise: `torch.nn.functional.normalize` and `cosine_similarity` of a zero vector give 0 in float32 and bfloat16, and
# NaN in float16, on a CPU too: their eps, 1e-12 and 1e-8, is below the smallest number of float16 and becomes 0.
# torchmetrics' `pairwise_cosine_similarity` has no eps and gives NaN in every precision.
# Version: torch 2.11.0, torchmetrics 1.9.0.
# Why it matters: an empty caption, a silent sound or a masked sequence that is pooled to zero turns the similarities of
# its row to NaN once a model is run in half precision, and NaN sorts first where scores are ranked in descending order.
# Instead: normalise in float32, or give an eps that float16 has, such as 1e-4.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'torchmetrics==1.9.0' 'torch==2.11.0' 'numpy==2.4.6' || exit 2
cat > zero.py <<'PY'
import sys

import torch
import torchmetrics
from torch.nn.functional import cosine_similarity, normalize
from torchmetrics.functional import pairwise_cosine_similarity

print("torch", torch.__version__, "torchmetrics", torchmetrics.__version__)
found = {}
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    zero, one = torch.zeros(1, 4, dtype=dtype), torch.ones(1, 4, dtype=dtype)
    values = normalize(zero)[0, 0], cosine_similarity(zero, one)[0], pairwise_cosine_similarity(zero, one)[0, 0]
    found[dtype] = [torch.isnan(value).item() for value in values]
    print(f"{dtype}: normalize {values[0]}, cosine_similarity {values[1]}, pairwise_cosine_similarity {values[2]}")
order = torch.tensor([0.9, float("nan"), 0.1]).argsort(descending=True).tolist()
print("scores 0.9, NaN, 0.1 in descending order: items", order)
described = {torch.float32: [False, False, True], torch.bfloat16: [False, False, True], torch.float16: [True] * 3}
sys.exit(found != described or order[0] != 1)
PY
if venv/bin/python zero.py; then
  echo "As described."
else
  echo "The behaviour has changed."
  exit 1
fi
