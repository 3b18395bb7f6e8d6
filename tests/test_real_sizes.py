"""The architecture of Stable Diffusion 1.5 at its real sizes, with random weights.

Slow and large (about five minutes and 20 GB on two cores), so it runs when asked for:
`make test-slow`.
"""

import numpy as np
import pytest
from PIL import Image

from benchmarks.phantoms import find_landmarks
from benchmarks.random_base import write_random_base
from synth_pipeline import dreambooth, sampling
from synth_pipeline.base_model import resolve_base
from synth_pipeline.config import load_config
from synth_pipeline.loaded_base import load_base
from tests.command_line import ROOT


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    return write_random_base(tmp_path_factory.mktemp("sd"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rdface", "rdface-published"])
def test_a_step_of_training_and_one_of_sampling(
    name, stable_diffusion, phantom_files, landmark_model, tmp_path
):
    config = load_config(ROOT / "configs" / f"{name}.yaml", ["cases.source=."])
    base = resolve_base(str(stable_diffusion))
    tuning = config.dreambooth.model_copy(
        update={"steps": 1, "gradient_checkpointing": True, "precision": "fp32"}
    )
    concept, samples, found = (tmp_path / each for each in ("concept", "samples", "landmarks"))
    for folder in (concept, samples, found):
        folder.mkdir()
    class_id, images = next(iter(phantom_files.items()))
    points_px = find_landmarks(images[:2], landmark_model, found, class_id, real_photos=True)
    who = {"class_id": class_id, "class_name": class_id, "base": base, "seed": 0}
    dreambooth.run(tuning, images=images[:2], points_px=points_px, out_dir=concept, **who)
    drawing = config.sampling.model_copy(update={"images_per_class": 1, "steps": 1})
    sampling.run(drawing, prompt="photo of a child", concept_dir=concept, out_dir=samples, **who)
    load_base.cache_clear()
    with Image.open(samples / "images" / "00000.png") as image:
        assert image.size == (512, 512)
        assert np.asarray(image).std() > 0
