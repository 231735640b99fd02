"""The language of a table's file: what it may say, read with the files it extends.

Arguments of data modules and models stand in it as in a configuration of `csd fit`: `class_path`, `init_args`. Where
arguments are given twice, for a scale, a data set, a method and a trial, the later ones win, mapping by mapping.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import get_loader
from jsonargparse.typing import NonNegativeInt, PositiveInt

import losses
from datamodules.paired_features import Protocol
from losses.registry import nearest
from reproduce.names import table_files
from reproduce.runs.arguments import MATCHED, SpecError, check_arguments, matched, merged, said_of

JOINED = ("methods", "comparisons")  # lists that a file adds to those of the files it extends
TEMPERATURE = "{temperature}"  # in a method's name: the temperature that follows


@dataclass(frozen=True)
class Sweep:
    """A method's place on a line of methods that differ in one argument.

    Args:
        line: what the methods of the line have in common, the name before the value.
        argument: the argument, of the alignment or of the model.
        value: its value in this method.
    """

    line: str
    argument: str
    value: float


@dataclass(frozen=True, eq=False)
class Method:
    """One row of a table: a model, and the settings tried on validation data.

    Args:
        method: name in the table.
        model: class of the model, as `csd fit --model` takes it.
        protocol: "honest" or "as_published", what the public code of the model does.
        init_args: arguments of the model that no trial changes.
        data: arguments of the data module beside those of the data set, such as a share of pairs.
        trials: arguments of the model to choose from; empty where there is nothing to choose.
        metrics: those shown beside the table's.
        sweep: in the file {argument: values}, which makes one method per value; once read the ``Sweep`` of this one.
    """

    method: str
    model: str
    protocol: Protocol = "honest"
    init_args: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    sweep: dict[str, list[float]] | None = None


@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set of a table, read by ``class_path(**init_args)``.

    Args:
        dataset: name in the table, and of its folder under the data root.
        features: name of the features in the table.
        condition: what sets it apart from others with the same features, such as "M = 4".
        class_path: name of a data module.
        init_args: its arguments; the `path` of OwnData is a file below the data set's folder.
        model: arguments that models take on it, such as encoders.
        models: those that some models alone take.
        exclude: names of methods that are not run on it, with * for any text.
        galleries: those scored beside the whole one, whether or not a table shows them, so that tables share runs.
        seeds: those averaged over on it; empty: those of the scale.
        split_by_seed: whether every seed draws test and validation items anew, of OwnData without a split of its own;
            settings are chosen on the validation items of the split by seed 0.
        settings_of: name of another data set of the table, whose settings and schedule are taken over; empty: its own
            are chosen.
    """

    dataset: str
    features: str
    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    galleries: list[str] = field(default_factory=list)
    condition: str = ""
    seeds: list[NonNegativeInt] = field(default_factory=list)
    split_by_seed: bool = False
    settings_of: str = ""

    @property
    def count(self) -> int:
        """M, the number of its modalities, as its entry says it: two of paired features."""
        return len(self.init_args.get("modalities") or self.init_args.get("names") or ("image", "text"))

    @property
    def named_by_files(self) -> bool:
        """Whether the data say how their features are called: those that users bring, in no file that is known."""
        return self.class_path == "OwnData" and "path" not in self.init_args

    @property
    def parts(self) -> list[str]:
        """Data set, features and, where there is one, condition."""
        return [part for part in (self.dataset, self.features, self.condition) if part]

    @property
    def name(self) -> str:
        """The parts as one name, for messages and YAML."""
        return "/".join(self.parts)


@dataclass(frozen=True)
class Scale:
    """How large and how long: seeds, epochs and the arguments of every model, and of some models alone.

    Args:
        min_steps: floors on the number of training steps, of which validation data choose one per data set and model;
            none: the epochs as they are.
    """

    seeds: list[NonNegativeInt]
    max_epochs: PositiveInt
    model: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    min_steps: list[PositiveInt] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A table: its name and title, metrics, data sets with the one that stands in for all, methods and scales.

    Args:
        class_split: how the classes of paired features are split; None for data sets with a split of their own.
        galleries: those shown beside the whole one, of each data set's.
        projection: methods whose embeddings are drawn, side by side.
        comparisons: pairs (method, baseline) of honest rows to compare; two sweeps are compared value by value.
        select: by what trials are chosen and methods compared, the MAP averaged over "single" directions or over the
            "joint" queries; with these, trials that differ in `joint_score` alone are one training.
    """

    name: str
    title: str
    metrics: list[str]
    datasets: list[DataSet]
    synthetic: DataSet
    methods: list[Method]
    scales: dict[str, Scale]
    class_split: Literal["standard", "zero-shot"] | None = None
    galleries: list[str] = field(default_factory=list)
    projection: list[str] = field(default_factory=list)
    comparisons: list[list[str]] = field(default_factory=list)
    select: Literal["single", "joint"] = "single"

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.name}.yaml"

    @property
    def names(self) -> list[str]:
        """Names of its methods."""
        return [method.method for method in self.methods]

    def methods_on(self, dataset: DataSet) -> list[Method]:
        """The methods that are run on a data set."""
        excluded = {name for pattern in dataset.exclude for name in fnmatch.filter(self.names, pattern)}
        return [method for method in self.methods if method.method not in excluded]


def read_file(name: str, folder: Path | None = None) -> Table:
    """Read a table's file and those it extends; ``load_table`` checks too what its classes take.

    Args:
        name: "table2", "table3", ..., or that of an experiment.
        folder: where the files are; by default that of the tables, then that of the experiments.

    Raises:
        SpecError: no such table, an entry that is unknown or missing or has another type, or a file that is no YAML
            mapping.
    """
    files = table_files(folder)
    if name not in files:
        raise SpecError(f"there is no {name}; there are {', '.join(files)}")
    said, file = read_yaml(files[name]), files[name].name
    for key, kind in {"methods": list, "datasets": list, "scales": dict, "synthetic": dict}.items():
        if not isinstance(said.get(key), kind) or not said[key]:
            raise SpecError(f"{file}: {key} is {said.get(key)!r}; expected a {'list' if kind is list else 'mapping'}")
    datasets = [_read(DataSet, entry, f"{file}: datasets") for entry in said["datasets"]]
    methods: list[Method] = []
    named: dict[str, list[Method]] = {}  # name in the file, or of a row -> the honest methods that it stands for
    for entry in said["methods"]:
        method = _read(Method, entry, f"{file}: methods")
        with said_of(f"{file}: {method.method}"):
            rows = list(_rows(method, datasets))
        methods += rows
        if method.protocol == "honest":
            named |= {row.method: [row] for row in rows} | {method.method: rows}
    table = _read(
        Table,
        {**said, "name": name},
        file,
        datasets=datasets,
        synthetic=_read(DataSet, said["synthetic"], f"{file}: synthetic"),
        methods=methods,
        scales={key: _read(Scale, value, f"{file}: scales.{key}") for key, value in said["scales"].items()},
    )
    with said_of(f"{file}: comparisons"):
        return replace(table, comparisons=list(_pairs(table.comparisons, named)))


def _read(kind: type, entry: Any, place: str, **read: Any) -> Any:
    """An entry as an object of a class, whose signature says what it may hold; ``read`` holds its parts read before."""
    if not isinstance(entry, dict):
        raise SpecError(f"{place}: expected a mapping, got {entry!r}")
    name = entry.get("method") or entry.get("dataset")
    given = {key: value for key, value in entry.items() if key not in read}
    check_arguments(kind, given, f"{place}: {name}" if name else place, read)
    return kind(**given, **read)


def _rows(method: Method, datasets: Sequence[DataSet]) -> Iterator[Method]:
    """The methods that an entry of the file stands for: one per value of its sweep; their losses given by class."""
    alignment = method.init_args.get("alignment")
    if isinstance(alignment, str):
        alignment = {"class_path": type(losses.build_loss(alignment)).__name__}
    if isinstance(alignment, dict) and isinstance(path := alignment.get("class_path"), str) and "." not in path:
        alignment = {**alignment, "class_path": f"losses.{path}"}
    method = replace(method, init_args=method.init_args | ({"alignment": alignment} if alignment else {}))
    if method.sweep is None:
        shown = f"{_temperature(method, datasets):g}" if TEMPERATURE in method.method else ""
        yield replace(method, method=method.method.replace(TEMPERATURE, shown))
        return
    if len(method.sweep) != 1 or method.trials:
        raise SpecError(f"sweep is {method.sweep!r}; expected one argument with its values, and no trials")
    [(argument, values)] = method.sweep.items()
    if not values or not all(0 < value < float("inf") for value in values):
        raise SpecError(f"sweeps {argument} over {values!r}; expected a list of one positive number or more")
    for value in values:
        over: Any = value
        for part in reversed(argument.split(".")):  # of "alignment.sigma" {"alignment": {"sigma": value}}
            over = {part: over}
        row = replace(method, init_args=merged(method.init_args, over))
        shown, name = value, argument.rpartition(".")[2]
        if argument == MATCHED:
            shown, name = _temperature(row, datasets), "temperature"
        yield replace(row, method=f"{method.method}, {name} {shown:g}", sweep=Sweep(method.method, name, shown))


def _temperature(method: Method, datasets: Sequence[DataSet]) -> float:
    """The temperature that follows from a matched one; the data sets of the table have as many modalities each."""
    counts = {dataset.count for dataset in datasets}
    if len(counts) > 1:
        raise SpecError(f"the temperature is in its name, and differs between data sets of {counts} modalities")
    alignment = matched(method.init_args, counts.pop(), weighted=False).get("alignment") or {}
    if "temperature" not in alignment.get("init_args", {}):
        raise SpecError(f"there is no temperature for its name; give {MATCHED}")
    return alignment["init_args"]["temperature"]


def _pairs(pairs: list[list[str]], named: Mapping[str, list[Method]]) -> Iterator[list[str]]:
    """Pairs of honest methods to compare, by the names that the rows have; of two sweeps value by value.

    Args:
        pairs: as the file has them.
        named: name in the file -> honest methods that it stands for, several of a sweep.
    """
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1] or pairs.count(pair) > 1:
            raise SpecError(f"holds {pair!r}; expected pairs [method, baseline] of two, each once")
        for name in pair:
            if name not in named:
                raise SpecError(f"name {name!r}, no honest method; {nearest(name, named)}")
        first, second = (named[name] for name in pair)
        if len(first) != len(second):
            raise SpecError(f"holds {pair!r}, sweeps over different numbers of values")
        yield from ([one.method, other.method] for one, other in zip(first, second, strict=True))


def read_yaml(path: Path, extending: Sequence[Path] = ()) -> dict[str, Any]:
    """What a file says together with those it extends, named relative to it.

    Methods and comparisons of all are joined, the first file's first; other entries are those of the last. A number may
    be written as 1e-3, as in the files of `csd fit`.

    Args:
        path: the file.
        extending: the files that extend it, for the message.

    Raises:
        SpecError: a file that is no YAML mapping, that has a key twice in one mapping, or that extends itself.
    """
    path = path.resolve()
    if path in extending:
        chain = " -> ".join(each.name for each in (*extending[extending.index(path) :], path))
        raise SpecError(f"{chain}: a file cannot extend itself; remove one `extends`")
    try:
        text = path.read_text(encoding="utf-8")
        _require_different_keys(yaml.compose(text, yaml.SafeLoader), path)
        own = get_loader("yaml")(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        by = f" ({extending[-1].name} extends it)" if extending else ""
        raise SpecError(f"{path.name} cannot be read{by}: {error}") from error
    if not isinstance(own, dict):
        raise SpecError(f"{path.name} must be a mapping, got {type(own).__name__}")
    others = own.pop("extends", [])
    others = [others] if isinstance(others, str) else others
    if not isinstance(others, list) or not all(isinstance(name, str) for name in others):
        raise SpecError(f"{path.name}: extends is {others!r}; expected the name of a file, or a list of names")
    if wrong := [key for key in JOINED if not isinstance(own.get(key, []), list)]:
        raise SpecError(f"{path.name}: {wrong[0]} is {own[wrong[0]]!r}; expected a list")
    found: dict[str, Any] = {}
    for said in [*(read_yaml(path.parent / name, (*extending, path)) for name in others), own]:
        found = {**found, **said, **{key: found.get(key, []) + said.get(key, []) for key in JOINED}}
    return found


def _require_different_keys(node: yaml.Node | None, path: Path) -> None:
    if not isinstance(node, yaml.CollectionNode):
        return
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(None, each) for each in node.value]
    names = [key.value for key, _ in pairs if key is not None]
    for key, value in pairs:
        if key is not None and names.count(key.value) > 1:
            line = key.start_mark.line + 1
            raise SpecError(f"{path.name}, line {line}: {key.value!r} stands twice in one mapping; keep one of them")
        _require_different_keys(value, path)
