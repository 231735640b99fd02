#!/usr/bin/env bash
# Surprise: `Trainer.test(model, ckpt_path="last")` tests the weights that the model happens to have where no "last"
# checkpoint is found, and Trainer.fit's default checkpoint is not one: it is not called last. One warning among many
# says so. `ckpt_path="best"` in the same place is an error.
# Version: lightning 2.6.6, torch 2.11.0.
# Why it matters: a script that trains in one process and tests in another reports the score of random weights, at chance
# level and with exit status 0; in retrieval over few classes chance level looks like a poor model.
# Instead: give the path of the file, or ModelCheckpoint(save_last=True), and check that `trainer.ckpt_path` is set.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet --disable-pip-version-check 'lightning==2.6.6' 'torch==2.11.0' 'numpy==2.4.6' || exit 2
cat > last.py <<'PY'
import logging
import sys
import warnings

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        return (self.weight - batch[0].mean()) ** 2

    def test_step(self, batch, index):
        self.log("weight", self.weight)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def trainer(**arguments):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", max_epochs=20, **quiet, **arguments)


print("lightning", L.__version__)
data = DataLoader(TensorDataset(torch.ones(1, 1)))
first = trainer()
first.fit(Model(), data)
print("kept by fit:", first.checkpoint_callback.best_model_path.rpartition("/")[2])
second = trainer()
[tested] = second.test(Model(), data, ckpt_path="last", verbose=False)
print("trained weight 1.0; tested weight:", tested["weight"], "of checkpoint", second.ckpt_path)
try:
    trainer().test(Model(), data, ckpt_path="best", verbose=False)
    best = "no error"
except ValueError as error:
    best = "ValueError"
print('ckpt_path="best":', best)
sys.exit(not (tested["weight"] == 0 and second.ckpt_path is None and best == "ValueError"))
PY
if venv/bin/python last.py; then
  echo "As described."
else
  echo "The behaviour has changed."
  exit 1
fi
