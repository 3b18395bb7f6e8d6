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


def draw(root: Path, out_file: Path, rows: int = 4) -> None:
    """Draw the first `rows` conditions beside the accuracies of every run."""
    study = Study(load_config(root / "studies" / "quickstart" / "config.resolved.yaml"), root)
    case_set = cases.load(study.graph.artifact(study.cases()).path)
    classes = list(case_set.classes)
    picks = selection.load(study.graph.artifact(study.selection(classes)).path)
    figure = plt.figure(figsize=(13, 5.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.55, 1))
    axes = left.subplots(rows, 2 * _SHOWN)
    for line, class_id in zip(axes, classes, strict=False):
        samples = synthetic_set.load(study.graph.artifact(study.sampling(class_id)).path)
        chosen = [pick for pick in picks[max(picks)] if pick.class_id == class_id]
        chosen.sort(key=lambda pick: -pick.cosine)
        made = [samples[pick.index].path for pick in chosen[:_SHOWN]]
        for axis in line:
            axis.axis("off")
        real = [case.path for case in case_set.train(class_id)[:_SHOWN]]
        for axis, path in zip(line, [*real, *made], strict=False):
            with Image.open(path) as picture:
                axis.imshow(picture.convert("RGB"))
    axes[0, 0].set_title("learned from", loc="left")
    axes[0, _SHOWN].set_title("generated, best by landmarks", loc="left")
    _accuracies(right.subplots(), root / "studies" / "quickstart" / "scores.parquet")
    figure.savefig(out_file, dpi=80)


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
