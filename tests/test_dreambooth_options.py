"""What may be asked of a fine-tuning beside the plain way: each option does what it says."""

import gc
import json
import weakref

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file

from synth_pipeline import concept_learning, dreambooth, sampling
from synth_pipeline.adapters import apply, attention_layers, block_layers
from synth_pipeline.base_model import resolve_base
from synth_pipeline.concept_data import prior_latents, token_ids
from synth_pipeline.config import DreamBoothConfig, SamplingConfig
from synth_pipeline.diffusion import Noiser
from synth_pipeline.errors import ClassFailedError, StageError
from synth_pipeline.loaded_base import load_base, load_pipeline
from synth_pipeline.trainers import WEIGHTS, load_adapters

SETTINGS = DreamBoothConfig(
    steps=8, learning_rate=1e-3, batch_size=2, rank=2, lora_targets="all", checkpoint_steps=3
)
# A rate at which a wrong step is seen, and rounding, which Adam makes larger, is not.
CLOSE = {"rtol": 0, "atol": 2e-4}


@pytest.fixture
def base(tiny_base):
    return resolve_base(str(tiny_base))


@pytest.fixture
def learn(base, phantom_files, tmp_path):
    """Learn classes in one batch; returns the outcomes and each class's adapters."""

    def run(folder, config=SETTINGS, classes=None, base=base, work=False, **options):
        concepts = []
        for name in classes or list(phantom_files):
            out_dir, work_dir = tmp_path / folder / name, tmp_path / f"{folder}-work" / name
            out_dir.mkdir(parents=True, exist_ok=True)
            work_dir.mkdir(parents=True, exist_ok=True)
            images = phantom_files[name][:4]
            concepts.append(
                dreambooth.Concept(name, name, images, out_dir, work_dir if work else None)
            )
        return dreambooth.run_together(config, concepts, base=base, seed=7, **options), {
            concept.class_id: load_file(concept.out_dir / WEIGHTS)
            for concept in concepts
            if (concept.out_dir / WEIGHTS).exists()
        }

    return run


def assert_same(some, others, **tolerance):
    assert some.keys() == others.keys()
    for name in some:
        torch.testing.assert_close(some[name], others[name], **(tolerance or CLOSE))


def moved(adapters):
    return max(float(v.abs().max()) for name, v in adapters.items() if "lora_B" in name)


def test_concepts_in_one_batch_learn_what_they_learn_alone(learn, phantom_files):
    _, together = learn("together")
    assert len(together) == 3
    for name in phantom_files:
        alone = learn(f"alone-{name}", classes=[name])[1][name]
        assert_same(together[name], alone)
        assert moved(alone) > 10 * CLOSE["atol"]
    first, second, _ = together.values()
    assert any(not torch.allclose(first[n], second[n], atol=1e-3) for n in first)


def test_one_that_fails_does_not_take_the_others_along(learn, phantom_files, monkeypatch):
    broken, *sound = phantom_files
    whole = concept_learning.Learning._draw

    def draw(self, number, count, step):
        drawn = whole(self, number, count, step)
        if self.learners[number].class_id == broken and step == 5:
            drawn[0] = (drawn[0][0] * float("nan"), *drawn[0][1:])
        return drawn

    expected = learn("sound", classes=sound)[1]
    monkeypatch.setattr(concept_learning.Learning, "_draw", draw)
    outcomes, adapters = learn("all", work=True)
    assert isinstance(outcomes[broken], StageError)
    assert "step 6" in str(outcomes[broken])
    assert set(adapters) == set(sound)
    for name in sound:
        assert_same(adapters[name], expected[name])


def test_a_class_without_a_picture_is_left_out(learn, phantom_files, tmp_path):
    name = next(iter(phantom_files))
    (tmp_path / "torn.png").write_bytes(b"no picture")
    phantom_files = {**phantom_files, name: [tmp_path / "torn.png"]}
    concepts = []
    for each, images in phantom_files.items():
        out_dir = tmp_path / "out" / each
        out_dir.mkdir(parents=True)
        concepts.append(dreambooth.Concept(each, each, images[:4], out_dir))
    base = resolve_base("embedded")
    quick = SETTINGS.model_copy(update={"steps": 1})
    done = dreambooth.run_together(quick, concepts, base=base, seed=7)
    assert isinstance(done.pop(name), ClassFailedError)
    assert all(each["concepts_at_once"] == 2 for each in done.values())


def test_killed_concepts_go_on_together(learn):
    _, whole = learn("whole", work=True)

    def until(done, total, note):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn("killed", work=True, progress=until)
    steps = []
    _, again = learn("killed", work=True, progress=lambda done, *_: steps.append(done))
    assert steps == [7, 8]
    for name in whole:
        assert_same(again[name], whole[name], rtol=0, atol=0)


def test_what_is_in_the_memory_at_a_time_changes_nothing(learn, phantom_files):
    name = next(iter(phantom_files))
    four = SETTINGS.model_copy(update={"batch_size": 4})
    halves = SETTINGS.model_copy(update={"batch_size": 2, "gradient_accumulation": 2})
    saving = four.model_copy(update={"gradient_checkpointing": True})
    whole = learn("four", four, [name])[1][name]
    assert_same(learn("halves", halves, [name])[1][name], whole)
    assert_same(learn("saving", saving, [name])[1][name], whole)


def test_too_little_memory_halves_the_batch_once(learn, phantom_files, monkeypatch):
    """The first attempt finds no memory, as a GPU would say it; the second, with less, does."""
    expected = learn("expected")[1]
    seen = []
    whole = concept_learning.Learning._backward
    failed: list[weakref.ref] = []

    def backward(self, step, rows, learn):
        # What one attempt had in the memory is out of it when the next one begins.
        assert not [each for each in failed if each() not in (None, self)]
        failed.append(weakref.ref(self))
        seen.append(len(self.learners) * rows)
        if len(self.learners) * rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, step, rows, learn)

    monkeypatch.setattr(concept_learning.Learning, "_backward", backward)
    most = 4
    outcomes, adapters = learn("half")
    assert {6, 4, 2} == set(seen)
    for name in expected:
        assert_same(adapters[name], expected[name])
    most = 1
    outcomes, _ = learn("none", classes=list(phantom_files)[:1])
    assert not [o for o in outcomes.values() if isinstance(o, StageError)]
    most = 0
    outcomes, _ = learn("nothing")
    assert len(outcomes) == 3
    for outcome in outcomes.values():
        assert "memory is too small" in str(outcome)


def test_a_training_leaves_nothing_in_the_memory(learn, monkeypatch):
    begun = []
    begin = concept_learning.Learning.__init__

    def remembered(self, *arguments):
        begin(self, *arguments)
        begun.extend(weakref.ref(each) for each in (self, self.optimiser.optimizer))

    monkeypatch.setattr(concept_learning.Learning, "__init__", remembered)
    gc.disable()
    try:
        learn("learned")
        assert [each() for each in begun] == [None, None]
    finally:
        gc.enable()


def test_adapters_on_the_text_encoder_come_back(learn, tiny_base, phantom_files, base):
    config = SETTINGS.model_copy(update={"lora_text_encoder": True, "lora_targets": "attention"})
    name = next(iter(phantom_files))
    saved = learn("text", config)[1][name]
    assert moved({n: v for n, v in saved.items() if n.startswith("text_encoder.")}) > 1e-3
    pipeline = load_pipeline(tiny_base)
    pipeline.load_lora_weights(dict(saved))
    for part in ("unet", "text_encoder"):
        theirs = sorted(
            float(p.detach().norm())
            for n, p in getattr(pipeline, part).named_parameters()
            if "lora_" in n
        )
        ours = sorted(float(v.norm()) for n, v in saved.items() if n.startswith(f"{part}."))
        assert theirs == ours


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_our_way_of_putting_adapters_on_is_diffusers(
    learn, tiny_base, tmp_path, targets, phantom_files
):
    config = SETTINGS.model_copy(
        update={"lora_targets": targets, "lora_text_encoder": True, "learning_rate": 1e-2}
    )
    name = next(iter(phantom_files))
    saved = learn("concept", config)[1][name]
    ours, theirs, plain = (load_pipeline(tiny_base) for _ in range(3))
    taken_off = [
        apply(getattr(ours, network), layers)
        for network, layers in load_adapters(tmp_path / "concept" / name).items()
    ]
    theirs.load_lora_weights(dict(saved))

    def predict(pipeline):
        ids = torch.arange(pipeline.tokenizer.model_max_length)[None]
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, 4, 16, 16, generator=generator)
        with torch.no_grad():
            return pipeline.unet(x, torch.tensor([500]), pipeline.text_encoder(ids)[0]).sample

    torch.testing.assert_close(predict(ours), predict(theirs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(predict(ours), predict(plain), rtol=1e-3, atol=1e-3)
    for take_off in taken_off:
        take_off()
    assert torch.equal(predict(ours), predict(plain))


def test_which_layers_are_adapted():
    pipeline = load_pipeline(resolve_base("embedded").folder)
    attention, all_of_them = attention_layers(pipeline.unet), block_layers(pipeline.unet)
    assert set(attention) < set(all_of_them)
    assert {name.split(".")[-1] for name in attention} == {"to_q", "to_k", "to_v", "0"}
    assert not [name for name in all_of_them if name.startswith(("conv_in", "conv_out", "time"))]
    assert len(attention_layers(pipeline.text_encoder)) == 4 * 3


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_is_the_papers_by_how_often_a_time_is_drawn(kind):
    scheduler = DDIMScheduler(prediction_type=kind, beta_schedule="scaled_linear")
    shape = (1000, 2, 3, 3)
    latents, noise, predicted = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    # An error that grows with the time, so that it matters which times are drawn.
    predicted *= torch.linspace(0, 3, 1000)[:, None, None, None]
    plain, min_snr = Noiser(scheduler, None), Noiser(scheduler, 5.0)
    signal = scheduler.alphas_cumprod
    snr = signal / (1 - signal)
    # Hang et al. 2023: the loss on the clean picture weighs min(SNR, 5); on the noise that is
    # divided by the SNR, on the velocity by SNR + 1.
    weight = torch.minimum(snr, torch.tensor(5.0)) / (snr if kind == "epsilon" else snr + 1)
    weighted = plain.loss(predicted, latents, noise, torch.arange(1000)) * weight
    at = min_snr.times([(n + 0.5) / 50_000 for n in range(50_000)])
    drawn = min_snr.loss(predicted[at], latents[at], noise[at], at)
    torch.testing.assert_close(drawn.mean(), weighted.mean(), rtol=2e-3, atol=0)
    often = torch.bincount(at, minlength=1000) / len(at)
    torch.testing.assert_close(often, weight / weight.sum(), rtol=0, atol=1.01 / len(at))


def test_without_min_snr_times_are_drawn_alike():
    noiser = Noiser(DDIMScheduler(), None)
    shares = [0.0, 0.12345, 0.5005, 0.9995, 1 - 2**-53]
    assert noiser.times(shares).tolist() == [0, 123, 500, 999, 999]


def test_min_snr_bears_pure_noise():
    """A time without any signal is not divided by; as a velocity it is never drawn."""
    for kind in ("epsilon", "v_prediction"):
        noiser = Noiser(DDIMScheduler(prediction_type=kind, rescale_betas_zero_snr=True), 5.0)
        x = torch.ones(1, 8, 4, 4)
        last = noiser.times([1 - 2**-53])
        assert torch.isfinite(noiser.loss(x, x, x, last)).all()
        assert torch.isfinite(noiser.weights).all()


def test_the_average_lies_between_where_it_began_and_where_it_ended(learn, phantom_files):
    name = next(iter(phantom_files))
    last = learn("last", classes=[name])[1][name]
    averaged = SETTINGS.model_copy(update={"ema_decay": 0.9})
    mean = learn("mean", averaged, [name])[1][name]
    assert 0 < moved(mean) < moved(last)


def test_prior_preservation_keeps_what_the_base_knew(learn, phantom_files, tmp_path):
    """With class images beside, the concept still denoises them; without, it forgets them."""
    embedded = resolve_base("embedded")
    name = next(iter(phantom_files))
    config = SETTINGS.model_copy(
        update={"steps": 30, "learning_rate": 3e-3, "rank": 8, "class_images": 6}
    )
    made = tmp_path / "class-images"
    made.mkdir()
    drawing = SamplingConfig(steps=8, batch_size=6, guidance_scale=2.0, scheduler="base")
    sampling.run_class_images(config, drawing, base=embedded, seed=7, out_dir=made)
    loaded = load_base(embedded)
    latents = prior_latents(loaded, embedded.identity, made, loaded.resolution_px).mean
    assert len(latents) == 6

    def lost():
        noiser = Noiser(loaded.pipeline.scheduler, None)
        at = torch.linspace(100, 900, len(latents)).long()
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            words = loaded.pipeline.text_encoder(token_ids(loaded.pipeline, ["photo of a child"]))[
                0
            ]
            x = noiser.noised(latents, noise, at)
            predicted = loaded.pipeline.unet(x, at, words.expand(len(x), -1, -1)).sample
        return float(noiser.loss(predicted, latents, noise, at).mean())

    losses = [lost()]
    for weight in (0.0, 1.0):
        asked = config.model_copy(update={"prior_weight": weight})
        learn(f"weight-{weight}", asked, [name], base=embedded, class_images=made)
        concept = load_adapters(tmp_path / f"weight-{weight}" / name)
        take_off = apply(loaded.pipeline.unet, concept["unet"])
        losses.append(lost())
        take_off()
    before, without, preserved = losses
    assert without > before
    assert preserved < before + 0.5 * (without - before)


def test_half_precision_learns_and_samples(tiny_base, phantom_files, tmp_path, learn):
    """On the processor, as a GPU that computes with bf16 would."""
    base = resolve_base(str(tiny_base), precision="bf16")
    name = next(iter(phantom_files))
    config = SETTINGS.model_copy(update={"precision": "bf16"})
    _, adapters = learn("half", config, base=base)
    assert load_base(base).pipeline.unet.dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in adapters[name].values())
    assert_same(adapters[name], learn("whole")[1][name], rtol=0, atol=1e-2)
    out_dir = tmp_path / "samples"
    out_dir.mkdir()
    done = sampling.run(
        SamplingConfig(images_per_class=2, steps=2),
        class_id=name,
        class_name=name,
        prompt=f"photo of a {name} child",
        concept_dir=tmp_path / "half" / name,
        base=base,
        seed=7,
        out_dir=out_dir,
    )
    assert done["images_per_s"] > 0


def test_the_card_names_all_settings(learn, phantom_files, tmp_path):
    name = next(iter(phantom_files))
    learn("card", classes=[name])
    card = json.loads((tmp_path / "card" / name / "card.json").read_text())
    assert card["settings"]["rank"] == 2
    assert card["settings"]["lora_targets"] == "all"
    assert "concepts_at_once" not in card["settings"]
    assert np.isfinite(card["last_loss"])


def test_one_small_picture_is_enough_and_is_said(base, tmp_path, caplog, phantom_files):
    with Image.open(next(iter(phantom_files.values()))[0]) as picture:
        picture.resize((20, 16)).save(tmp_path / "small.png")
    out_dir = tmp_path / "concept"
    out_dir.mkdir()
    concept = dreambooth.Concept("dofanu", "dofanu", [tmp_path / "small.png"], out_dir)
    with caplog.at_level("INFO", "synth_pipeline"):
        done = dreambooth.run_together(SETTINGS, [concept], base=base, seed=7)
    assert not isinstance(done["dofanu"], Exception)
    assert "1 of 1 photos are smaller than 32 px" in caplog.text
