"""Rows of every table: jobs, their settings and folders. No job runs."""

from pathlib import Path

import pytest

from a2s.config.ablate import AblateConfig
from a2s.config.training import Stage1Options, Stage2Options
from a2s.errors import ConfigError
from a2s.paper.catalogue import CATALOGUE, find, pick
from a2s.paper.material import gather, quick_form
from a2s.paper.tables.rows import merged
from a2s.storage.files import write_json

OUT = Path("out")
TESTS = {
    "test": ("ecssd=e/images", "mine=m/images"),
    "truth": ("ecssd=e/masks", "mine=m/masks", "train=t/masks"),
}


def material(name="tab4", out=OUT, **flags):
    config = AblateConfig(name=name, out=out, data="t/images", **{**TESTS, **flags})
    return gather(config, find(name).needs)


def rows(name, **flags):
    return {row.name: row for row in CATALOGUE[name].rows(material(name, **flags))}


def own_rows(name, **flags):
    """Rows that change something, without the baseline."""
    return {row: found for row, found in rows(name, **flags).items() if row != "RBD"}


def job_of(row, command, *, folder=""):
    (job,) = [j for j in row.jobs if j.command == command and folder in j.out.as_posix()]
    return job


def listed(jobs, out=OUT):
    return [(job.command, job.out.relative_to(out).as_posix()) for job in jobs]


def test_rows_of_a_table_have_distinct_names():
    for name, entry in CATALOGUE.items():
        names = [row.name for row in entry.rows(material(name))]
        assert len(set(names)) == len(names), name


def test_tab4_changes_one_thing_per_row_and_shares_the_rest():
    found = own_rows("tab4")
    training = {name: job_of(row, "stage1") for name, row in found.items()}
    assert training["A0"].settings["parity"].encoder_mode == "trained"
    assert training["A1"].settings["map_weights"] == (1, 0, 0, 0)
    assert training["A2"].settings["drop_pixels"] is False
    folders = {name: job.out.relative_to(OUT).parent.as_posix() for name, job in training.items()}
    assert folders == {
        "A0": "rows/stage1-encoder_mode-trained",
        "A1": "rows/stage1-map_weights-1-0-0-0",
        "A2": "rows/stage1-drop_pixels-false",
        "A3": "shared",
    }
    changed = {"parity", "map_weights", "drop_pixels", "out"}
    plain = {k: v for k, v in training["A3"].settings.items() if k not in changed}
    for job in training.values():
        assert {k: v for k, v in job.settings.items() if k not in changed} == plain
    assert plain["cache_dir"] == OUT / "shared" / "cache"


def test_tab4_scores_labels_of_the_training_images_and_of_test_sets():
    assert listed(rows("tab4")["A3"].jobs) == [
        ("shard", "shared/data"),
        ("shard", "shared/tests/ecssd"),
        ("shard", "shared/tests/mine"),
        ("stage1", "shared/stage1"),
        ("label", "shared/labels/train"),
        ("evaluate", "shared/scores/labels-train"),
        ("label", "shared/labels/ecssd"),
        ("evaluate", "shared/scores/labels-ecssd"),
        ("label", "shared/labels/mine"),
        ("evaluate", "shared/scores/labels-mine"),
    ]


def test_jobs_that_rows_share_run_once():
    jobs = listed(merged(list(rows("tab6").values())))
    assert len(set(jobs)) == len(jobs)
    assert [command for command, _ in jobs].count("stage1") == 1
    assert [command for command, _ in jobs].count("stage2") == 6
    labels = {
        j.settings["labels"] for r in own_rows("tab6").values() for j in [job_of(r, "stage2")]
    }
    assert labels == {OUT / "shared" / "labels" / "train"}


def test_tab5_and_tab6_vary_one_number():
    assert [job_of(r, "stage1").settings["alpha"] for r in own_rows("tab5").values()] == [
        *(0, 0.1, 0.2, 0.3)
    ]
    lam = {name: job_of(row, "stage2").settings["lam"] for name, row in own_rows("tab6").items()}
    assert lam == {"0": 0, "0.2": 0.2, "0.4": 0.4, "0.6": 0.6, "0.8": 0.8, "1": 1}


def test_a_row_without_effective_changes_uses_the_shared_run():
    found = rows("tab5", stage1=Stage1Options(alpha=0.2))
    assert job_of(found["0.2"], "stage1").out == OUT / "shared" / "stage1"
    assert job_of(found["0.1"], "stage1").out == OUT / "rows" / "stage1-alpha-0.1" / "stage1"


def test_tab7_trains_three_detectors_with_and_without_olr():
    trained = {name: job_of(row, "stage2") for name, row in own_rows("tab7").items()}
    assert {n: (j.settings["detector"], j.settings["lam"]) for n, j in trained.items()} == {
        "minet": ("minet", 1),
        "conv": ("conv", 1),
        "ram": ("ram", 1),
        "minet-olr": ("minet", 0.4),
        "conv-olr": ("conv", 0.4),
        "ram-olr": ("ram", 0.4),
    }


def test_tables_share_equal_runs():
    lam, detectors, rules = rows("tab6"), rows("tab7"), rows("tab8")
    assert job_of(lam["1"], "stage2") == job_of(detectors["ram"], "stage2")
    assert job_of(lam["0.4"], "stage2") == job_of(detectors["ram-olr"], "stage2")
    assert job_of(lam["0.4"], "stage2") == job_of(rules["OLR"], "stage2")
    assert job_of(rows("tab4")["A3"], "stage1") == job_of(lam["0"], "stage1")


def test_tab8_alternates_training_and_label_updates():
    row = rows("tab8", stage2=Stage2Options(epochs=4, warm_epochs=2))["HMA"]
    turns = [job for job in row.jobs if job.command in ("stage2", "hma")]
    run = OUT / "rows" / "stage2-rectify-hma" / "stage2"
    assert {job.out for job in turns} == {run}
    assert [(j.command, j.settings.get("until_epoch")) for j in turns] == [
        ("stage2", 3),
        ("hma", None),
        ("stage2", 4),
        ("hma", None),
        ("stage2", turns[-1].settings.get("until_epoch")),
    ]
    assert turns[0].settings["rectify"] == "hma"
    assert turns[1].settings["labels"] == OUT / "shared" / "labels" / "train"
    # The second pass continues the first one.
    assert [job.command for job in merged([row])].count("hma") == 2


def test_fig9_scores_every_epoch_before_it_trains_the_next(tmp_path):
    flags = {
        "out": tmp_path,
        "stage1": Stage1Options(epochs=2),
        "test": (),
        "truth": TESTS["truth"][2:],
    }
    found = own_rows("fig9", **flags)
    trained = {n: [j for j in r.jobs if j.command == "stage1"] for n, r in found.items()}
    assert {n: jobs[0].settings["parity"].boundary for n, jobs in trained.items()} == {
        **{"DB1": "db1", "DB2": "db2", "DB3": "db3", "DB4": "db4"},
        "DB5": "adb",
    }
    assert [job.settings["until_epoch"] for job in trained["DB5"]] == [1, 2]
    home = "rows/epochs-boundary-db1"
    assert listed(found["DB1"].jobs, tmp_path) == [
        ("shard", "shared/data"),
        ("stage1", f"{home}/stage1"),
        ("predict", f"{home}/maps/epoch-001-train"),
        ("evaluate", f"{home}/scores/epoch-001-train"),
        ("stage1", f"{home}/stage1"),
        ("predict", f"{home}/maps/epoch-002-train"),
        ("evaluate", f"{home}/scores/epoch-002-train"),
    ]
    # The model of a scored epoch is gone once the run has passed it.
    scored = tmp_path / home / "scores" / "epoch-001-train"
    scored.mkdir(parents=True)
    needed = {"num_images": 1, "num_touching": 0, "truth_ring_share": 0.0, "which_f": "adaptive"}
    write_json(scored / "scores.json", {"mae": 0.5, **needed})
    left = [job for job in rows("fig9", **flags)["DB1"].jobs if job.command != "shard"]
    assert [job.settings.get("until_epoch") for job in left] == [2, None, None]


def test_tab2_scores_both_stages_given_maps_and_the_baseline():
    maps = ("DSR/ecssd=d/e", "DSR/mine=d/m", "RC/mine=r")
    found = rows("tab2", maps=maps)
    assert list(found)[:8] == ["maps", "labels", "detector", "DSR", "MC", "HS", "RC", "RBD"]
    assert set(found["maps"].scores) == set(found["RBD"].scores) == {"ecssd", "mine"}
    assert set(found["RC"].scores) == {"mine"}
    assert [job.settings["pred"] for job in found["DSR"].jobs if job.command == "evaluate"] == [
        *(Path("d/e"), Path("d/m"))
    ]
    baseline = job_of(found["RBD"], "predict", folder="ecssd")
    assert str(baseline.settings["model"]) == "rbd"
    assert not found["MC"].scores
    assert found["USPS ‡"].jobs == ()
    given = rows("tab2", maps=("RBD/ecssd=r",))["RBD"]
    # Other tables in the same folder have the computed maps.
    assert given.scores["ecssd"] != found["RBD"].scores["ecssd"]
    assert [job.command for job in given.jobs if job.command != "shard"] == ["evaluate"]


@pytest.mark.parametrize("name", ["tab4", "tab5", "tab6", "tab7", "tab8", "fig9"])
def test_every_table_of_scores_has_the_baseline_on_the_same_sets(name):
    found = rows(name)
    *others, last = found
    assert last == "RBD"
    sets = {key.partition("/")[0] for other in others for key in found[other].scores}
    assert set(found["RBD"].scores) == sets
    models = {j.settings["model"] for j in found["RBD"].jobs if j.command == "predict"}
    assert models == {"rbd"}
    # The same folders in every table: one computation serves all.
    assert job_of(found["RBD"], "predict", folder="ecssd").out == OUT / "shared/maps/RBD-ecssd"
    picked = pick([*found.values()], others[0], table=name)
    assert [row.name for row in picked] == [others[0], "RBD"]


def test_maps_need_no_set_name_with_a_single_test_set():
    one = {"test": ("ecssd=e/images",), "truth": ("ecssd=e/masks",)}
    assert material("tab2", maps=("DSR=d",), **one).maps == {"DSR": {"ecssd": Path("d")}}
    with pytest.raises(ConfigError, match=r"DSR/TEST=FOLDER \(sets: ecssd, mine\)"):
        material("tab2", maps=("DSR=d",))


def test_quick_form_changes_only_defaults():
    config = AblateConfig(
        name="tab6", out=OUT, data="t", quick=True, stage2=Stage2Options(epochs=7), **TESTS
    )
    quick = quick_form(config)
    assert (quick.stage2.epochs, quick.stage2.warm_epochs, quick.stage2.image_size) == (7, 1, 64)
    assert quick.stage1.encoder.name == "mobilenet_v2"
    assert quick.limit == 24
    packing = gather(quick, "tests").packing
    assert [job.settings["limit"] for job in packing] == [24, 12, 12]


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("tab4", {"data": None, "truth": ()}, "tab4 needs --data"),
        ("tab6", {"test": (), "truth": ()}, "tab6 needs a set to score on"),
        ("tab5", {"test": (), "truth": ()}, "tab5 has nothing to score on"),
        ("tab6", {"truth": ("ecssd=e",)}, "masks of --test mine=… are not known"),
        ("tab6", {"truth": (*TESTS["truth"], "x=y")}, "--truth x=… comes without --test x="),
        ("tab6", {"test": ("train=a",)}, "--test train= stands for --data"),
    ],
)
def test_missing_flags_are_named(name, flags, message):
    config = AblateConfig(**{"name": name, "out": OUT, "data": "t", **TESTS, **flags})
    with pytest.raises(ConfigError, match=message):
        gather(config, find(name).needs)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError, match=r"'tab44'; did you mean tab4\? \(known: tab1, tab2"):
        find("tab44")
    found = list(rows("tab4").values())
    with pytest.raises(ConfigError, match=r"no row 'A9' \(its rows: A0, A1, A2, A3, RBD\)"):
        pick(found, "A1,A9", table="tab4")
    assert [row.name for row in pick(found, "A3, A1", table="tab4")] == ["A1", "A3", "RBD"]
