"""The tables as data: what the shipped files hold, and what a broken one is told."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest

import datamodules
from lightning_modules import JFSE, LAVIMO
from lightning_modules.networks.encoders import ENCODERS
from losses import build_loss
from reproduce import claims
from reproduce.baselines import BASELINES
from reproduce.results import _not_run
from reproduce.schema import METRICS
from reproduce.spec import FOLDER, SpecError, Sweep, Table, available_tables, load_table

METHODS = {"CCA", "semantic matching", "JFSE", "JFSE + CMPM-KL", "JFSE + MMD", "JFSE + CORAL", "JFSE + CS"}
MINIMAL = """
title: A table
class_split: standard
metrics: [MAP]
datasets: [{dataset: wikipedia, features: roph, class_path: Wikipedia}]
synthetic: {dataset: synthetic, features: synthetic, class_path: Synthetic}
methods: [{method: JFSE, model: JFSE}]
scales: {quick: {seeds: [0], max_epochs: 1, model: {width: 8}}}
"""
METHOD = "{method: JFSE, model: JFSE}"
CS = "{method: JFSE + CS, model: JFSE, alignment: cs"  # left open for more


@pytest.fixture(params=["table2", "table3"])
def table(request: pytest.FixtureRequest) -> Table:
    return load_table(request.param)


def _write(folder: Path, text: str, name: str = "table9") -> None:
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_every_shipped_table_loads() -> None:
    assert {"table2", "table3", "table5", "table6", "table7", "table9"} <= set(available_tables())
    assert [load_table(name).name for name in available_tables()] == available_tables()


def test_the_shipped_tables_name_the_methods_and_the_split(table: Table) -> None:
    assert {method.method for method in table.methods if method.preset == "honest"} == METHODS
    assert table.class_split == {"table2": "standard", "table3": "zero-shot"}[table.name]
    names = [(method.method, method.preset) for method in table.methods]
    assert len(set(names)) == len(names)
    assert {name.removesuffix("k").split("@")[0] for name in table.metrics} <= {name.split("@")[0] for name in METRICS}


def test_every_alignment_has_as_many_trials_as_the_others(table: Table) -> None:
    trials = {m.method: m.trials for m in table.methods if m.alignment and m.preset == "honest"}
    assert len(trials) == 4
    assert len({len(settings) for settings in trials.values()}) == 1
    for settings in trials.values():
        assert all(settings.count(setting) == 1 for setting in settings)


def test_every_setting_is_one_its_model_and_loss_take(table: Table) -> None:
    arguments = inspect.signature(JFSE).parameters
    for method in table.methods:
        for setting in method.trials or [{}]:
            own = {key: value for key, value in setting.items() if key != "alignment"}
            if method.model == "JFSE":
                assert set(own) <= set(arguments)
            else:
                BASELINES[method.model](**own)
            if method.alignment:
                build_loss(method.alignment, **setting.get("alignment", {}))
    for scale in table.scales.values():
        assert set(scale.model) <= set(arguments)


def test_every_data_set_is_one_a_data_module_reads(table: Table) -> None:
    for dataset in table.datasets:
        path = {"path": dataset.dataset} if dataset.class_path == "FeaturePairs" else {}
        getattr(datamodules, dataset.class_path)(**path, **dataset.init_args, class_split=table.class_split)
    keys = [(dataset.dataset, dataset.features) for dataset in table.datasets]
    assert len(set(keys)) == len(keys)


def test_the_scales_are_quick_and_paper(table: Table) -> None:
    assert set(table.scales) == {"quick", "paper"}
    assert table.scales["quick"].model["width"] <= 512
    assert table.scales["paper"].model["width"] == 4096
    assert table.scales["quick"].max_epochs < table.scales["paper"].max_epochs
    assert all(len(set(scale.seeds)) == len(scale.seeds) >= claims.SEEDS for scale in table.scales.values())


def test_as_published_rows_are_not_tuned_and_stand_in_the_standard_split_only(table: Table) -> None:
    as_published = [method for method in table.methods if method.preset == "as_published"]
    assert bool(as_published) == (table.class_split == "standard")
    assert not any(method.trials for method in as_published)


@pytest.mark.parametrize("name", ["table5", "table6", "table7", "table9"])
def test_tables_of_items_tune_alike_and_compare_at_one_effective_temperature(name: str) -> None:
    table = load_table(name)
    honest = [method for method in table.methods if method.preset == "honest"]
    tuned, matched = ([m for m in honest if bool(m.trials) == tried] for tried in (True, False))
    assert [f"{m.method}, tau" for m in tuned] == [m.method.rpartition(" ")[0] for m in matched]
    factor = {"kl": 1, "cs": 2, "gcs": len(table.datasets[0].init_args["modalities"]) + 1}
    for method in honest:
        kind = method.alignment.get("divergence", method.alignment["name"])
        temperatures = [t["alignment"]["temperature"] for t in method.trials] or [method.alignment["temperature"]]
        expected = [0.05, 0.1, 0.2] if method.trials else [0.1]
        assert [t / factor[kind] for t in temperatures] == pytest.approx(expected)
        assert method.init_args["alignment_weight"] == factor[kind]
        build_loss(**{**method.alignment, "temperature": temperatures[0]})
    assert set(table.projection) <= {m.method for m in tuned}
    assert table.metrics[0] == "MAP"


@pytest.mark.parametrize("name", ["table5", "table6", "table7", "table9"])
def test_models_of_items_can_be_built_from_the_tables(name: str) -> None:
    table = load_table(name)
    arguments = inspect.signature(LAVIMO).parameters
    for dataset in (*table.datasets, table.synthetic):
        kind = getattr(datamodules, dataset.class_path)
        modalities = kind(**dataset.init_args).chosen or dataset.init_args["names"]
        assert set(dataset.model) <= set(arguments)
        assert {*dataset.model.get("encoders", {}), dataset.model["reconstruct"]} <= set(modalities)
        assert {encoder["name"] for encoder in dataset.model.get("encoders", {}).values()} <= set(ENCODERS)
    assert set(table.scales) == {"quick", "paper"}
    assert len(table.scales["quick"].seeds) == (5 if name == "table7" else 3)


def test_a_table_adds_its_methods_to_those_it_extends_and_replaces_the_rest(tmp_path: Path) -> None:
    _write(tmp_path, MINIMAL)
    own = "extends: table9.yaml\ntitle: Other\nmethods: [{method: CCA, model: CCA, init_args: {components: 2}}]\n"
    _write(tmp_path, own, "table10")
    own, base = load_table("table10", tmp_path), load_table("table9", tmp_path)
    assert [method.method for method in own.methods] == ["JFSE", "CCA"]
    assert (own.name, own.title, base.title) == ("table10", "Other", "A table")
    assert own.scales == base.scales


def test_a_table_extends_a_file_named_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "experiments").mkdir()
    _write(tmp_path / "tables", MINIMAL)
    _write(tmp_path / "experiments", "extends: ../tables/table9.yaml\ntitle: Other\n", "sweep")
    assert [method.method for method in load_table("sweep", tmp_path / "experiments").methods] == ["JFSE"]


def test_a_sweep_becomes_a_method_per_value(tmp_path: Path) -> None:
    sweeps = """
      - {method: KL, model: JFSE, alignment: {name: pairwise, divergence: kl}, sweep: {temperature: [0.05, 1]}}
      - {method: CS, model: JFSE, alignment: cs, init_args: {width: 8}, sweep: {alignment_weight: [0.001]}}
    """
    _write(tmp_path, MINIMAL.replace(f"[{METHOD}]", sweeps))
    methods = load_table("table9", tmp_path).methods
    assert [method.method for method in methods] == [
        "KL, temperature 0.05",
        "KL, temperature 1",
        "CS, alignment_weight 0.001",
    ]
    assert [method.sweep for method in methods] == [
        Sweep("KL", "temperature", 0.05), Sweep("KL", "temperature", 1), Sweep("CS", "alignment_weight", 0.001)
    ]  # fmt: skip
    assert methods[0].alignment == {"name": "pairwise", "divergence": "kl", "temperature": 0.05}
    assert (methods[2].alignment, methods[2].init_args) == ("cs", {"width": 8, "alignment_weight": 0.001})


@pytest.mark.parametrize("name", available_tables())
def test_a_data_set_that_is_not_there_has_a_row_per_method_and_split(name: str) -> None:
    table = load_table(name)
    run = SimpleNamespace(table=table, scale="quick")
    for dataset in table.datasets:
        rows = _not_run(run, dataset, "no folder")
        assert {row.method for row in rows} == {method.method for method in table.methods_on(dataset)}
        assert all(row.split and row.status == "not_run" and row.note == "no folder" for row in rows)


def test_a_data_set_leaves_out_the_methods_it_names(tmp_path: Path) -> None:
    methods = "[{method: JFSE}, {method: JFSE + CS, alignment: cs}, {method: CMPM + CS, model: CMPM, alignment: cs}]"
    text = MINIMAL.replace(METHOD, "").replace("[]", methods.replace("{method: JFSE", "{model: JFSE, method: JFSE"))
    text = text.replace("{width: 8}", "{learning_rate: 0.1}")  # what both models take
    _write(tmp_path, text.replace("features: roph,", 'features: roph, leaves_out: ["JFSE*"],'))
    table = load_table("table9", tmp_path)
    assert [method.method for method in table.methods_on(table.datasets[0])] == ["CMPM + CS"]
    assert table.methods_on(table.synthetic) == table.methods


def test_an_unknown_table_is_told_which_there_are(tmp_path: Path) -> None:
    _write(tmp_path, MINIMAL)
    with pytest.raises(SpecError, match=r"no table7; there are table9"):
        load_table("table7", tmp_path)
    assert (FOLDER / "table2.yaml").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title: A table", "titel: A table"), r"table9\.yaml: unknown key 'titel'.*nearest: title"),
        (("title: A table\n", ""), r"table9\.yaml has no title"),
        (("max_epochs: 1, ", ""), r"table9\.yaml: .*max_epochs"),
        (("[{method: JFSE, model: JFSE}]", ""), r"table9\.yaml has no methods"),
        (("datasets: [{dataset: wikipedia, features: roph, class_path: Wikipedia}]\n", ""), r"has no datasets"),
        (("model: JFSE", "model: JSFE"), r"table9\.yaml: JFSE has model 'JSFE'; nearest: JFSE"),
        (("model: JFSE", "modle: JFSE"), r"unknown key 'modle'.*nearest: model"),
        (("[{method: JFSE, model: JFSE}]", "[JFSE]"), r"expected a mapping with method, model.*got 'JFSE'"),
        (("{width: 8}}}", "{width: 8}"), r"table9\.yaml cannot be read"),
        (("title: A table", "extends: nothing.yaml"), r"nothing\.yaml cannot be read"),
        (("class_path: Wikipedia", "class_path: Wikipaedia"), r"wikipedia has class_path 'Wikipaedia'; nearest: Wiki"),
        (("class_path: Synthetic}", "class_path: Tensor}"), r"synthetic has class_path 'Tensor'; "),
        (
            ("features: roph,", "features: roph, leaves_out: [JSFE],"),
            r"leaves_out names 'JSFE', no method; nearest:",
        ),
        (("features: roph,", "features: roph, leaves_out: JFSE,"), r"leaves_out is 'JFSE', a text; expected a list"),
        (("title: A table", "title: A table\nprojection: [JFSE CS]"), r"projection names 'JFSE CS', no method"),
        (("[MAP]", "[MAP, gradient norm]"), r"table9\.yaml: gradient norm and .* need record_gradients: true"),
        ((METHOD, f"{METHOD}, {METHOD}"), r"table9\.yaml: methods holds 'JFSE, honest' twice"),
        ((METHOD, f"{CS}, sweep: {{}}}}"), r"table9\.yaml: JFSE \+ CS has sweep {}; expected one argument"),
        ((METHOD, f"{CS}, sweep: [0.1]}}"), r"JFSE \+ CS has sweep \[0\.1\]; expected one argument with its values"),
        ((METHOD, f"{CS}, sweep: {{temperature: [0.1], width: [8]}}}}"), r"expected one argument with its values"),
        ((METHOD, f"{CS}, sweep: {{temperature: []}}}}"), r"JFSE \+ CS sweeps temperature over \[\]; expected a list"),
        ((METHOD, f"{CS}, sweep: {{temperature: 0.1}}}}"), r"sweeps temperature over 0\.1; expected a list of one"),
        ((METHOD, f"{CS}, sweep: {{temperature: [0.1, 0]}}}}"), r"over \[0\.1, 0\]; expected .* positive number"),
        ((METHOD, f"{CS}, sweep: {{temperature: ['1e-3']}}}}"), r"over \['1e-3'\]; expected .* positive number"),
        (
            (METHOD, f"{CS}, sweep: {{temperature: [0.1, 0.1]}}}}"),
            r"holds 'JFSE \+ CS, temperature 0\.1, honest' twice",
        ),
        ((METHOD, f"{CS}, sweep: {{temprature: [0.1]}}}}"), r"unknown argument 'temprature'; nearest: temperature"),
        ((METHOD, f"{CS}, sweep: {{widht: [8]}}}}"), r"sweeps unknown argument 'widht'; nearest: width"),
        ((METHOD, f"{CS}, trials: [{{width: 8}}], sweep: {{dropout: [0.1]}}}}"), r"with its values, and no trials"),
        ((METHOD, "{method: A, model: JFSE, alignment: ccs}"), r"table9\.yaml: A: unknown loss 'ccs'; nearest: .*cs"),
        (
            (METHOD, "{method: A, model: JFSE, alignment: ccs, sweep: {t: [1]}}"),
            r"A: unknown loss 'ccs'; nearest: .*cs",
        ),
        ((METHOD, "{method: A, model: JFSE, alignment: {name: cs, tau: 1}}"), r"A: loss 'cs' has no keyword 'tau'"),
        ((METHOD, f"{CS}, trials: [{{alignment: {{tau: 1}}}}]}}"), r"JFSE \+ CS: loss 'cs' has no keyword 'tau'"),
        (("class_path: Wikipedia", "class_path: own.Views"), "wikipedia has .* of this suite alone, .* csd fit"),
        ((METHOD, f"{CS}, matched_temperature: 0}}"), r"JFSE \+ CS: temperature must be positive"),
        (
            (METHOD, "{method: A, model: JFSE, alignment: mmd, matched_temperature: 0.1}"),
            r"A: matched_temperature .* mmd",
        ),
        (
            (METHOD, "{method: A, model: JFSE, alignment: {name: cs, temperature: 1}, matched_temperature: 1}"),
            r"A: it has a temperature and a matched_temperature; keep one",
        ),
    ],
)
def test_a_broken_table_is_told_what_is_wrong(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in MINIMAL
    _write(tmp_path, MINIMAL.replace(*change))
    with pytest.raises(SpecError, match=message):
        load_table("table9", tmp_path)


def test_a_table_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "- JFSE\n")
    with pytest.raises(SpecError, match=r"table9\.yaml must be a mapping, got list"):
        load_table("table9", tmp_path)
