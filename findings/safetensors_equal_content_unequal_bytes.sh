#!/usr/bin/env bash
# Surprise: safetensors writes the metadata of a file in an order that changes from process to process: the same tensors
# and the same metadata give files with other bytes, and so another sha256.
# Version: safetensors 0.8.0; the tensors themselves stand in a fixed order.
# Why it matters: caches of features and checkpoints keyed by the hash of the file find nothing again, and a release that
# is built twice has two checksums.
# Instead: hash the content (names, types, shapes, bytes), or keep at most one entry of metadata, such as one JSON text.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'safetensors==0.8.0' 'numpy==2.4.6' || exit 2
cat > write.py <<'PY'
import hashlib
import sys

import numpy as np
from safetensors.numpy import save

count = int(sys.argv[1])
said = {name: "x" for name in ("dataset", "encoder", "format", "license", "split", "version")[:count]}
print(hashlib.sha256(save({"image": np.zeros((2, 3), "f4"), "text": np.ones((2, 3), "f4")}, said)).hexdigest())
PY
venv/bin/python -c 'import safetensors; print("safetensors", safetensors.__version__)'
for count in 1 6; do
  for _ in 1 2 3 4 5 6 7 8; do venv/bin/python write.py "$count"; done > "hashes$count"
  echo "8 processes, $count entries of metadata: $(sort -u "hashes$count" | wc -l) different files"
done
if [ "$(sort -u hashes1 | wc -l)" = 1 ] && [ "$(sort -u hashes6 | wc -l)" -gt 1 ]; then
  echo "As described."
else
  echo "The behaviour has changed."
  exit 1
fi
