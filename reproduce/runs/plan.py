"""A table's runs: which it needs, training the missing ones in three stages, and choosing settings between them.

First the trainings that choose a schedule, then the trials, both scored on validation data; then, with what was chosen,
one run per seed on the test items.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

from datamodules import DataError, DataMissing, data_root, root_is_named
from datamodules.datasets import DATASETS
from datamodules.datasets.own_data import AS_PUBLISHED
from reproduce.runs.arguments import matched
from reproduce.runs.checks import check_modalities
from reproduce.runs.config import (
    JOINT_SCORE,
    OF_LABELS,
    Data,
    build_data,
    data_source,
    model_class,
    resolve,
    without_unused_labels,
)
from reproduce.runs.executors import Executor, Run, Workers
from reproduce.runs.machine import duration, workers
from reproduce.runs.presence import is_generated, model_absent, require_present
from reproduce.runs.schedule import Curve, Schedule, choose, remark
from reproduce.runs.spec import DataSet, Method, Table
from reproduce.runs.store import RunStore, run_key

# Arguments of data modules that decide how items are divided, ordered and labelled, and nothing of what is read.
AFTER_READING = (
    *("batch_size", "validation_fraction", "shuffle_seed", "class_split", "class_seed", "class_encoder"),
    *("paired_fraction", "protocol", *OF_LABELS),
)
# How many training steps a model that takes none counts for, in the estimate of the time left.
CLOSED_FORM_STEPS = 40


class Row(NamedTuple):
    """What a table has a row for: a method on a data set."""

    dataset: DataSet
    method: Method

    @property
    def columns(self) -> dict[str, str]:
        """What the table's columns say of it."""
        of_data = {name: getattr(self.dataset, name) for name in ("dataset", "features", "condition")}
        return {**of_data, "method": self.method.method, "protocol": self.method.protocol}


@dataclass(frozen=True)
class Choice:
    """What validation data chose for a row.

    Args:
        setting: arguments of the model.
        shown: the same as written into the table's YAML, with a temperature that follows from a matched one.
        trials: every setting with its "validation MAP", as written there.
        curve: of the chosen trial.
        error: why nothing could be chosen.
    """

    setting: dict[str, Any] = field(default_factory=dict)
    shown: dict[str, Any] = field(default_factory=dict)
    trials: Sequence[dict[str, Any]] = ()
    curve: Curve = ()
    error: str = ""


@dataclass
class Plan:
    """Regenerates one table: ``available`` says on what, ``execute`` trains, and what came of it stands in the plan.

    Once trained, ``choices`` and ``finals`` hold the rows, and a run its result or what went wrong.

    Args:
        table: the table.
        scale: key of ``table.scales``.
        root: data root given by the user, or None.
        seeds: seeds to average over; none: those of the data set, or of the scale.
        store: where finished runs are kept.
        offline: never fetch data.
        only: column -> value; runs of other rows are not made.
        executor: what trains the runs; by default worker processes.
    """

    table: Table
    scale: str
    root: str | None
    seeds: Sequence[int]
    store: RunStore
    offline: bool = False
    only: dict[str, str] = field(default_factory=dict)
    executor: Executor = field(default_factory=lambda: Workers(workers()))
    runs: dict[str, Run] = field(default_factory=dict)  # key -> run
    choices: dict[Row, Choice] = field(default_factory=dict)
    schedules: dict[tuple[DataSet, str], Schedule] = field(default_factory=dict)  # of a data set and model
    finals: dict[Row, list[Run]] = field(default_factory=dict)
    absent: dict[DataSet, str] = field(default_factory=dict)  # data sets that cannot be read, with the reason
    choosing: dict[str, DataSet] = field(default_factory=dict)  # those that `settings_of` names, found
    modules: dict[str, Data] = field(default_factory=dict)
    readers: dict[str, Data] = field(default_factory=dict)

    def available(self) -> list[DataSet]:
        """Data sets that can be read; synthetic data where none can.

        Raises:
            DataError: the user named a data root, and it holds none of the data sets, or a broken one.
        """
        chosen = [one for one in self.table.datasets if self.rows([self._unread(one)])]
        present: list[DataSet] = []
        for dataset in chosen:
            try:
                found = self._found(dataset)
                self._chooses_for(found)
                present.append(found)
            except DataMissing as error:  # results name no place of a machine
                self.absent[dataset] = str(error).replace(f"{data_root(self.root)}/", "")
        on_disk = [one for one in chosen if not is_generated(one)]
        lacking = bool(on_disk) and all(map(is_generated, present))  # what is drawn stands for none of them
        if lacking and ("dataset" in self.only or root_is_named(self.root)):
            names = dict.fromkeys(dataset.dataset for dataset in on_disk)
            folders = ", ".join(f"{DATASETS[name].folder if name in DATASETS else name}/" for name in names)
            none = f"{data_root(self.root)} holds none of the data sets of {self.table.name}: {folders}."
            raise DataError("\n".join([none, *dict.fromkeys(self.absent.values())]))
        names = [dataset.name for dataset in present]
        if twice := [dataset for dataset in present if names.count(dataset.name) > 1]:
            said = f"holds features called {twice[0].features!r} twice, in two layouts; keep one of them."
            raise DataError(f"{twice[0].dataset}/ {said}")
        return [self.table.synthetic] if lacking else present

    def _unread(self, dataset: DataSet) -> DataSet:
        """A data set whose features, where its files say how they are called, may be those that --only names."""
        wanted = self.only.get("features", dataset.features)
        known = {one.features for one in self.table.datasets if not one.named_by_files}
        unknown = dataset.named_by_files and wanted not in known
        return replace(dataset, features=wanted) if unknown else dataset

    def _chooses_for(self, dataset: DataSet) -> DataSet:
        """The data set on which settings are chosen for one: itself, or that which it names."""
        name = dataset.settings_of
        if name and name not in self.choosing:
            self.choosing[name] = self._found(next(one for one in self.table.datasets if one.name == name))
        return self.choosing[name] if name else dataset

    def _found(self, dataset: DataSet) -> DataSet:
        """The data set, its features called as their files say where the user brought them.

        Raises:
            DataMissing: it is not here.
            DataError: it is broken or incomplete, or its features are not of the kind that they are called by.
            SpecError: the table names a modality that it does not have.
        """
        require_present(dataset, self.root)
        module = self._data(data_source(self.table, dataset))
        module.indices("train")
        check_modalities(dataset, module.modalities, self.table.file)
        if reason := model_absent(dataset):
            raise DataMissing(reason)
        if dataset.named_by_files:
            return replace(dataset, features=module.features)
        if dataset.features in AS_PUBLISHED.values():
            widths = (*(array.shape[1] for array in module.data.vectors.values()), module.class_embedding.shape[1])
            if AS_PUBLISHED.get(widths) != dataset.features:
                expected = next(widths for widths, name in AS_PUBLISHED.items() if name == dataset.features)
                raise DataError(
                    f"{module.data.origin}: image, text and class embedding have {widths} numbers; {dataset.features} "
                    f"have {expected}. Put other features into one .npz file, and check with `python -m datamodules "
                    f"check {dataset.dataset}`."
                )
        return dataset

    def rows(self, datasets: Iterable[DataSet]) -> list[Row]:
        """The rows on some data sets that ``only`` leaves."""
        found = [Row(dataset, method) for dataset in datasets for method in self.table.methods_on(dataset)]
        return [row for row in found if self.only.items() <= row.columns.items()]

    def execute(self, datasets: Iterable[DataSet], dry: bool = False) -> list[Run]:
        """Train every missing run: those that choose the schedules, the trials, and with the best setting the seeds.

        Args:
            datasets: those of ``available``.
            dry: train nothing; where a setting is not chosen yet the first one stands for it, and the longest schedule,
                so that the table does not take longer than is said.

        Returns:
            All runs, each once.
        """
        self.runs = {}
        choosers = {row: Row(self._chooses_for(row.dataset), row.method) for row in self.rows(datasets)}
        models = dict.fromkeys((row.dataset, row.method.model) for row in choosers.values())
        floors = {key: self._floors(*key) for key in models}
        self._train("schedules", chain.from_iterable(runs.values() for runs in floors.values()), dry)
        self.schedules = {key: self._schedule(*key, runs, dry) for key, runs in floors.items()}
        trials = {row: self._trials(row) for row in choosers.values()}
        self._train("validation", chain.from_iterable(trials.values()), dry)
        chosen = {row: self._choose(row, runs, dry) for row, runs in trials.items()}
        self.choices = {row: chosen[chooser] for row, chooser in choosers.items()}
        self.finals = {
            row: [self._run(row, choice.setting, seed, f"seed {seed}") for seed in self.seeds_of(row.dataset)]
            for row, choice in self.choices.items()
            if not choice.error
        }
        self._train("test", chain.from_iterable(self.finals.values()), dry)
        return list(self.runs.values())

    def seeds_of(self, dataset: DataSet) -> Sequence[int]:
        """The seeds that are averaged over on a data set."""
        return self.seeds or dataset.seeds or self.table.scales[self.scale].seeds

    def remark(self, row: Row) -> str:
        """What a row's note says of its model, or of its schedule: of its chosen trial, else of what chose it."""
        kind = model_class(row.method.model)
        if kind.closed_form or row.method.protocol == "as_published":
            return kind.remark
        if row.dataset.settings_of:
            return f"settings of {row.dataset.settings_of}"
        if self.table.select == "joint":  # of which the curves of a training say nothing
            return "setting chosen by MAP of joint queries on validation data" if row.method.trials else ""
        schedule, own = self._schedule_of(row), self.choices[row].curve
        said = remark(own or schedule.curve)
        if said and not own and schedule.method != row.method.method:
            said = f"{schedule.method}: {said}"
        chosen = "settings chosen on validation items of one split, some of which other splits test"
        return "; ".join(filter(None, [chosen * row.dataset.split_by_seed, said]))

    def _reference(self, dataset: DataSet, model: str) -> Method | None:
        """The method that chooses the schedule: the first honest one of the model; None where it takes no steps."""
        honest = (m for m in self.table.methods_on(dataset) if m.model == model and m.protocol == "honest")
        return None if model_class(model).closed_form else next(honest, None)

    def _floors(self, dataset: DataSet, model: str) -> dict[int, Run]:
        """Floor in steps -> the training on it that may choose the schedule; floors of equal epochs once."""
        method, floors = self._reference(dataset, model), self.table.scales[self.scale].min_steps
        if method is None:
            return {}
        row, setting = Row(dataset, method), method.trials[0] if method.trials else {}
        runs = {floor: self._run(row, setting, None, "schedule", floor) for floor in sorted(floors)}
        first = {run.key: floor for floor, run in reversed(runs.items())}
        return {floor: run for floor, run in runs.items() if first[run.key] == floor}

    def _schedule(self, dataset: DataSet, model: str, tried: Mapping[int, Run], dry: bool) -> Schedule:
        """What the trainings chose; one without a floor where there is nothing to choose."""
        if not tried:
            return Schedule()
        if any(run.result is None for run in tried.values()):
            error = "" if dry else _failed("the training that chooses the schedule", tried.values())
            return Schedule(min_steps=max(tried), error=error)
        curves = {floor: run.result.curve for floor, run in tried.items()}
        return choose(self._reference(dataset, model).method, curves)

    def _schedule_of(self, row: Row) -> Schedule:
        """What was chosen for its model on its data set."""
        return self.schedules[self._chooses_for(row.dataset), row.method.model]

    def _trials(self, row: Row) -> list[Run]:
        """The runs that the settings of a row are chosen by."""
        trials = [] if self._schedule_of(row).error else row.method.trials
        return [self._run(row, setting, None, f"trial {number}") for number, setting in enumerate(trials, 1)]

    def _choose(self, row: Row, runs: Sequence[Run], dry: bool) -> Choice:
        settings = row.method.trials
        if not runs:
            return Choice(error=self._schedule_of(row).error)
        if any(run.result is None for run in runs):
            return Choice(settings[0]) if dry else Choice(error=_failed("a tuning trial", runs))
        if self.table.select == "joint":
            name = "validation MAP of joint queries"
            by = [f", {setting[JOINT_SCORE]}" if JOINT_SCORE in setting else "" for setting in settings]
            queries = [[f"{query}{score}" for query in row.dataset.model["joint_queries"]] for score in by]
            scores = [run.result.mean_average_precision(directions=of) for run, of in zip(runs, queries, strict=True)]
        else:
            name, scores = "validation MAP", [run.result.mean_average_precision() for run in runs]
        shown = [self._shown(row, setting) for setting in settings]
        trials = [{**one, name: round(score, 6)} for one, score in zip(shown, scores, strict=True)]
        best = scores.index(max(scores))
        return Choice(settings[best], shown[best], trials, runs[best].result.curve)

    def _shown(self, row: Row, setting: dict[str, Any]) -> dict[str, Any]:
        """A setting, with the temperature that follows from a matched one."""
        before = row.method.init_args.get("alignment") or {}
        found = matched({"alignment": before, **setting}, self._modalities(row.dataset), weighted=False)
        own = found.pop("alignment").get("init_args", {})
        chosen = {key: value for key, value in own.items() if before.get("init_args", {}).get(key) != value}
        alignment = {**setting.get("alignment", {}), **chosen}
        return {**({"alignment": alignment} if alignment else {}), **found}

    def _run(self, row: Row, setting: dict, seed: int | None, what: str, min_steps: int | None = None) -> Run:
        """A run of a row; its floor in steps is by default that of the schedule chosen, none for as_published."""
        dataset, method = row
        scale, published = self.table.scales[self.scale], method.protocol == "as_published"
        if min_steps is None:
            min_steps = 0 if published else self._schedule_of(row).min_steps
        data = self._data(data_source(self.table, dataset, method, seed))
        per_epoch = max(len(data.indices("train")) // data.batch_size, 1)
        count = max(scale.max_epochs, math.ceil(min_steps / per_epoch))
        modalities = self._modalities(dataset)
        config = without_unused_labels(resolve(self.table, scale, dataset, method, setting, seed, count, modalities))
        steps = CLOSED_FORM_STEPS if model_class(method.model).closed_form else count * per_epoch
        what = f"schedule of {steps} steps" if what == "schedule" else what
        name = f"{dataset.name} {method.method}{', as published' * published}, {what}"
        key = run_key(config, data.digest)
        run = self.runs.setdefault(key, Run(name, config, key, steps))
        run.name = name  # that of the last row that has it
        return run

    def _modalities(self, dataset: DataSet) -> int:
        return len(self._data(data_source(self.table, dataset)).modalities)

    def _data(self, source: dict[str, Any]) -> Data:
        """The data module of a run; modules that read the same share what was read."""
        key = str(source)
        if key not in self.modules:
            self.modules[key] = module = build_data({"data": source}, self.root, self.offline)
            read = {name: value for name, value in source["init_args"].items() if name not in AFTER_READING}
            first = self.readers.setdefault(str((source["class_path"], read)), module)
            if first is not module:
                module.share(first)
        return self.modules[key]

    def _train(self, stage: str, runs: Iterable[Run], dry: bool) -> None:
        """Find the results of runs in the store; those that are not there are trained, unless all is a dry run."""
        unique = dict.fromkeys(runs)
        for run in unique:
            run.result = run.result or self.store.load(run.key)
        missing = [run for run in unique if run.result is None]
        if dry or not missing:
            return
        said = f"{len(missing)} runs to train for {stage}, {len(unique) - len(missing)} finished before"
        print(f"{self.table.name}: {said}", flush=True)
        total, done, start = sum(run.steps for run in missing), 0, time.monotonic()
        # Closed at once where this is interrupted, so that nothing goes on being trained.
        with closing(self.executor(missing, self.root, self.store)) as ended:
            for number, (run, error) in enumerate(ended, 1):
                run.error, done = error, done + run.steps
                left = (time.monotonic() - start) / done * (total - done)
                outcome = f"failed, {error}"
                if not error:
                    run.result = result = self.store.load(run.key)
                    scores = ", ".join(f"{split} {result.mean_average_precision(split):.3f}" for split in result.splits)
                    outcome = f"MAP {scores} in {duration(result.train_seconds)}"
                print(f"[{number}/{len(missing)}] {run.name}: {outcome}; {duration(left)} left", flush=True)


def _failed(what: str, runs: Iterable[Run]) -> str:
    return f"{what} failed: {next(run.error for run in runs if run.error)}"
