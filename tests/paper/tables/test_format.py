"""Tables as text: our numbers, the paper's, and how the runs differ."""

import csv
import io

import pytest

from a2s.paper import numbers
from a2s.paper.tables.charts import bars, curve, over_epochs
from a2s.paper.tables.format import Line, Table, csv_text, differences, markdown


def scores(f, mae, **more):
    return {"adaptive_f": f, "mae": mae, "num_images": 12, **more}


@pytest.fixture
def table():
    lines = (
        Line(
            "A0",
            "trained",
            ours={"train": scores(0.5, 0.25, max_f=0.625), "mine": scores(0.75, 0.125)},
            paper={"train": (0.028, 0.35)},
            extras={"hours": 1.5},
            x=0.0,
        ),
        Line("A1", "not done", paper={"train": (0.814, 0.092)}, x=1.0),
    )
    return Table("Table IV", ("train", "mine"), lines, notes=("a note",), x_name="alpha")


def test_markdown_has_the_papers_column_only_where_it_has_a_number(table):
    text = markdown(table).splitlines()
    assert text[0] == "# Table IV"
    assert text[2] == "| row |  | train F | paper | MAE | paper | mine F | MAE | hours |"
    assert text[4] == "| A0 | trained | 0.500 | 0.028 | 0.250 | 0.350 | 0.750 | 0.125 | 1.50 |"
    assert text[5] == "| A1 | not done | – | 0.814 | – | 0.092 | – | – | – |"
    assert text[7] == "- a note"


def test_columns_of_the_border_are_those_of_sets_that_were_scored_by_it():
    border = {"adaptive_f_touching": 0.25, "adaptive_f_not_touching": 0.625, "ring_share": 0.03}
    none_touches = {**border, "adaptive_f_touching": None}
    lines = (
        Line("A0", "", ours={"mine": scores(0.5, 0.1, **border), "old": scores(0.5, 0.1)}),
        Line("A1", "", ours={"mine": scores(0.5, 0.1, **none_touches)}),
        Line("A2", "scored before", ours={"mine": scores(0.5, 0.1)}),
    )
    text = markdown(Table("T", ("mine", "old"), lines)).splitlines()
    assert text[2] == ("| row |  | mine F | MAE | F touching / others | ring share | old F | MAE |")
    assert text[4] == "| A0 |  | 0.500 | 0.100 | 0.250 / 0.625 | 0.030 | 0.500 | 0.100 |"
    assert text[5] == "| A1 |  | 0.500 | 0.100 | – / 0.625 | 0.030 | – | – |"
    assert text[6] == "| A2 | scored before | 0.500 | 0.100 | – | – | – | – |"


def test_sets_of_the_paper_are_shown_when_we_scored_none_of_them():
    line = Line("0", "", ours={"mine": scores(0.5, 0.1)}, paper={"MSRA-B train": (0.845, 0.078)})
    text = markdown(Table("T", ("mine",), (line,), paper_sets=("MSRA-B train",)))
    assert "| mine F | MAE | MSRA-B train F, paper | MSRA-B train MAE, paper |" in text
    assert "| 0.500 | 0.100 | 0.845 | 0.078 |" in text


def test_csv_has_a_line_per_row_and_set_with_all_metrics(table):
    lines = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [(line["row"], line["set"]) for line in lines] == [
        ("A0", "train"),
        ("A0", "mine"),
        ("A1", "train"),
        ("A1", "mine"),
    ]
    assert lines[0]["max_f"] == "0.625"
    assert lines[0]["paper_mae"] == "0.35"
    assert lines[1]["paper_mae"] == ""
    assert lines[2]["adaptive_f"] == ""
    assert lines[0]["hours"] == "1.5"


@pytest.mark.parametrize("draw", [bars, curve])
def test_charts_are_the_same_text_for_the_same_numbers(table, draw):
    first = draw(table)
    assert first.startswith("<?xml")
    assert "train" in first
    assert draw(table) == first


def test_curves_over_epochs_have_a_panel_per_set():
    series = {"train": {"DB1": ([1, 2], [0.5, 0.4])}, "mine": {}}
    text = over_epochs(series, y_name="MAE", title="Fig. 9")
    assert "Fig. 9, train" in text
    assert "Fig. 9, mine" in text


def settings(**changes):
    encoder = {"name": "resnet50", "weights": "resnet50/moco_v2_800ep"}
    return {"encoder": encoder, "epochs": 20, "image_size": 320, "batch_size": 8, **changes}


def test_no_difference():
    line = differences(
        {"stage1": [settings()], "stage2": [settings(epochs=25)]},
        num_train=3000,
        num_test={"ecssd": 1000, "mine": 7},
    )
    assert line == "Encoder, images, epochs and image size are the paper's."


def test_everything_that_differs_is_named_with_the_papers_value():
    encoder = {"name": "mobilenet_v2", "weights": "/somewhere/here/mobile.safetensors"}
    runs = [settings(epochs=2, encoder=encoder, image_size=64), settings(epochs=3, encoder=encoder)]
    line = differences({"stage1": runs}, num_train=24, num_test={"ECSSD": 12})
    assert "encoder mobilenet_v2 with mobile.safetensors (paper: resnet50 with" in line
    assert "/somewhere" not in line
    assert "24 images to learn from (paper: 3,000)" in line
    assert "stage1 epochs 2 and 3 (paper: 20)" in line
    assert "stage1 image_size 64 and 320 (paper: 320)" in line
    assert "ECSSD: 12 images (paper: 1,000)" in line


def test_untrained_encoder_is_shown_in_capitals():
    encoder = {"name": "resnet50", "weights": "none"}
    line = differences({"stage1": [settings(encoder=encoder)]}, num_train=None, num_test={})
    assert "encoder resnet50 UNTRAINED" in line


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("ecssd", "ECSSD"),
        ("dut_omron", "DUT-O"),
        ("DUT-O", "DUT-O"),
        ("pascal-s", "PASCAL-S"),
        ("train", "MSRA-B train"),
        ("msra-b.test", "MSRA-B"),
        ("ecssd200", None),
    ],
)
def test_sets_are_matched_by_the_letters_of_their_names(given, name):
    assert numbers.set_name(given) == name


def test_the_papers_numbers():
    assert numbers.TABLE_2["Stage 2"]["ECSSD"] == (0.880, 0.060)
    assert set(numbers.TABLE_2["MC"]) == {"ECSSD", "MSRA-B", "DUT-O", "PASCAL-S"}
    assert numbers.TABLE_4["A0"] == {"MSRA-B train": (0.028, 0.350)}
    assert numbers.TABLE_4["A3"] == numbers.TABLE_5["0.1"]
    assert numbers.TABLE_6["0.4"] == numbers.TABLE_8["OLR"] == numbers.TABLE_7["ram-olr"]
    assert numbers.EXTRAS["tab7"]["conv-olr"] == {"parameters_m": 28.25}
