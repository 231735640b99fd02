"""The command line: ``csd fit|validate|test|predict --config FILE``, ``csd export`` and ``csd search``."""

import errno
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from jsonargparse import Namespace
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules import DataError, RetrievalData
from lightning_modules import checkpoints, runs
from lightning_modules.base import RetrievalModule, prepare
from lightning_modules.cli_errors import ConfigError, Parser, leave, reason, refusal
from lightning_modules.commands import TRAINER_COMMANDS
from lightning_modules.predictions import EmbeddingWriter
from lightning_modules.score_table import IN_MATRICES, score_tables
from lightning_modules.serving.export import run_export
from lightning_modules.serving.search import run_search
from losses.registry import nearest

# Commands of a trained model, which need no data module and no trainer.
COMMANDS = {"export": run_export, "search": run_search}
TRAINER_DEFAULTS = {"max_epochs": 500, "default_root_dir": "results/runs/fit", "log_every_n_steps": 1}
SHARP = 0.03  # effective temperature, below which scores suffer
# Lightning advertises its maker's logging service at every start.
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda said: "litlogger" not in said.getMessage())

# Lightning's word for the checkpoint that it writes when SLURM takes a job back, and resumes when it is queued again.
HPC = "hpc"
INTACT = "Checkpoints written before are intact"
LOST = re.compile(r"/gloo/.*(connection|pipe|timed out|timeout)|ncclRemoteError", re.IGNORECASE)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


class RetrievalCLI(LightningCLI):
    """LightningCLI whose model takes the widths of its inputs from the data, with checkpoints on validation MAP.

    Args:
        command: the one whose options are needed; None for all, which takes four times as long.
    """

    def __init__(self, command: str | None, **kwargs: Any):
        self.command = command
        descriptions = {name: {"description": TRAINER_COMMANDS[name]} for name in self.subcommands()}
        parser_kwargs = {"allow_abbrev": False, **descriptions}
        super().__init__(RetrievalModule, RetrievalData, parser_kwargs=parser_kwargs, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:
        """The commands, each with the arguments that are no options of it."""
        every = super().subcommands()
        return every if self.command is None else {self.command: every[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.dims", "model.init_args.dims", apply_on="instantiate")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EmbeddingWriter, "embeddings")
        parser.set_defaults({f"checkpoint.{name}": value for name, value in checkpoints.BEST.items()})
        parser.add_argument(
            "--allow_other_data",
            type=bool,
            default=False,
            help="Take a checkpoint that was trained on, or chosen by, other items than those of the data given.",
        )
        parser.add_argument(
            "--name", type=str | None, help="Name of the run: its logs are in csv/fit_NAME in place of csv/version_0."
        )
        parser.add_argument(
            "--matrices",
            type=list[str],
            default=list(IN_MATRICES),
            help="Metrics that are shown as matrices of query by gallery, of three modalities and more.",
        )
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=False,
            help="Score the test parts when csd fit has ended: with the best checkpoint where there are any.",
        )

    def after_fit(self) -> None:
        """Score the test parts, where the configuration asks for it: a row of a table is made again by one command."""
        if self._get(self.config_init, "test_after_fit"):
            kept = (callback.best_model_path for callback in self.trainer.checkpoint_callbacks if callback.monitor)
            self.test(model=self.model, datamodule=self.datamodule, ckpt_path=next(filter(None, kept), None))

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and find out what "~" and ``--ckpt_path`` mean; a file that cannot be read is refused at once."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        config.update(runs.at_home(config))
        given = config.get("ckpt_path")
        if given and given != HPC:
            config.ckpt_path = str(checkpoints.checkpoint_file(given, Path(config.trainer.default_root_dir)))
            if config.ckpt_path != given:
                print(f"csd: --ckpt_path {given} is {config.ckpt_path}", file=sys.stderr)

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; what they refuse is said without the stack of calls that led there."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError) as error:
            leave(reason(error))
        self.model.allow_other_data = self._get(self.config_init, "allow_other_data")
        untrained = self.subcommand != "fit" and not self._get(self.config, "ckpt_path")
        if untrained and any(parameter.requires_grad for parameter in self.model.parameters()):
            raise DataError(
                f"{self.subcommand} without --ckpt_path would take an untrained model, of random weights; name a .ckpt "
                "that csd fit wrote, or --ckpt_path last (or best) for that of the last run in the trainer's "
                "default_root_dir"
            )
        if self.subcommand == "fit" and self.trainer.is_global_zero:
            self._say_if_sharp()
        prepare(self.model, self.datamodule, fit=self.subcommand == "fit")

    def _say_if_sharp(self) -> None:
        """Of gcs a temperature that suits other losses is a far lower one, the lower the more modalities there are."""
        loss, modalities = self.model.alignment, len(self.model.modalities)
        factor = loss.effective_factor(modalities) if loss is not None else None
        if factor is not None and factor > 1 and loss.temperature / factor < SHARP <= loss.temperature:
            print(
                f"csd: on {modalities} modalities this loss at temperature {loss.temperature:g} is as sharp as kl at "
                f"{loss.temperature / factor:.2g}, which often retrieves worse; at {factor * 0.1:g} it is as sharp as "
                "kl at 0.1",
                file=sys.stderr,
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with CSV and TensorBoard logs in its default_root_dir unless the configuration names loggers."""
        config = self._get(self.config_init, "trainer")
        root = Path(config["default_root_dir"]).resolve()
        if config["barebones"]:
            kwargs["log_every_n_steps"] = 0
        elif config["logger"] is None:
            kwargs["logger"] = runs.loggers(root, self.subcommand, self._get(self.config_init, "name"))
        trainer = super().instantiate_trainer(**kwargs)
        path = self._get(self.config, "ckpt_path")
        if self.subcommand == "fit" and path and path != HPC:
            for callback in trainer.checkpoint_callbacks:  # elsewhere they would forget the best one so far
                callback.dirpath = callback.dirpath or str(Path(path).resolve().parent)
        return trainer

    def test(self, verbose: bool = True, **kwargs: Any) -> None:
        """Score the test parts, and print each score once under its whole name.

        Lightning prints all of them once per DataLoader, and takes the bracket in MAP@10[min(R,k)] for markup.
        """
        self._evaluate(self.trainer.test, verbose, kwargs)

    def validate(self, verbose: bool = True, **kwargs: Any) -> None:
        """Score the validation items, and print as :meth:`test` does."""
        self._evaluate(self.trainer.validate, verbose, kwargs)

    def _evaluate(self, run: Callable[..., Any], verbose: bool, kwargs: dict[str, Any]) -> None:
        results = run(verbose=False, **kwargs)
        if verbose and any(results) and self.trainer.is_global_zero:
            print(score_tables(results, self._get(self.config_init, "matrices")))

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Add checkpoints of the last epoch; none where the configuration wants none, or has such a callback itself."""
        given = config["callbacks"] or []
        own = {callback.state_key for callback in (given if isinstance(given, list) else [given])}
        none = config["barebones"] or config["enable_checkpointing"] is False
        callbacks = [
            callback
            for callback in [*callbacks, ModelCheckpoint(**checkpoints.LAST)]
            if callback.state_key not in own and not (none and isinstance(callback, ModelCheckpoint))
        ]
        return super()._instantiate_trainer(config, callbacks)

    def _parse_ckpt_path(self) -> None:
        before = self._model_arguments()
        super()._parse_ckpt_path()
        after = self._model_arguments()
        changed = [name for name, value in before.items() if value is not None and after.get(name, value) != value]
        if changed:
            held = ", ".join(f"{name} {after[name]!r} (not {before[name]!r})" for name in changed)
            print(f"csd: settings of the checkpoint hold: {held}", file=sys.stderr)

    def _model_arguments(self) -> dict[str, Any]:
        model = self.config[self.config.subcommand].get("model", Namespace()).as_dict()
        return {"model": model.get("class_path"), **model.get("init_args", {})}


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: words after the program's name; by default those it was called with.

    Raises:
        SystemExit: with status 2 and a message for data, arguments or a disk that do not allow the run, and where
            another process of the run has ended.
    """
    words = sys.argv[1:] if args is None else args
    if words and words[0][:1] != "-" and words[0] not in {**TRAINER_COMMANDS, **COMMANDS}:
        leave(f"there is no command {words[0]!r}; {nearest(words[0], [*TRAINER_COMMANDS, *COMMANDS])}")
    if os.getcwd() not in sys.path:  # as `python -m` has it; last, so that nothing there stands in for a package
        sys.path.append(os.getcwd())
    command = COMMANDS.get(words[0]) if words else None
    try:
        if command:
            command(words[1:])
        else:
            _train(args, words[0] if words and words[0] in TRAINER_COMMANDS else None)
    except ConfigError as error:
        leave(f"{error}\nAll options: csd fit --help; of a class: csd fit --model.help JFSE")
    except (DataError, MisconfigurationException) as error:
        leave(str(error))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if command:
            leave(f"{error.strerror or error}{where}; free space, or name another place with --out")
        if error.errno not in UNWRITABLE:
            leave(f"{error.strerror or error}{where}. {INTACT}")
        remedy = "free space or " * (error.errno in FULL)
        leave(
            f"{error.strerror or error}{where}: nothing more could be written. {INTACT}; "
            f"{remedy}name another folder with --trainer.default_root_dir, and resume with --ckpt_path."
        )
    except (ValueError, RuntimeError) as error:
        message = _broken_connection(error) or refusal(error)
        if not message:
            raise
        leave(message)


def _train(args: list[str] | None, command: str | None) -> None:
    """Run a command of the trainer."""
    # Said by Lightning about its own calls; a user can do nothing about it.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
    RetrievalCLI(
        command,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        parser_class=Parser,
        auto_configure_optimizers=False,
        save_config_callback=runs.ConfigWriter,
        save_config_kwargs={"overwrite": True},
        trainer_defaults=TRAINER_DEFAULTS,
        args=args,
    )


def _broken_connection(error: ValueError | RuntimeError) -> str:
    """What to say where another process of the run is no longer there; nothing for another error."""
    if not isinstance(error, dist.DistNetworkError | dist.DistStoreError) and not LOST.search(str(error)):
        return ""
    return (
        f"no connection to the other processes of this run: {str(error).splitlines()[0]}. Probably one has ended: its "
        f"own output, or that of its node, says why. {INTACT}; resume with --ckpt_path."
    )
