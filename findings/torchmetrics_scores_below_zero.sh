#!/usr/bin/env bash
# Surprise: torchmetrics counts a relevant item whose score is zero or below as not relevant in MAP, MRR, precision and
# recall, though not in hit rate, R-precision, nDCG and AUROC. Adding one number to all scores changes MAP; minus a
# distance as score gives 0, and so does a relevant item that is ranked first with a cosine of zero.
# Version: torchmetrics 1.9.0, torch 2.11.0; no warning, and the arguments speak of "estimated probabilities".
# Why it matters: retrieval is ranked by cosine similarity, whose relevant items of a hard query lie below zero, or by
# minus a distance. The score looks plausible and is too low, more so for a model that spreads its embeddings.
# Instead: shift the scores above zero, as by (1 + cosine) / 2, or give the ranks turned round.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'torchmetrics==1.9.0' 'torch==2.11.0' 'numpy==2.4.6' || exit 2
cat > scores.py <<'PY'
import sys

import torch
import torchmetrics
from torchmetrics import retrieval

print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
cosine = torch.tensor([0.25, 0.15, -0.05, -0.15])  # the order of the items is the same in all three columns
relevant = torch.tensor([False, True, False, True])
query = torch.zeros(4, dtype=torch.long)
print(f"{'':24}{'cosine + 1':>12}{'cosine':>12}{'cosine - 1':>12}")
kept = {}
for name in ("MAP", "MRR", "Precision", "Recall", "HitRate", "RPrecision", "NormalizedDCG", "AUROC"):
    kind = getattr(retrieval, f"Retrieval{name}")
    values = [round(kind()(cosine + shift, relevant, indexes=query).item(), 3) for shift in (1, 0, -1)]
    print(f"{name:24}" + "".join(f"{value:12}" for value in values))
    kept[name] = len(set(values)) == 1
first = retrieval.RetrievalMAP()(torch.tensor([0.0, -0.5]), torch.tensor([True, False]), indexes=query[:2]).item()
print("MAP where the relevant item is first, with a cosine of 0:", first)
changed = {name for name, same in kept.items() if not same}
sys.exit(changed != {"MAP", "MRR", "Precision", "Recall"} or first != 0)
PY
if venv/bin/python scores.py; then
  echo "As described."
else
  echo "The behaviour has changed."
  exit 1
fi
