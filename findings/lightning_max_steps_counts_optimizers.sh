#!/usr/bin/env bash
# Surprise: Lightning's `global_step` counts the steps of every optimizer: with manual optimization and three of them (two
# critics and a generator) `Trainer(max_steps=30)` ends after 10 batches, and `every_n_train_steps` and the x axis of a
# logger follow the same count. `trainer.fit_loop.total_batch_idx` counts batches.
# Version: lightning 2.6.6, torch 2.11.0.
# Why it matters: an adversarial model that is compared with one of a single optimizer at equal `max_steps` gets a third
# of its training, and a published schedule in steps of the whole model is cut short without a word.
# Instead: multiply max_steps by the number of optimizer steps per batch, or stop by epochs.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'lightning==2.6.6' 'torch==2.11.0' 'numpy==2.4.6' || exit 2
cat > steps.py <<'PY'
import logging
import sys
import warnings

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(L.LightningModule):
    def __init__(self, count):
        super().__init__()
        self.automatic_optimization = False
        self.parts = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(count))
        self.batches = 0

    def training_step(self, batch, index):
        self.batches += 1
        optimizers = self.optimizers()
        for part, optimizer in zip(self.parts, optimizers if isinstance(optimizers, list) else [optimizers]):
            optimizer.zero_grad()
            self.manual_backward(part(batch[0]).square().mean())
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in self.parts]


print("lightning", L.__version__)
data = DataLoader(TensorDataset(torch.ones(100, 1)))
batches = {}
for count in (1, 3):
    model = Model(count)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", max_steps=30, **quiet)
    trainer.fit(model, data)
    batches[count] = model.batches
    print(f"{count} optimizer(s), max_steps=30: {model.batches} batches, global_step {trainer.global_step}")
sys.exit(batches != {1: 30, 3: 10})
PY
if venv/bin/python steps.py; then
  echo "As described."
else
  echo "The behaviour has changed."
  exit 1
fi
