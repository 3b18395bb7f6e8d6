"""The tuned protocol: augmentation, balance, averages, rates by layer, early stop."""

import numpy as np
import pytest
import torch

from synth_pipeline import backbones, training
from synth_pipeline.augmentation import augmented, draws
from synth_pipeline.config import RecognitionConfig
from synth_pipeline.errors import InputError
from synth_pipeline.fold_state import Averages
from synth_pipeline.picture_store import decoded
from synth_pipeline.protocols import PROTOCOLS, parameter_groups, rate_of_step
from synth_pipeline.recognition_data import Example
from tests.command_line import ROOT

CONFIG = RecognitionConfig(
    pretrained=False,
    protocol="tuned",
    folds=2,
    epochs=4,
    batch_size=4,
    learning_rate=3e-3,
    dropout=0.0,
    size_px=48,
)


@pytest.fixture
def prepare(phantom_files):
    def make(config=CONFIG, sizes=(6, 6, 2)):
        examples = [
            Example(path, name, f"{name}/{n}", False)
            for size, (name, paths) in zip(sizes, phantom_files.items(), strict=True)
            for n, path in enumerate(paths[:size])
        ]
        return training.prepared(
            config,
            backbone="test_resnet",
            classes=sorted(phantom_files),
            examples=examples,
            fold=0,
            seed=2,
        )

    return make


@pytest.fixture
def pictures(phantom_files):
    return decoded(next(iter(phantom_files.values())), 64).all().float() / 255


def test_a_picture_changes_a_little_and_whatever_its_batch(pictures):
    drawn = draws([(7, n) for n in range(len(pictures))])
    whole = augmented(pictures, drawn, flips=False)
    alone = torch.cat(
        [augmented(x[None], d[None], flips=False) for x, d in zip(pictures, drawn, strict=True)]
    )
    assert torch.allclose(whole, alone, atol=1e-5)
    apart = (whole - pictures).abs().mean((1, 2, 3))
    assert (apart > 0.005).all()
    assert (apart < 0.3).all()
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert not torch.equal(draws([(7, 0)]), draws([(7, 1)]))


def test_nothing_is_mirrored_unless_asked_for():
    # Bright on the left: turned and moved as much as may be, it stays there.
    half = torch.zeros(200, 3, 32, 32)
    half[..., :16] = 0.6
    drawn = draws([(1, n) for n in range(200)])
    left = augmented(half, drawn, flips=False)
    assert (left[..., :8].mean((1, 2, 3)) > left[..., 24:].mean((1, 2, 3))).all()
    either = augmented(half, drawn, flips=True)
    mirrored = (either[..., :8].mean((1, 2, 3)) < either[..., 24:].mean((1, 2, 3))).float().mean()
    assert 0.35 < mirrored < 0.65


def test_each_class_is_shown_equally_often(prepare):
    fold = prepare()
    shown = torch.bincount(fold.fold.labels[fold._order(0)], minlength=3)
    assert len(fold._order(0)) == len(fold.fold.train_idx)
    assert shown.max() - shown.min() <= 1
    assert set(fold._order(0)) <= set(fold.fold.train_idx)
    assert not np.array_equal(fold._order(0), fold._order(1))
    published = prepare(CONFIG.model_copy(update={"protocol": "published"}))
    assert sorted(published._order(0)) == sorted(published.fold.train_idx)


def test_a_class_that_a_fold_does_not_show_is_no_matter(prepare):
    # One photo: in one of the two folds it is validated and so not learned.
    for protocol in ("published", "tuned"):
        settings = CONFIG.model_copy(update={"protocol": protocol, "epochs": 2})
        fold = prepare(settings, sizes=(4, 4, 1))
        state = fold.run(None, lambda *_: None)
        assert len(state.history) == 2
        assert state.kept["fc.weight"].shape[0] == 3


def test_one_picture_to_learn_from_is_one_sentence(prepare):
    with pytest.raises(InputError, match="has 1 image to learn from"):
        prepare(sizes=(1, 1, 0))


def test_the_rate_rises_and_falls_to_a_hundredth():
    tuned = [rate_of_step(PROTOCOLS["tuned"], step, 100) for step in range(100)]
    assert tuned[0] < 0.3
    assert max(tuned) == pytest.approx(1, abs=0.01)
    assert tuned[-1] < 0.02
    published = [rate_of_step(PROTOCOLS["published"], step, 100) for step in (0, 50, 100)]
    assert published == pytest.approx([1, 0.505, 0.01])


@pytest.mark.parametrize("head", ["linear", "se"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "facenet"])
def test_the_first_layer_learns_slowest(name, head):
    model, _ = backbones.create(
        name, classes=3, pretrained=False, dropout=0.0, head=head, size_px=96
    )
    groups = parameter_groups(model, 0.1, stem_rate=0.3)
    of = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(of) == len(list(model.parameters()))
    parameters = list(model.parameters())
    assert min(of.values()) == pytest.approx(0.3)
    assert of[id(parameters[-1])] == pytest.approx(1)


def test_averages_follow_and_swap_back():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    averages = Averages(model, horizon=10)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for step in range(100, 200):
        averages.follow(step)
    assert averages.values["weight"].item() == pytest.approx(1 - 0.9**100)
    averages.values["weight"].fill_(0.25)
    averages.swap()
    assert model.weight.item() == 0.25
    averages.swap()
    assert model.weight.item() == 1.0


def test_it_stops_when_the_validation_loss_no_longer_falls(prepare):
    fold = prepare(CONFIG.model_copy(update={"epochs": 40, "learning_rate": 0.03}))
    history = fold.run(None, lambda *_: None).history
    losses = [loss for _, _, loss, _ in history]
    if len(history) < 40:
        assert len(history) - 1 - int(np.argmin(losses)) == 12
    assert fold.state.kept_epoch == int(np.argmin(losses)) + 1


def test_the_whole_table_is_planned():
    from synth_pipeline.config import load_config
    from synth_pipeline.study import Study

    for name in ("rdface", "rdface-published"):
        config = load_config(ROOT / "configs" / f"{name}.yaml", ["cases.source=."])
        runs = Study(config, ROOT / "nowhere").runs([f"c{n}" for n in range(103)])
        # 6 backbones, real, and 5 scales of synthetic and of mixed.
        assert len(runs) == 6 * (1 + 5 + 5)
        assert config.recognition.folds == 5
