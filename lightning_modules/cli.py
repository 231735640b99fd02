"""The command line: ``csd fit|validate|test|predict --config FILE``."""

from __future__ import annotations

import sys

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from datamodules import DataError, FeatureDataModule
from lightning_modules.base import RetrievalModule
from lightning_modules.predictions import EmbeddingWriter

TRAINER_DEFAULTS = {
    "max_epochs": 500,
    "default_root_dir": "results/runs/fit",
    "logger": [
        {"class_path": "CSVLogger", "init_args": {"save_dir": "results/runs/fit", "name": "csv"}},
        {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "results/runs/fit", "name": "tensorboard"}},
    ],
}
CHECKPOINT_DEFAULTS = {
    "checkpoint.monitor": "val/average/MAP",
    "checkpoint.mode": "max",
    "checkpoint.save_last": True,
    "checkpoint.filename": "best-epoch{epoch}",
    "checkpoint.auto_insert_metric_name": False,
}


class RetrievalCLI(LightningCLI):
    """LightningCLI whose model takes the widths of its inputs from the data, with checkpoints on validation MAP."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data", "model.init_args.dims", compute_fn=_dims, apply_on="instantiate")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EmbeddingWriter, "embeddings")
        parser.set_defaults(CHECKPOINT_DEFAULTS)


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: words after the program's name; by default those it was called with.

    Raises:
        SystemExit: with status 2 and a message for data, arguments or a disk that do not allow the run.
    """
    try:
        RetrievalCLI(
            RetrievalModule,
            FeatureDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            args=args,
        )
    except DataError as error:
        _exit(str(error))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _exit(
            f"{error.strerror or error}{where}: nothing more could be written. Checkpoints written before are intact; "
            "free space or name another folder with --trainer.default_root_dir, and resume with --ckpt_path."
        )


def _dims(data: FeatureDataModule) -> dict[str, int]:
    return data.dims


def _exit(message: str) -> None:
    print(f"csd: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
