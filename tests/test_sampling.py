"""What is drawn: prompts that vary, and images without a face that are replaced."""

from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DDIMScheduler

from synth_pipeline import dreambooth, sampling, schedulers
from synth_pipeline.base_model import resolve_base
from synth_pipeline.config import DreamBoothConfig, SamplingConfig
from synth_pipeline.errors import StageError
from synth_pipeline.loaded_base import is_out_of_memory, load_base

TUNING = DreamBoothConfig(steps=2, learning_rate=1e-3, rank=2)
VARY = {"age": ("infant", "school age"), "light": ("daylight", "soft light", "lamp")}


@pytest.fixture
def draw(phantom_files, landmark_model, tmp_path):
    """Draw from a barely tuned base; returns the rows of the table."""
    name, images = next(iter(phantom_files.items()))

    def run(base, **settings):
        base = resolve_base(base)
        concept = tmp_path / "concept"
        if not concept.exists():
            concept.mkdir()
            dreambooth.run(
                TUNING,
                class_id=name,
                class_name=name,
                images=images[:4],
                base=base,
                seed=7,
                out_dir=concept,
            )
        out_dir = tmp_path / f"drawn-{len(list(tmp_path.iterdir()))}"
        out_dir.mkdir()
        done = sampling.run(
            SamplingConfig(**settings),
            class_id=name,
            class_name=name,
            prompt=f"photo of a {name} child",
            concept_dir=concept,
            base=base,
            seed=7,
            out_dir=out_dir,
            landmark_model=landmark_model,
        )
        rows = pq.read_table(out_dir / "samples.parquet").to_pylist()
        assert done["faces"] == sum(row["face"] for row in rows)
        assert len(list((out_dir / "images").iterdir())) == len(rows)
        return rows

    return run


def test_without_faces_the_cap_ends_it(draw, tiny_base):
    """Noise has no face: all that may be drawn is drawn, kept and counted."""
    rows = draw(str(tiny_base), images_per_class=4, oversample=1.7, steps=1, batch_size=3)
    assert [row["index"] for row in rows] == list(range(7))
    assert not any(row["face"] for row in rows)


def test_with_faces_no_more_are_drawn_than_wanted(draw):
    settings = {"images_per_class": 5, "steps": 8, "guidance_scale": 2.0, "scheduler": "base"}
    rows = draw("embedded", **settings, oversample=3.0)
    assert sum(row["face"] for row in rows) == 5
    # The last has a face, or it was drawn together with others that were missing.
    assert 5 <= len(rows) < 15


def test_which_images_are_drawn_does_not_hang_on_the_batch(draw, tiny_base):
    some, others = (
        draw(str(tiny_base), images_per_class=5, oversample=1.3, steps=1, batch_size=batch_size)
        for batch_size in (1, 4)
    )
    known = ("index", "seed", "prompt", "face")
    assert [[row[k] for k in known] for row in some] == [[row[k] for k in known] for row in others]


def test_words_vary_with_the_seed_of_the_image_alone(draw, tiny_base):
    rows = draw(str(tiny_base), images_per_class=12, oversample=1, steps=1, vary=VARY)
    endings = [tuple(row["prompt"].split(", ")[1:]) for row in rows]
    assert {age for age, _ in endings} == set(VARY["age"])
    assert {light for _, light in endings} == set(VARY["light"])
    settings = SamplingConfig(vary=VARY)
    for row, ending in zip(rows, endings, strict=True):
        again = sampling.varied_prompt(settings, "x", row["seed"])
        assert tuple(again.split(", ")[1:]) == ending


@pytest.mark.parametrize(
    ("share", "sizes"), [(1.0, [4, 4, 4]), (0.5, [4, 4, 2]), (0.3, [4, 2, 2]), (1e-3, [4, 2, 2])]
)
def test_steps_without_guidance_run_the_network_once(draw, tiny_base, share, sizes):
    """Two images of three steps: with guidance each is in the batch twice."""
    seen = []
    unet = load_base(resolve_base(str(tiny_base))).pipeline.unet
    hook = unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        draw(
            str(tiny_base),
            images_per_class=2,
            oversample=1,
            steps=3,
            scheduler="base",
            guided_share=share,
        )
    finally:
        hook.remove()
    assert seen[-3:] == sizes


def _stops(kind, scheduler, steps=8):
    """The times at which a sampler of a base with such a schedule runs the network."""
    sampler = schedulers.new_scheduler(scheduler, kind)
    return schedulers.stops(sampler, steps), sampler


def test_where_the_schedule_ends_without_signal_the_first_steps_are_short():
    """And there alone; the embedded base's ends so, Stable Diffusion 1.5's does not."""
    bare = load_base(resolve_base("embedded")).pipeline.scheduler
    stops, sampler = _stops("dpmsolver++", bare)
    assert stops[0] == 999
    assert stops == sorted(set(stops), reverse=True)
    steps = -np.diff([*stops, 0])
    assert all(before < after for before, after in pairwise(steps))
    sampler.set_timesteps(timesteps=stops)
    assert torch.isfinite(sampler.sigmas).all()
    assert _stops("ddim", bare)[0] is None
    usual = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    stops, sampler = _stops("dpmsolver++", usual)
    assert stops is None
    assert sampler.config.solver_order == 2


@pytest.mark.parametrize("steps", [1, 30, 100, 1000])
def test_no_time_comes_twice(steps):
    """Two steps at one time would divide by their distance."""
    stops, _ = _stops("dpmsolver++", load_base(resolve_base("embedded")).pipeline.scheduler, steps)
    assert len(set(stops)) == len(stops) == steps
    assert stops == sorted(stops, reverse=True)
    assert stops[-1] >= 0


def test_short_first_steps_end_nearer_to_where_many_lead():
    """The embedded base by itself: eight steps against sixty."""
    loaded = load_base(resolve_base("embedded"))
    drawn = [sampling._Drawn(n, n, "photo of a child") for n in range(6)]

    def pictures(steps, stops=True):
        settings = SamplingConfig(steps=steps, guidance_scale=3.0)
        sampler = sampling._Sampler(settings, loaded, loaded.pipeline)
        if not stops:
            sampler._stops = None
        return np.stack([np.asarray(image, np.float32) for image in sampler(drawn)])

    many = pictures(60)

    def error(some):
        return float(np.sqrt(((some - many) ** 2).mean()))

    assert error(pictures(8)) < 0.7 * error(pictures(8, stops=False))


@pytest.mark.parametrize("most", [2, 1, 0])
def test_too_little_memory_draws_one_by_one(draw, tiny_base, monkeypatch, caplog, most):
    """As a GPU would say it; the pictures stay the same."""
    whole = sampling._Sampler._draw
    sizes = []

    def drawn(self, wanted):
        sizes.append(len(wanted))
        if len(wanted) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, wanted)

    settings = {"images_per_class": 4, "oversample": 1, "steps": 1, "batch_size": 2}
    before = draw(str(tiny_base), **settings)
    monkeypatch.setattr(sampling._Sampler, "_draw", drawn)
    if most == 0:
        with pytest.raises(StageError, match=r"^[^\n]*memory is too small[^\n]*$"):
            draw(str(tiny_base), **settings)
        return
    after = draw(str(tiny_base), **settings)
    assert [row["seed"] for row in before] == [row["seed"] for row in after]
    assert sizes == ([2, 2] if most == 2 else [2, 1, 1, 1, 1])
    assert ("one by one" in caplog.text) == (most == 1)


def test_memory_that_is_not_there_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
