"""What a run would take: by what was measured, else by the cost model."""

import numpy as np
import pytest

from flows.cli import main
from flows.planning import estimated
from synth_pipeline import cost_model
from synth_pipeline.base_model import resolve_base
from synth_pipeline.config import load_config
from synth_pipeline.estimate import Cost, estimate
from synth_pipeline.plan import plan
from synth_pipeline.study import Study
from tests.command_line import ROOT
from tests.rdface import plant_rdface


def costs(config, root, *overrides) -> dict[str, Cost]:
    study = Study(load_config(config, list(overrides)), root)
    return {cost.stage: cost for cost in estimate(study, plan(study))}


def test_a_finished_study_takes_nothing(finished):
    assert costs(finished.config, finished.root) == {}
    study = Study(load_config(finished.config), finished.root)
    assert estimated(study, plan(study)) == []


def test_what_was_measured_is_scaled_by_the_work(finished):
    """Four times the steps, four times the time that the same steps took here."""
    again = costs(finished.config, finished.root, "seed=4")
    more = costs(finished.config, finished.root, "seed=4", "dreambooth.steps=12")
    assert again["dreambooth"].basis == more["dreambooth"].basis == "measured"
    assert more["dreambooth"].seconds == pytest.approx(4 * again["dreambooth"].seconds)
    study = Study(load_config(finished.config), finished.root)
    took = {
        stage: sum(m["measurements"]["seconds"] for m in study.store.manifests(stage))
        for stage in ("dreambooth", "sampling", "training", "copies", "evaluation", "memorisation")
    }
    for stage, seconds in took.items():
        assert again[stage].basis == "measured"
        assert again[stage].seconds == pytest.approx(seconds, rel=0.35), stage
    files = [m["files"] for m in study.store.manifests("sampling")]
    stored = sum(file["bytes"] for each in files for file in each.values())
    assert again["sampling"].size_bytes == pytest.approx(stored)


def test_without_measurements_the_model_is_asked(finished, tmp_path):
    """More work, more time; and the sizes of files are about what they turn out to be."""
    first = costs(finished.config, tmp_path)
    assert {cost.basis for cost in first.values()} == {"modelled"}
    twice = costs(finished.config, tmp_path, "sampling.images_per_class=12")
    assert 1.9 < twice["sampling"].seconds / first["sampling"].seconds < 2.1
    epochs = costs(finished.config, tmp_path, "recognition.epochs=10")
    assert epochs["training"].seconds == pytest.approx(10 * first["training"].seconds)
    for stage in ("training", "dreambooth", "sampling"):
        stored = sum(
            path.stat().st_size for path in (finished.root / "store" / stage).rglob("*.[ps][na]*")
        )
        assert 0.3 < first[stage].size_bytes / stored < 3, stage


def test_a_grid_costs_its_points(finished, tmp_path):
    """Two rates by two decays cost four times what the folds of the smallest scale do."""
    grid = ("recognition.grid.learning_rate=[1e-3, 1e-4]", "recognition.grid.weight_decay=[0, 0.1]")
    one_curve = ("selection.scales=[6]", "recognition.regimes=[synthetic]", "seed=4")
    for root in (tmp_path, finished.root):
        found = costs(finished.config, root, *one_curve, *grid)
        assert found["tuning"].basis == found["training"].basis
        assert found["tuning"].seconds == pytest.approx(4 * found["training"].seconds)


def test_the_cost_of_stable_diffusion_is_the_published_one(tmp_path):
    """0.8 TFLOP a forward pass; the phantom base by its weights and latents."""
    base = cost_model.base_cost(resolve_base("embedded").folder)
    assert base.side_px == 128
    assert base.forward_flop == pytest.approx(0.8e12 * base.weights / 860e6 / 16)
    flop, size_bytes = cost_model.network("resnet152.tv2_in1k", 112)
    assert flop == pytest.approx(2 * 11.5e9 / 4)
    assert size_bytes == pytest.approx(233.6e6)


def test_the_gpu_that_the_kernel_knows(tmp_path):
    assert not cost_model.device(tmp_path).gpu
    for number, name in enumerate(["NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"]):
        (tmp_path / f"0000:0{number}").mkdir()
        (tmp_path / f"0000:0{number}" / "information").write_text(f"Model: \t\t {name}\nIRQ: 1\n")
    found = cost_model.device(tmp_path)
    assert (found.name, found.gpu) == ("one NVIDIA H100 80GB HBM3", True)
    assert found.flop_per_s > 1000 * cost_model.device(tmp_path / "none").flop_per_s / 64


@pytest.fixture(scope="module")
def rdface(tmp_path_factory):
    """RDFace's layout with its 103 conditions and about its photos, which are noise here."""
    folder = tmp_path_factory.mktemp("rdface")
    sizes = np.repeat(np.arange(1, 8), (6, 9, 15, 19, 25, 17, 12))
    plant_rdface(folder, sizes)
    return folder


@pytest.mark.parametrize("name", ["rdface", "rdface-published"])
def test_the_papers_whole_table_is_planned_with_its_cost(name, rdface, tiny_base, tmp_path, capsys):
    """Six backbones, five scales, five folds; a small base stands in for the hub's."""
    sets = (
        f"cases.source={rdface}",
        f"dreambooth.base_model={tiny_base}",
        "dreambooth.base_vae=null",
        "dreambooth.precision=auto",
        "recognition.pretrained=false",
    )
    arguments = ["plan", str(ROOT / "configs" / f"{name}.yaml"), "--root", str(tmp_path / "root")]
    for each in sets:
        arguments += ["--set", each]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    # Real, and synthetic and mixed at five scales.
    for stage, count in (("dreambooth", 103), ("training", 6 * 11 * 5), ("sampling", 103)):
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {stage} ")]
        assert line.split()[1] == str(count)
    assert "in all" in out and "of disk" in out
    assert not (tmp_path / "root").exists()


def test_a_gpu_takes_its_time_where_nothing_is_replayed(finished, tmp_path, monkeypatch):
    """In full a step's kernels are handed over one by one; three classes take three steps each."""
    gpu = cost_model.Device("one NVIDIA H200", 220e12, True)
    monkeypatch.setattr(cost_model, "device", lambda: gpu)
    whole, adapters, text = (
        costs(finished.config, tmp_path, f"dreambooth.{each}")["dreambooth"].seconds
        for each in ("method=full", "method=lora", "lora_text_encoder=true")
    )
    assert whole == text == pytest.approx(3 * 3 * 0.17)
    assert adapters < 0.1 * whole
