"""Regenerating a table: which cells it needs, running the missing ones, choosing settings, writing the rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from datamodules import DataError, DataMissing, FeatureDataModule, data_root, root_is_named
from datamodules.datasets import DATASETS
from datamodules.datasets.feature_pairs import AS_PUBLISHED
from datamodules.features.texts import model_folder
from lightning_modules.metrics.modality_gap import GAP_METRICS
from reproduce.cells import FOLDER_ENCODERS, CellStore, Config, build_data, cell_hash
from reproduce.checks import check_modalities
from reproduce.executors import Executor, pool, workers
from reproduce.presence import require_present
from reproduce.schedule import Schedule, choose, epochs, reference, remark
from reproduce.spec import TRAINED, DataSet, Method, Scale, Table

PRESET = ("JFSE", "LAVIMO")  # models with a preset
# Arguments of data modules that decide how items are divided, ordered and labelled, and nothing of what is read.
AFTER_READING = (
    *("batch_size", "validation_fraction", "shuffle_seed", "class_split", "class_seed", "class_encoder"),
    *("paired_fraction", "as_published", "train_labels"),
)
# A baseline's cost in training steps, for the estimate of the time left.
BASELINE_STEPS = 40


@dataclass(frozen=True)
class Cell:
    """One training: what it is for, its configuration, key and cost in training steps."""

    dataset: DataSet
    method: Method
    trial: int | None
    config: Config
    key: str
    steps: int

    @property
    def name(self) -> str:
        if self.trial is not None:
            what = f"trial {self.trial + 1}"
        elif self.config["evaluate"] == "validation":
            what = f"schedule of {self.steps} steps"
        else:
            what = f"seed {self.config['seed']}"
        preset = ", as published" if self.method.preset == "as_published" else ""
        return f"{self.dataset.dataset}/{self.dataset.features} {self.method.method}{preset}, {what}"


Finals = dict[tuple[DataSet, Method], list[tuple[Cell, dict | None]]]  # a result is None where the cell failed


@dataclass
class Run:
    """Regenerates one table: ``available`` says on what, ``execute`` does it.

    Args:
        table: the table.
        scale: key of ``table.scales``.
        root: data root given by the user, or None.
        seeds: seeds to average over.
        store: where finished cells are kept.
        offline: never fetch data.
        only: column -> value; cells of other rows are left out.
        executor: what trains the cells; by default worker processes.
    """

    table: Table
    scale: str
    root: str | None
    seeds: Sequence[int]
    store: CellStore
    offline: bool = False
    only: dict[str, str] = field(default_factory=dict)
    executor: Executor = field(default_factory=lambda: partial(pool, workers()))
    errors: dict[str, str] = field(default_factory=dict)  # key of a failed cell -> what went wrong
    choices: dict[tuple[DataSet, Method], dict[str, Any] | None] = field(default_factory=dict)
    schedules: dict[tuple[DataSet, str], Schedule | None] = field(default_factory=dict)  # of a data set and model
    modules: dict[str, FeatureDataModule] = field(default_factory=dict)
    readers: dict[str, FeatureDataModule] = field(default_factory=dict)

    def available(self) -> tuple[list[DataSet], dict[DataSet, str]]:
        """Data sets that can be read, and the reason for each one that cannot; synthetic data where none can.

        Raises:
            DataError: the user named a data root, and it holds none of the data sets, or a broken one.
        """
        chosen = [one for one in self.table.datasets if self._wanted([self._unread(one)])]
        present: list[DataSet] = []
        absent: dict[DataSet, str] = {}
        for dataset in chosen:
            try:
                present.append(self._found(dataset))
            except DataMissing as error:
                absent[dataset] = str(error).replace(
                    f"{data_root(self.root)}/", ""
                )  # results name no place of a machine
        if chosen and not present and ("dataset" in self.only or root_is_named(self.root)):
            names = dict.fromkeys(dataset.dataset for dataset in chosen)
            folders = ", ".join(f"{DATASETS[name].folder if name in DATASETS else name}/" for name in names)
            none = f"{data_root(self.root)} holds none of the data sets of {self.table.name}: {folders}."
            raise DataError("\n".join([none, *dict.fromkeys(absent.values())]))
        _check_apart(present)
        return present or [self.table.synthetic] * bool(chosen), absent

    def _unread(self, dataset: DataSet) -> DataSet:
        """A data set whose features, where its files say how they are called, may be those that --only names."""
        wanted = self.only.get("features", dataset.features)
        known = {one.features for one in self.table.datasets if one.class_path != "FeaturePairs"}
        unknown = dataset.class_path == "FeaturePairs" and wanted not in known
        return replace(dataset, features=wanted) if unknown else dataset

    def _found(self, dataset: DataSet) -> DataSet:
        """The data set, its features called as their files say where the user brought them.

        Raises:
            DataMissing: it is not here.
            DataError: it is broken or incomplete.
            SpecError: the table names a modality that it does not have.
        """
        config = self._config(dataset, Method("CCA", "CCA"), {}, None)
        require_present(dataset, self.root)
        module = self._data(config)
        module.indices("train")
        check_modalities(dataset, module.modalities, f"{self.table.name}.yaml")
        if reason := _model_absent(dataset):
            raise DataMissing(reason)
        if dataset.class_path == "FeaturePairs":
            return replace(dataset, features=module.features)
        _check_widths(dataset, module)
        return dataset

    def execute(self, datasets: Iterable[DataSet]) -> Finals:
        """Run every missing cell: those that choose the schedules, the trials, and with the best setting the seeds.

        Returns:
            (data set, method) -> final cells with their results, None where a cell failed.
        """
        rows = self._wanted(datasets)
        tried = self.schedule_cells(rows)
        results = self._run("schedules", [cell for cells in tried.values() for cell in cells.values()])
        self.schedules = {key: self._schedule(*key, cells, results) for key, cells in tried.items()}
        rows_on = [row for row in rows if self.schedules.get((row[0], row[1].model), Schedule()) is not None]
        trials = {row: [self._trial(*row, number) for number in range(len(row[1].trials))] for row in rows_on}
        results |= self._run("validation", [cell for cells in trials.values() for cell in cells])
        self.choices = {row: self._choose(trials[row], results) if row in trials else None for row in rows}
        finals = {
            (d, m): [self._final(d, m, self.choices[d, m]["setting"], seed) for seed in self.seeds]
            for d, m in rows
            if self.choices[d, m] is not None
        }
        results |= self._run("test", [cell for cells in finals.values() for cell in cells])
        return {row: [(cell, results.get(cell.key)) for cell in cells] for row, cells in finals.items()}

    def plan(self, datasets: Iterable[DataSet]) -> list[Cell]:
        """All cells of the table, each once; where the setting is not chosen yet, with the first one."""
        cells: dict[str, Cell] = {}
        rows = self._wanted(datasets)
        for key, tried in self.schedule_cells(rows).items():
            found = {c.key: result for c in tried.values() if (result := self.store.load(c.key)) is not None}
            # Where none is chosen yet the longest, so that the table does not take longer than was said.
            self.schedules[key] = self._schedule(*key, tried, found) or Schedule(min_steps=max(tried))
            cells |= {cell.key: cell for cell in tried.values()}
        for dataset, method in rows:
            trials = [self._trial(dataset, method, number) for number in range(len(method.trials))]
            found = {cell.key: result for cell in trials if (result := self.store.load(cell.key)) is not None}
            choice = self._choose(trials, found) or {"setting": method.trials[0]}
            finals = [self._final(dataset, method, choice["setting"], seed) for seed in self.seeds]
            cells |= {cell.key: cell for cell in trials + finals}
        return list(cells.values())

    def _wanted(self, datasets: Iterable[DataSet]) -> list[tuple[DataSet, Method]]:
        def wanted(dataset: DataSet, method: Method) -> bool:
            row = {"dataset": dataset.dataset, "features": dataset.features, "method": method.method}
            row |= {"protocol": method.preset}
            return all(row[column] == value for column, value in self.only.items())

        return [(d, m) for d in datasets for m in self.table.methods_on(d) if wanted(d, m)]

    def _choose(self, cells: list[Cell], results: dict[str, dict]) -> dict[str, Any] | None:
        if not cells:
            return {"setting": {}, "trials": [], "curve": ()}
        scores = [(results[c.key]["scores"]["validation"]["average/MAP"] if c.key in results else None) for c in cells]
        if None in scores:
            return None
        settings = cells[0].method.trials
        trials = [
            {**setting, "validation MAP": round(score, 6)} for setting, score in zip(settings, scores, strict=True)
        ]
        best = scores.index(max(scores))
        curve = results[cells[best].key].get("validation_curve", ())
        return {"setting": settings[best], "trials": trials, "curve": curve}

    def schedule_cells(self, rows: Iterable[tuple[DataSet, Method]]) -> dict[tuple[DataSet, str], dict[int, Cell]]:
        """(data set, model) -> floor in steps -> the reference's training on it; floors of equal epochs once."""
        found: dict[tuple[DataSet, str], dict[int, Cell]] = {}
        for dataset, model in dict.fromkeys((dataset, method.model) for dataset, method in rows):
            method, floors = reference(self.table, dataset, model), self.table.scales[self.scale].min_steps
            if method is None or not floors:
                continue
            setting = method.trials[0] if method.trials else {}
            tried: dict[int, Cell] = {}
            for floor in sorted(floors):
                cell = self._cell(dataset, method, self._config(dataset, method, setting, None, floor), None)
                if all(cell.key != other.key for other in tried.values()):
                    tried[floor] = cell
            found[dataset, model] = tried
        return found

    def _schedule(
        self, dataset: DataSet, model: str, tried: dict[int, Cell], results: dict[str, dict]
    ) -> Schedule | None:
        if any(cell.key not in results for cell in tried.values()):
            return None
        method = reference(self.table, dataset, model)
        return choose(method, {floor: results[cell.key] for floor, cell in tried.items()})

    def remark(self, dataset: DataSet, method: Method) -> str:
        """What a row's note says of its schedule: of its chosen trial, else of the training that chose the schedule."""
        if method.model not in TRAINED or method.preset == "as_published":
            return ""
        schedule = self.schedules.get((dataset, method.model)) or Schedule()
        own = self.choices[dataset, method]["curve"]
        said = remark(own or schedule.curve)
        return said if own or not said or schedule.method == method.method else f"{schedule.method}: {said}"

    def _trial(self, dataset: DataSet, method: Method, number: int) -> Cell:
        return self._cell(dataset, method, self._config(dataset, method, method.trials[number], None), number)

    def _final(self, dataset: DataSet, method: Method, setting: dict, seed: int) -> Cell:
        return self._cell(dataset, method, self._config(dataset, method, setting, seed), None)

    def _config(
        self, dataset: DataSet, method: Method, setting: dict, seed: int | None, min_steps: int | None = None
    ) -> Config:
        """Configuration of a cell; without a seed that of a trial, on seed 0 and the validation part.

        Args:
            min_steps: floor on its training steps; by default that of the schedule chosen, none for as_published.
        """
        scale: Scale = self.table.scales[self.scale]
        fraction = dataset.init_args.get("validation_fraction", 0.15) if seed is None else 0.0
        data = {**dataset.init_args, **method.data, "validation_fraction": fraction, "shuffle_seed": seed or 0}
        if self.table.class_split is not None:
            data |= {"class_split": self.table.class_split, "class_seed": seed or 0}
        if dataset.class_path == "FeaturePairs":
            data["dataset"] = dataset.dataset
        if method.model == "JFSE":
            data["as_published"] = method.preset == "as_published"
        source = {"class_path": dataset.class_path, "init_args": data}
        setting = dict(setting)
        chosen = setting.pop("alignment", {})
        alignment, weight = self._matched(method, source)
        arguments = {**weight, **method.init_args, **setting}
        trained = method.model in TRAINED
        if trained:
            preset = {"preset": method.preset} if method.model in PRESET else {}
            arguments = {**scale.model, **scale.models.get(method.model, {}), **dataset.model, **preset, **arguments}
        if trained and min_steps is None:
            schedule = self.schedules.get((dataset, method.model)) if method.preset == "honest" else None
            min_steps = schedule.min_steps if schedule else 0
        recorded = {"record_gradients": True} if trained and self.table.record_gradients else {}
        if trained and seed is not None and set(self.table.metrics) & set(GAP_METRICS):
            recorded["modality_gap"] = True
        return {
            "data": source,
            "model": {
                "class_path": method.model,
                "init_args": arguments,
                "alignment": {**alignment, **chosen} if alignment else None,
            },
            "max_epochs": epochs(scale, self._steps_per_epoch(source), min_steps) if trained else None,
            "seed": seed or 0,
            "evaluate": "validation" if seed is None else "test",
            "galleries": [] if seed is None else dataset.galleries,
            **recorded,  # where it is not asked for, a configuration is what it would be without it
        }

    def _matched(self, method: Method, source: dict) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """The alignment, and its weight where that follows from the effective temperature."""
        if method.matched_temperature is None:
            return method.loss, {}
        factor = method.effective_factor(len(self._data({"data": source}).modalities))
        # Rounded, so that 7 x 0.1 is the 0.7 that another table may name.
        temperature = round(factor * method.matched_temperature, 12)
        return {**method.loss, "temperature": temperature}, {"alignment_weight": factor}

    def _data(self, config: Config) -> FeatureDataModule:
        """The data module of a cell; modules that read the same share what was read."""
        key, source = str(config["data"]), config["data"]
        if key not in self.modules:
            self.modules[key] = module = build_data(config, self.root, self.offline)
            read = {name: value for name, value in source["init_args"].items() if name not in AFTER_READING}
            first = self.readers.setdefault(str((source["class_path"], read)), module)
            if first is not module:
                module.data = first.data
        return self.modules[key]

    def _steps_per_epoch(self, source: dict[str, Any]) -> int:
        data = self._data({"data": source})
        return max(len(data.indices("train")) // data.batch_size, 1)

    def _cell(self, dataset: DataSet, method: Method, config: Config, trial: int | None) -> Cell:
        data = self._data(config)
        steps = BASELINE_STEPS
        if config["max_epochs"]:
            steps = config["max_epochs"] * self._steps_per_epoch(config["data"])
        return Cell(dataset, method, trial, config, cell_hash(config, data.digest), steps)

    def _run(self, stage: str, cells: list[Cell]) -> dict[str, dict]:
        unique = {cell.key: cell for cell in cells}
        results = {key: result for key in unique if (result := self.store.load(key)) is not None}
        missing = [cell for key, cell in unique.items() if key not in results]
        if not missing:
            return results
        print(
            f"{self.table.name}: {len(missing)} cells to train for {stage}, {len(results)} finished before", flush=True
        )
        total, done, start = sum(cell.steps for cell in missing), 0, time.monotonic()
        # Closed at once where this is interrupted, so that nothing goes on being trained.
        with closing(self.executor(missing, self.root, self.store)) as ended:
            for number, (cell, error) in enumerate(ended, 1):
                done += cell.steps
                left = (time.monotonic() - start) / done * (total - done)
                outcome = self._collect(cell, error, results)
                print(f"[{number}/{len(missing)}] {cell.name}: {outcome}; {duration(left)} left", flush=True)
        return results

    def _collect(self, cell: Cell, error: str, results: dict[str, dict]) -> str:
        if error:
            self.errors[cell.key] = error
            return f"failed, {error}"
        results[cell.key] = result = self.store.load(cell.key)
        scores = ", ".join(f"{split} {s['average/MAP']:.3f}" for split, s in result["scores"].items())
        return f"MAP {scores} in {duration(result['train_seconds'])}"


def _check_widths(dataset: DataSet, module: FeatureDataModule) -> None:
    """Refuse features that a table calls as published ones are and that are not of their kind."""
    expected = {name: widths for widths, name in AS_PUBLISHED.items()}.get(dataset.features)
    if expected is None:
        return
    found = (*(array.shape[1] for array in module.data.vectors.values()), module.class_embedding.shape[1])
    if found != expected:
        raise DataError(
            f"{module.data.origin}: image, text and class embedding have {found} numbers; {dataset.features} have "
            f"{expected}. Put other features into one .npz file, and check with `python -m datamodules check "
            f"{dataset.dataset}`."
        )


def _check_apart(datasets: list[DataSet]) -> None:
    names = [(dataset.dataset, dataset.features) for dataset in datasets]
    for name, features in names:
        if names.count((name, features)) > 1:
            raise DataError(f"{name}/ holds features called {features!r} twice, in two layouts; keep one of them.")


def _model_absent(dataset: DataSet) -> str:
    """Why the pretrained model of an encoder cannot be had; "" where all can."""
    for settings in dataset.model.get("encoders", {}).values():
        try:
            if settings["name"] in FOLDER_ENCODERS and "model" in settings:
                model_folder(settings["model"])
        except DataError as error:
            return str(error)
    return ""


def duration(seconds: float) -> str:
    """Seconds as a person says them: "8 s", "12 min", "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
