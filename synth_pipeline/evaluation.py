"""Ask a recogniser's folds about the held-out real photos, and keep what they say."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from synth_pipeline.config import RecognitionConfig
from synth_pipeline.errors import InputError
from synth_pipeline.fold_training import best_device, predict, recogniser
from synth_pipeline.picture_store import PictureStore, decoded
from synth_pipeline.shifts import SHIFTS, shifted


def run(
    config: RecognitionConfig,
    *,
    backbone: str,
    regime: str,
    scale: int | None,
    classes: Sequence[str],
    fold_dirs: Sequence[Path],
    test: Sequence[tuple[str, str, Path]],
    out_dir: Path,
    pictures: PictureStore | None = None,
) -> dict[str, float]:
    """Write `predictions.parquet`, `shifts.parquet` and `classes.json`.

    `shifts.parquet` holds what the folds say of the same photos blurred, compressed, darkened,
    rotated and cropped (`shifts`): the rank of the true class, 1 the best; a tie counts against it.

    Args:
        config: as the folds were trained with.
        backbone: timm name.
        regime: what the folds were trained on.
        scale: number of synthetic images, or none for the regime `real`.
        classes: the order of the head's outputs.
        fold_dirs: `training` artifacts, by fold.
        test: (case id, class id, file) of the held-out photos.
        out_dir: an empty folder.
        pictures: where decoded pictures are kept; none decodes them into memory.

    Returns:
        The number of test images and the mean Top-1.

    Raises:
        InputError: no photo is held out.
    """
    if not test:
        raise InputError(
            "No photo is held out, so nothing can be evaluated; raise cases.test_fraction, or add "
            "photos: a class of one is for training only."
        )
    files = [path for _, _, path in test]
    kept = pictures.pictures(files, config.size_px) if pictures else decoded(files, config.size_px)
    photos = kept.all()
    changed = {name: torch.from_numpy(shifted(photos.numpy(), name)) for name in SHIFTS}
    true_N = np.array([classes.index(class_id) for _, class_id, _ in test])
    model, norm = recogniser(config, backbone, len(classes), pretrained=False)
    model.to(best_device(), memory_format=torch.channels_last)
    rows, shift_rows = [], []
    right = 0
    for fold, folder in enumerate(fold_dirs):
        trained_on = json.loads((folder / "fold.json").read_bytes())
        model.load_state_dict(load_file(folder / "model.safetensors"))
        probabilities_NK = predict(model, photos, norm, config.batch_size).softmax(1).numpy()
        for (case_id, class_id, _), row in zip(test, probabilities_NK, strict=True):
            right += classes[int(row.argmax())] == class_id
            rows.append(
                {
                    "backbone": backbone,
                    "regime": regime,
                    "scale": scale,
                    # How many images a fold could learn from, validation included.
                    "images": trained_on["training_images"] + trained_on["validation_images"],
                    "fold": fold,
                    "case_id": case_id,
                    "class_id": class_id,
                    "true_index": classes.index(class_id),
                    "probabilities": row,
                }
            )
        for name, worse in changed.items():
            said_NK = predict(model, worse, norm, config.batch_size).numpy()
            ranks_N = (said_NK >= said_NK[np.arange(len(test)), true_N][:, None]).sum(1)
            for (case_id, _, _), rank in zip(test, ranks_N.tolist(), strict=True):
                shift_rows.append(
                    {
                        "backbone": backbone,
                        "regime": regime,
                        "scale": scale,
                        "shift": name,
                        "fold": fold,
                        "case_id": case_id,
                        "true_class_rank": rank,
                    }
                )
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), out_dir / "predictions.parquet")
    pq.write_table(pa.Table.from_pylist(shift_rows, _SHIFTS), out_dir / "shifts.parquet")
    (out_dir / "classes.json").write_text(json.dumps(list(classes), indent=1) + "\n")
    return {"test_images": len(test), "top1": right / len(rows)}


_SHIFTS = pa.schema(
    [
        ("backbone", pa.string()),
        ("regime", pa.string()),
        ("scale", pa.int32()),
        ("shift", pa.string()),
        ("fold", pa.int32()),
        ("case_id", pa.string()),
        ("true_class_rank", pa.int32()),
    ]
)
_SCHEMA = pa.schema(
    [
        ("backbone", pa.string()),
        ("regime", pa.string()),
        ("scale", pa.int32()),
        ("images", pa.int32()),
        ("fold", pa.int32()),
        ("case_id", pa.string()),
        ("class_id", pa.string()),
        ("true_index", pa.int32()),
        ("probabilities", pa.list_(pa.float32())),
    ]
)
