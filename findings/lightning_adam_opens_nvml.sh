#!/usr/bin/env bash
# Surprise: once lightning is imported, every step of Adam on a machine without a GPU loads NVIDIA's management library
# anew, and fails to: `torch.optim` asks torch.cuda.is_available() in each step, lightning sets
# PYTORCH_NVML_BASED_CUDA_CHECK=1 when it is imported, and that check is not cached before CUDA is initialised.
# Version: lightning 2.6.6, torch 2.11.0 (its default build for Linux, which has CUDA).
# Why it matters: small models on CPUs (adversarial training with eight optimiser steps a batch) lose some 5 % of their
# time, more where many libraries are loaded, and nothing in the training code shows why.
# Instead: where there is no GPU, set PYTORCH_NVML_BASED_CUDA_CHECK=0 after importing lightning.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'lightning==2.6.6' 'torch==2.11.0' 'numpy==2.4.6' || exit 2
cat > steps.py <<'PY'
import os
import sys

import torch

loaded = []
sys.addaudithook(lambda event, arguments: loaded.append(arguments[0]) if event == "ctypes.dlopen" else None)
weight = torch.nn.Parameter(torch.ones(1))
weight.grad = torch.ones(1)
adam = torch.optim.Adam([weight])


def libraries(steps: int = 100) -> int:
    before = len(loaded)
    for _ in range(steps):
        adam.step()
    return len(loaded) - before


alone = libraries()
import lightning  # noqa: E402

beside = libraries()
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
mended = libraries()
print("torch", torch.__version__, "lightning", lightning.__version__)
print(f"libraries loaded in 100 steps of Adam: torch alone {alone}, lightning imported {beside}, check set to 0 {mended}")
if torch.cuda.is_available():
    print("This machine has a GPU; the behaviour is that of one without.")
sys.exit(not (alone == 0 and beside == 100 and mended == 0))
PY
if venv/bin/python steps.py; then
  echo "As described."
else
  echo "The behaviour has changed."
  exit 1
fi
