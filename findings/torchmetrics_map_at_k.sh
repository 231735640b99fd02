#!/usr/bin/env bash
# Surprise: MAP of torchmetrics with `top_k` divides by the relevant items found among the first k, not by those there
# are (or by k, if that is less): a query is scored 1 as soon as one relevant item is first, and a longer list scores
# lower. RetrievalRecall of the same list does divide by those there are.
# Version: torchmetrics 1.9.0, torch 2.11.0.
# Why it matters: papers report MAP@50 with min(R, k) below. The same embeddings come out far higher here, and where k
# is small, the figure says little more than whether the first item was relevant.
# Instead: say which denominator a MAP@k has; for min(R, k), multiply each query's value by hits / min(R, k).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'torchmetrics==1.9.0' 'torch==2.11.0' 'numpy==2.4.6' || exit 2
cat > cut.py <<'PY'
import sys

import torch
import torchmetrics
from torchmetrics.retrieval import RetrievalMAP, RetrievalRecall

print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
relevant = torch.tensor([1, 0, 0, 1, 0, 0, 1, 0, 0, 1])  # in the order of the ranking
scores, query = torch.linspace(1, 0.1, 10), torch.zeros(10, dtype=torch.long)
hits = relevant.cumsum(0)
terms = hits / torch.arange(1, 11) * relevant
found = []
for k in (1, 3, 5, 10):
    value = RetrievalMAP(top_k=k)(scores, relevant, indexes=query).item()
    recall = RetrievalRecall(top_k=k)(scores, relevant, indexes=query).item()
    by_those_there_are = (terms[:k].sum() / min(4, k)).item()
    print(f"k = {k:2}: MAP {value:.3f}, with min(R, k) below {by_those_there_are:.3f}, recall {recall:.3f}")
    found.append((value, (terms[:k].sum() / hits[k - 1]).item()))
as_described = all(abs(value - by_hits) < 1e-6 for value, by_hits in found) and found[0][0] > found[-1][0]
sys.exit(not as_described)
PY
if venv/bin/python cut.py; then
  echo "As described."
else
  echo "The behaviour has changed."
  exit 1
fi
