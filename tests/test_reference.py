"""The papers' numbers, against values read off the papers."""

from __future__ import annotations

import pytest

from zoolib import reference
from zoolib.spec import ZoolibError


def value(table: str, method: str, column: str) -> tuple[float, float]:
    frame = reference.published(table, method=method, column=column)
    assert len(frame) == 1
    return frame["value"][0], frame["std"][0]


def test_values_are_those_printed_in_the_papers():
    assert value("table1_homogeneous", "imagenet", "cifar100")[0] == 81.18
    assert value("table1_homogeneous", "hub_pathway", "cars")[0] == 91.72
    assert value("table2_heterogeneous", "hub_pathway", "cifar100") == (89.01, 0.06)


def test_the_average_column_is_the_mean_of_its_row():
    for table in ("table1_homogeneous", "table2_heterogeneous"):
        wide = reference.published(table).pivot(index="method", columns="column", values="value")
        means = wide.drop(columns="avg").mean(axis=1)
        assert (means - wide["avg"]).abs().max() < 0.02  # printed with two digits


def test_filters_take_lists_and_the_whole_file_is_tidy():
    frame = reference.published(column=["cars", "aircraft"], metric="top1_accuracy")
    assert set(frame["column"]) == {"cars", "aircraft"} and set(frame["metric"]) == {"top1_accuracy"}
    everything = reference.published()
    assert list(everything.columns) == list(reference.COLUMNS)
    assert not everything.duplicated(["source", "table", "method", "column", "metric"]).any()
    assert set(everything["better"]) == {"higher", "lower"}


def test_a_caller_cannot_change_what_the_next_one_reads():
    frame = reference.published()
    frame["value"] = 0.0
    assert value("table1_homogeneous", "imagenet", "cifar100")[0] == 81.18


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"table": "table1_homogenous"}, "did you mean 'table1_homogeneous'"),
        ({"column": "carz"}, "did you mean 'cars'"),
        ({"methode": "x"}, "did you mean 'method'"),
    ],
)
def test_unknown_names_are_errors_with_the_nearest(filters: dict, message: str):
    with pytest.raises(ZoolibError, match=message):
        reference.published(**filters)


def test_a_hub_chooses_the_table_and_a_dataset_the_column():
    assert set(reference.beside("cars", "imagenet-lite")["table"]) == {"table2_heterogeneous"}
    alike = reference.beside("cars", "resnet50-random")
    assert set(alike.loc[alike["listed"], "table"]) == {"table1_homogeneous"}
    assert set(alike.loc[~alike["listed"], "table"]) == {"table4_ablation", "table5_data_dependent"}
    assert not alike["method"].duplicated().any()
    assert reference.beside("digits", "imagenet-lite").empty


def test_random_weights_under_the_papers_names_are_not_the_papers_hub():
    assert not reference.is_papers_hub("resnet50-random")
    assert not reference.is_papers_hub("imagenet-lite")
