"""Draw `quickstart.png` from a finished quickstart: `python docs/images/make_quickstart.py`.

Each row is a condition: what it was learned from on the left, what was made of it on the right.
Everybody in it is procedural; no pixel comes from a person.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pyarrow.parquet as pq
from PIL import Image

from synth_pipeline import cases, selection, synthetic_set
from synth_pipeline.config import load_config
from synth_pipeline.study import Study

_SHOWN = 4


def draw(root: Path, out_file: Path, rows: int = 5) -> None:
    """Draw the first `rows` conditions beside the accuracies of every run."""
    study = Study(load_config(root / "studies" / "quickstart" / "config.resolved.yaml"), root)
    case_set = cases.load(study.graph.artifact(study.cases()).path)
    classes = list(case_set.classes)
    picks = selection.load(study.graph.artifact(study.selection(classes)).path)
    lines = []
    for class_id in classes[:rows]:
        samples = synthetic_set.load(study.graph.artifact(study.sampling(class_id)).path)
        chosen = [pick for pick in picks[max(picks)] if pick.class_id == class_id]
        chosen.sort(key=lambda pick: -pick.cosine)
        real = [case.path for case in case_set.train(class_id)[:_SHOWN]]
        lines.append((real, [samples[pick.index].path for pick in chosen[:_SHOWN]]))
    figure, axes = plt.subplots(
        1, 3, figsize=(13, 4.6), layout="constrained", width_ratios=(1, 1, 1.1)
    )
    titles = ("learned from (procedural faces)", "generated, the best by landmarks")
    for side, title in enumerate(titles):
        axes[side].imshow(_montage([line[side] for line in lines]))
        axes[side].set_title(title)
        axes[side].axis("off")
    _accuracies(axes[2], root / "studies" / "quickstart" / "scores.parquet")
    figure.savefig(out_file, dpi=80)


def _montage(lines: list[list[Path]], size_px: int = 128) -> Image.Image:
    sheet = Image.new("RGB", (_SHOWN * size_px, len(lines) * size_px), "white")
    for row, paths in enumerate(lines):
        for column, path in enumerate(paths):
            with Image.open(path) as picture:
                sheet.paste(picture.convert("RGB"), (column * size_px, row * size_px))
    return sheet


def _accuracies(axis: plt.Axes, table: Path) -> None:
    rows = [row for row in pq.read_table(table).to_pylist() if row["metric"] == "top1"]
    names = [f"{row['regime']}\n{row['images']} images" for row in rows]
    means = [100 * row["mean"] for row in rows]
    spread = [
        [100 * (row["mean"] - row["low"]) for row in rows],
        [100 * (row["high"] - row["mean"]) for row in rows],
    ]
    colours = ["#888888" if row["regime"] == "real" else "#0072B2" for row in rows]
    axis.bar(names, means, yerr=spread, color=colours, capsize=4)
    axis.axhline(100 / rows[0]["classes"], color="#D55E00", ls=":", label="chance")
    axis.set_ylabel("Top-1 on held-out faces, %")
    axis.set_title("recognisers, with 95 % intervals")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if sys.argv[1:] else "quickstart")
    draw(folder, Path(__file__).parent / "quickstart.png")
