"""`synth-pipeline run`: the whole way, then again, then after damage; and what Prefect shows."""

import contextlib
import csv
import json
import shutil
import sqlite3

import pyarrow.parquet as pq
import pytest
from PIL import Image

from synth_pipeline.config import load_config
from synth_pipeline.study import Study
from tests.command_line import command

STAGES = {
    "cases", "landmarks", "dreambooth", "sampling", "ranking", "copies", "selection", "training",
    "evaluation", "scores", "memorisation", "report",
}  # fmt: skip


def task_runs(root) -> list[tuple[str, str]]:
    """(name, state) of every stage's task run in Prefect's database, oldest first."""
    with contextlib.closing(sqlite3.connect(root / "prefect" / "prefect.db")) as base:
        rows = base.execute("select name, state_name from task_run order by start_time").fetchall()
    # A flow that another flow calls is listed among the tasks, too.
    return [
        (name, state) for name, state in rows if name.split(" ")[0] in {*STAGES, "class-images"}
    ]


def state_of_files(folder):
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }


def stages_run(ended) -> int:
    line = next(line for line in ended.out.splitlines() if "stages run" in line)
    return int(line.split(": ")[1].split(" ")[0])


def test_it_ends_well_and_leaves_what_is_promised(finished):
    assert finished.first.code == 0, finished.first.err
    folder = finished.root / "studies" / "small"
    promised = {
        "report.html", "scores.parquet", "predictions.parquet", "ranking.parquet",
        "copies.parquet", "config.resolved.yaml",
    }  # fmt: skip
    assert promised <= {path.name for path in folder.iterdir()}
    assert f"Report: {folder / 'report.html'}" in finished.first.out
    assert "95 % interval" in finished.first.out
    assert {path.name for path in (finished.root / "store").glob("[!.]*")} == STAGES
    assert (finished.root / "store").stat().st_mode & 0o077 == 0


def test_every_accuracy_in_the_report_comes_from_the_scores(finished):
    folder = finished.root / "studies" / "small"
    page = (folder / "report.html").read_text()
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    assert {(row["regime"], row["scale"]) for row in rows} == {
        ("real", None), ("synthetic", 6), ("synthetic", 12),
    }  # fmt: skip
    for row in rows:
        text = f"{100 * row['mean']:.1f}"
        if row["metric"] not in ("ece", "ensemble_top1"):
            text += f" ± {100 * row['deviation']:.1f}"
        text += f"<small>{100 * row['low']:.1f} to {100 * row['high']:.1f}</small>"
        assert text in page, row


def test_prefect_shows_each_task_with_its_class(finished):
    names = {name for name, _ in task_runs(finished.root)}
    classes = load_classes(finished)
    for class_id in classes:
        assert {
            f"landmarks {class_id} real", f"dreambooth {class_id}", f"sampling {class_id}",
            f"landmarks {class_id} synthetic",
        } <= names  # fmt: skip
    assert "training test_resnet synthetic 12 fold 1" in names


def load_classes(finished) -> tuple[str, ...]:
    study = Study(load_config(finished.config), finished.root)
    assert study.graph.resolve(study.cases()).looked.status == "cached"
    return study.case_set.classes


def test_again_runs_nothing_and_says_so(finished):
    before = state_of_files(finished.root / "store")
    known = len(task_runs(finished.root))
    ended = finished.again()
    assert ended.code == 0, ended.err
    assert stages_run(ended) == 0
    assert state_of_files(finished.root / "store") == before
    again = task_runs(finished.root)[known:]
    assert len(again) == known
    assert {state for _, state in again} == {"Cached"}


def test_classes_that_learn_in_one_batch(finished, tmp_path):
    """Asked for, they are one task; each class's concept is published, and found again, alone."""
    arguments = (
        "run", finished.config, "--root", tmp_path / "root", "--until", "dreambooth",
        "--set", "dreambooth.concepts_at_once=3", "--set", "dreambooth.prior_weight=1",
        "--set", "dreambooth.class_images=4",
    )  # fmt: skip
    ended = command(*arguments)
    assert ended.code == 0, ended.err
    runs = task_runs(tmp_path / "root")
    classes = load_classes(finished)
    assert (f"dreambooth {classes[0]} and 2 more", "Completed") in runs
    assert ("class-images", "Completed") in runs
    made = list((tmp_path / "root" / "store" / "dreambooth").glob("[!.]*/manifest.json"))
    manifests = [json.loads(path.read_text()) for path in made]
    assert {manifest["label"] for manifest in manifests} == set(classes)
    assert {manifest["measurements"]["concepts_at_once"] for manifest in manifests} == {3}
    assert not list((tmp_path / "root" / "store" / "dreambooth").glob(".*"))
    again = command(*arguments)
    assert stages_run(again) == 0
    # One of them lost is learned again, alone.
    shutil.rmtree(made[0].parent)
    assert stages_run(command(*arguments)) == 1


@pytest.mark.parametrize("damage", ["delete", "truncate", "flip"])
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_after_damage_only_that_stage_runs(finished, stage, damage):
    """In process: the same graph and store as the flow, without its server's start."""
    folders = sorted((finished.root / "store" / stage).glob("[!.]*"))
    files = sorted(path for path in folders[-1].rglob("*") if path.is_file())
    victim = files[{"delete": 0, "truncate": len(files) // 2, "flip": -1}[damage]]
    whole = victim.read_bytes()
    if damage == "delete":
        victim.unlink()
    elif damage == "truncate":
        victim.write_bytes(whole[: len(whole) // 2])
    else:
        place = len(whole) // 2
        victim.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    study = Study(load_config(finished.config), finished.root)
    executed = make_everything(study)
    assert [name.split(" ")[0] for name in executed] == [stage]
    # Same bytes again, so nothing behind it had to run; the manifest holds measured times.
    if victim.name != "manifest.json":
        assert victim.read_bytes() == whole


def make_everything(study) -> list[str]:
    """Make every node in order; returns the names of those that were run."""
    from synth_pipeline.publishing import report_node

    executed = []
    study.make(study.cases())
    classes = list(study.case_set.classes)
    again = Study(study.config, study.root)
    for node in again.nodes(classes):
        _, ran = again.make(node)
        executed += [node.name] * ran
    _, ran = again.make(report_node(again, classes, {}))
    return study_executed(study) + executed + ["report"] * ran


def study_executed(study) -> list[str]:
    return ["cases"] * study.counts()["executed"]


def test_damage_through_the_command_line(finished):
    """One damaged image: that class is sampled again, and the rest stays as it is."""
    image = sorted((finished.root / "store" / "sampling").glob("[!.]*/images/*.png"))[0]
    manifest = json.loads((image.parent.parent / "manifest.json").read_bytes())
    image.write_bytes(b"not an image")
    planned = finished.plan()
    assert planned.code == 0
    rows = [line for line in planned.out.splitlines() if line.startswith("run ")]
    assert len(rows) == 1
    assert ["sampling", manifest["label"]] == rows[0].split()[1:3]
    assert "images/00000.png has 12 bytes instead of" in rows[0]
    known = len(task_runs(finished.root))
    ended = finished.again()
    assert ended.code == 0
    assert stages_run(ended) == 1
    ran = [name for name, state in task_runs(finished.root)[known:] if state != "Cached"]
    assert ran == [f"sampling {manifest['label']}"]


def test_a_report_that_was_lost_is_laid_out_again(finished):
    report = finished.root / "studies" / "small" / "report.html"
    page = report.read_bytes()
    report.unlink()
    ended = command("report", finished.config, "--root", finished.root)
    assert ended.code == 0
    assert report.read_bytes() == page


def test_plan_says_why(finished):
    everything = finished.plan()
    assert everything.code == 0
    assert everything.out.splitlines()[-1].endswith("0 to run")
    changed = finished.plan("--set", "sampling.guidance_scale=3")
    lines = [line for line in changed.out.splitlines() if line.startswith(("run ", "cached "))]
    rows = [[*line.split(maxsplit=2), ""][:3] for line in lines]
    sampled = [rest for _, stage, rest in rows if stage == "sampling"]
    assert len(sampled) == 3
    assert all("sampling changed (guidance_scale went from 2.0 to 3.0)" in r for r in sampled)
    assert [
        (status, "waits for" in rest) for status, stage, rest in rows if stage == "ranking"
    ] == [("run", True)]
    untouched = [row for row in rows if row[1] in ("cases", "dreambooth") or " real" in row[2]]
    assert {status for status, _, _ in untouched} == {"cached"}
    one = finished.plan("--why", load_classes(finished)[0])
    assert len(one.out.splitlines()) == 5


def test_what_it_will_take_is_told_before_it_starts(finished):
    """By the plan, and by the run; of a study that is stored, by neither."""
    out = finished.first.out
    assert "Estimate for " in out and "of disk" in out
    assert out.index("Estimate for ") < out.index("stages run")
    assert "Estimate" not in finished.plan().out
    changed = finished.plan("--set", "sampling.steps=12", "--set", "recognition.epochs=3").out
    told = {line.split()[0]: line.split()[-1] for line in changed.splitlines() if " × " in line}
    assert set(told) == STAGES - {"cases", "dreambooth"}
    assert told["sampling"] == told["training"] == told["copies"] == "measured"


def test_plan_before_the_first_run_writes_nothing(finished, tmp_path):
    ended = command("plan", finished.config, "--root", tmp_path / "new")
    assert ended.code == 0
    assert not (tmp_path / "new").exists()
    assert "never made" in ended.out
    assert "28 in all: 0 cached, 28 to run" in ended.out


def test_a_scale_that_is_added_trains_only_that_scale(finished, tmp_path):
    shutil.copytree(finished.root / "store", tmp_path / "store")
    config = load_config(finished.config, ["selection.scales=[6, 9, 12]"])
    assert make_everything(Study(config, tmp_path)) == [
        "selection",
        "training test_resnet synthetic 9 fold 1",
        "training test_resnet synthetic 9 fold 2",
        "evaluation test_resnet synthetic 9",
        "scores",
        "report",
    ]


def test_a_scale_that_cannot_be_filled_is_the_training_of_the_one_below(finished):
    study = Study(load_config(finished.config), finished.root)
    selected = study.graph.artifact(study.selection(study.case_set.classes))
    few, many = (
        study.training(study.case_set.classes, "test_resnet", "synthetic", scale, 0)
        for scale in (6, 12)
    )
    assert few.key_label({"selection": selected.parts}) == few.label
    assert many.key_label({"selection": selected.parts}) == many.label
    alike = {**selected.parts, "scale/12": selected.parts["scale/6"]}
    assert many.key_label({"selection": alike}) == few.label


def test_a_backbone_that_looks_at_pictures_touches_ranking_and_audit_only(finished, tmp_path):
    shutil.copytree(finished.root / "store", tmp_path / "store")
    looks = [f"{stage}.backbone=test_resnet" for stage in ("ranking", "copies")]
    study = Study(load_config(finished.config, looks), tmp_path)
    assert make_everything(study) == ["ranking", "copies", "selection", "report"]
    classes = study.case_set.classes
    ranked = study.graph.artifact(study.ranking(classes)).path / "ranking.parquet"
    copies = study.graph.artifact(study.copies(classes)).path / "copies.parquet"
    for column in (
        pq.read_table(ranked)["appearance"],
        pq.read_table(copies)["embedding_distance"],
    ):
        assert column.null_count == 0


def test_held_out_photos_influence_nothing_but_the_scores(finished, tmp_path):
    """Other people in the test split: every stage before the evaluation stays as it is."""
    shutil.copytree(finished.root / "store", tmp_path / "store")
    source = tmp_path / "other"
    shutil.copytree(finished.photos, source)
    rows = list(csv.DictReader((source / "cases.csv").open(newline="")))
    for number, row in enumerate(row for row in rows if row["split"] == "test"):
        colour = (40 * number, 255 - 40 * number, 90)
        Image.new("RGB", (128, 128), colour).save(source / row["file"])
    config = load_config(finished.config, [f"cases.source={source}"])
    executed = make_everything(Study(config, tmp_path))
    assert {name.split(" ")[0] for name in executed} == {
        "cases",
        "evaluation",
        "scores",
        "memorisation",
        "report",
    }
