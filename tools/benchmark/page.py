"""results.json, prediction.json, evaluation.json of the scripts beside -> documentation/benchmarks.md and its picture.

Usage: page.py results.json prediction.json evaluation.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
PAGE, PICTURE = ROOT / "documentation" / "benchmarks.md", ROOT / "documentation" / "pictures" / "benchmark.png"
INTRODUCTION = """# Benchmarks

[Training](benchmarks_training.md) has a page of its own; [prediction](#prediction) and [evaluation](#evaluation) come
below.

## Planning and preprocessing

Planning and preprocessing against nnU-Net 2.8.1, both with their default options, on the same cases and the same
machine, in turn ({rounds} rounds; medians); but nnU-Net is given no more processes than there are CPUs instead of 8.
Memory is the peak of the sum over all processes of a command, shared pages counted once. A ratio is the peer's figure
divided by autoseg's: above 1, autoseg is faster or smaller.

```bash
bash tools/benchmark/run.sh --data DIR --rounds {rounds}
```

`DIR` holds the data sets named below in nnU-Net's layout; the CT volumes (three of 256 x 256 x 150 voxels, three of
288 x 264 x 160, three labels) are resampled from three real ones by the script. Machine: {cpus} CPUs ({cpu}),
{memory_gb} GB, Python {python}, PyTorch {torch}; nothing runs on a GPU.

autoseg also checks every file (truncation, checksums, geometry, label values) in the times below;
nnU-Net does so only when asked (`nnUNetv2_plan_and_preprocess --verify_dataset_integrity`), which it was not.
"""
PREDICTION = """
## Prediction

nnU-Net's own trained models, imported by `autoseg_import_model`; the same images, the same machine, in turn ({rounds}
rounds; medians), mirroring on; autoseg computed in {precision}, nnU-Net in float32 as it always does on a CPU, and with
the faster of two settings of its worker processes. "export" is the step from logits on the network's grid
(100 x 160 x 160) to labels on the image's (150 x 320 x 320) alone.

In 32-bit floats both programs leave the convolutions to the same library, and these are most of the time. autoseg gains
by the channels-last memory format, by showing two tiles or mirrored copies to the network at a time, by reading and
writing meanwhile, and by starting one process instead of three or more. In bf16, on CPUs that have it, no time was
measured. With weights, inputs and every layer's answer rounded to bf16 (`bf16_agreement.py`), the labels of the ten
hippocampus cases agree with nnU-Net's in float32 at 99.993 % of 637,947 voxels.

The spinal cord model was trained for two steps (each takes minutes on this machine): its labels are noise, half of all
voxels lie at a label edge, and nnU-Net's sums in 16 bits decide some of them otherwise, most of all where its Gaussian
weight is too small for 16 bits (below 6e-7: 18 % of the voxels; elsewhere 0.2 %). One round, with one reading and one
writing process of nnU-Net.

```bash
python tools/benchmark/prediction.py --data DIR --peer ENV
python tools/benchmark/bf16_agreement.py MODEL IMAGES LABELS_OF_NNUNET
```
"""
EVALUATION = """
## Evaluation

`autoseg_evaluate` against `nnUNetv2_evaluate_folder` on the same predictions: the true labels, moved by a few voxels,
one voxel in twenty lost. Wall time of the whole command with its start, in turn ({rounds} rounds; medians). nnU-Net
computes Dice, IoU and counts of voxels; autoseg these, three surface distances, surface Dice, volumes, and intervals.
{load}

nnU-Net's time on small volumes is mostly its start, once per process. On the CT volumes nnU-Net is faster: of autoseg's
processor time for one of them nine tenths go into distances between surfaces, and fewer than eight cases are scored by
one process.

```bash
python tools/benchmark/evaluation.py --data DIR --peer ENV
```
"""


def table(results: list[dict[str, Any]]) -> str:
    """Times, memory and ratios."""
    rows = ["| what | nnU-Net | autoseg | time ratio | memory ratio |", "| --- | --- | --- | --- | --- |"]
    for one in results:
        peer, own = (f"{one[f'{who}_seconds']:.3g} s, {one[f'{who}_peak_gb']:.2f} GB" for who in ("peer", "autoseg"))
        memory = "-" if one["memory_ratio"] is None else f"{one['memory_ratio']:.1f}"
        rows.append(f"| {one['name']} | {peer} | {own} | **{one['time_ratio']:.1f}** | {memory} |")
    return "\n".join(rows)


def accuracy(results: list[dict[str, Any]]) -> str:
    """How far results lie apart."""
    lines = ["| what | largest difference |", "| --- | --- |"]
    for one in results:
        if "largest_difference" in one:
            lines.append(f"| {one['name']} | {one['largest_difference']:.2g} of the largest value |")
        if "other_labels" in one:
            lines.append(f"| {one['name']} | {one['other_labels']:.3%} of voxels with another label |")
        for name, found in one.get("largest_differences", {}).items():
            lines.append(
                f"| {one['name'].partition(', ')[2]}, {name} | image {found['image']:.2g}, with the same data set "
                f"statistics {found['image_same_statistics']:.2g} (normalised units); "
                f"{found['labels']:.3%} of voxels with another label |"
            )
    return "\n".join(lines)


def prediction(results: list[dict[str, Any]]) -> list[str]:
    """The paragraphs on prediction."""
    rounds = sorted({len(one["rounds"]) for one in results})
    rows = [
        "| what | voxels with another label | nnU-Net with so many workers for reading and for writing |",
        "| --- | --- | --- |",
    ]
    for one in results:
        tried = one.get("peer_workers", {})
        workers = "; ".join(
            f"{name.replace('npp ', '').replace(' nps', ' and')}: {s:.0f} s" for name, s in tried.items()
        )
        rows.append(f"| {one['name']} | {one['other_labels']:.2g} | {workers or '-'} |")
    precisions = sorted({one["precision"] for one in results if "precision" in one})
    text = PREDICTION.format(rounds=" or ".join(map(str, rounds)), precision=" or ".join(precisions))
    return [text, table(results), "", *rows]


def evaluation(content: dict[str, Any]) -> list[str]:
    """The paragraphs on evaluation."""
    results = content["results"]
    cpus, loads = content["machine"]["cpus"], [one["load_average"] for one in results]
    load = f"Load average of the {cpus} CPUs meanwhile: {min(loads):.0f} to {max(loads):.0f}."
    rounds = " or ".join(map(str, sorted({len(one["rounds"]) for one in results})))
    rows = [
        "| what | Dice and IoU compared | largest difference | time ratio in each round |",
        "| --- | --- | --- | --- |",
    ]
    for one in results:
        ratios = ", ".join(f"{peer['seconds'] / own['seconds']:.1f}" for peer, own in one["rounds"])
        difference = f"{one['largest_score_difference']:.1g}"
        rows.append(f"| {one['name']} | {one['scores_compared']} | {difference} | {ratios} |")
    return [EVALUATION.format(rounds=rounds, load=load), table(results), "", *rows]


def picture(results: list[dict[str, Any]]) -> None:
    """Time ratios as bars on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(results) + 1.2), layout="constrained")
    names, ratios = [one["name"] for one in results][::-1], [one["time_ratio"] for one in results][::-1]
    bars = axes.barh(names, ratios, color="#3b6ea5")
    axes.bar_label(bars, fmt="%.1f x", padding=3)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlim(min(0.8, 0.8 * min(ratios)), max(ratios) * 3)
    axes.set_xlabel("time of nnU-Net 2.8.1 / time of autoseg")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Write page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("prediction", type=Path)
    parser.add_argument("evaluation", type=Path)
    args = parser.parse_args()
    content = json.loads(args.results.read_text())
    results = content["results"]
    rounds = max(len(one["rounds"]) for one in results)
    parts = [
        INTRODUCTION.format(rounds=rounds, **content["machine"]),
        table(results),
        "\n![time ratios](pictures/benchmark.png)\n",
        "## How far the results lie apart\n",
        accuracy(results),
        "\nBoth store images as 32-bit floats. nnU-Net keeps the orientation of the files; its arrays were\n"
        "brought to the canonical one for this comparison. CT statistics differ a little because nnU-Net draws voxels\n"
        "at random.\n",
        "Labels: autoseg gives a voxel the highest label whose interpolated share is at least one half, as\n"
        "batchgenerators 0.25.1 does, the library by which nnU-Net resamples labels: with that version the maps with\n"
        "three labels are identical. Later versions (0.25.4 and 0.25.5 were looked at) take the label of the largest\n"
        "share; the two rules differ where three or more labels meet.",
        *prediction(json.loads(args.prediction.read_text())["results"]),
        *evaluation(json.loads(args.evaluation.read_text())),
    ]
    PAGE.write_text("\n".join(parts) + "\n")
    picture(results)


if __name__ == "__main__":
    main()
