"""`influencekit reproduce`: the paper's tables, run here and printed beside the paper's figures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from influencekit.errors import InputError
from influencekit.extend import complain, print_table, progress, say, shared

if TYPE_CHECKING:
    from influencekit_paper.reproduce import Report

__all__ = ["reproduce"]

PAPER = ("table1", "table2", "table3", "table4", "table5")
GIVEN = ("table6",)  # on data and weights that the user gives
BEYOND = ("seeds", "windows")


@click.command(short_help="Run the paper's tables again, beside its figures.")
@click.argument("table", type=click.Choice([*PAPER, *GIVEN, *BEYOND, "all"]))
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="N",
    help="How many: 16 are the seeds 0 to 15.",
)
@click.option(
    "--cnn-seeds",
    type=click.IntRange(min=1),
    metavar="N",
    help="Seeds of the CNN, which costs ten times what the others do; as many as --seeds unless you say.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="Two seeds, unless --seeds says otherwise; leave-one-out of the CNN on one seed, 16 examples.",
)
@click.option(
    "--ceiling",
    type=click.FloatRange(min=0, min_open=True),
    is_flag=False,
    flag_value=0.001,
    metavar="[FRACTION]",
    help="table2 and table3 beside their ceiling: leave-one-out is repeated over runs whose start is moved "
    "by this fraction of its size (0.001 if you do not say). Costs --ceiling-runs times leave-one-out.",
)
@click.option(
    "--ceiling-runs",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    metavar="R",
    help="Runs of a ceiling, the recorded one among them.",
)
@click.option(
    "--out",
    default="reproduction",
    show_default=True,
    metavar="DIR",
    help="A folder for the cells and the tables. What is there already is not done again.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="The same as --executor processes:N; as many as cores unless you say. On a GPU there is one.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="FILE",
    help="For table6, several if you like: an .npz file of images of two classes, with x_train [image, row, "
    "column, 3] and x_test of uint8, y_train and y_test of 0 and 1.",
)
@click.option(
    "--weights",
    metavar="FOLDER",
    help="For table6: a vision transformer (ViT, DINOv2, ...) as transformers saves it.",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    default=28,
    show_default=True,
    metavar="N",
    help="For table6: pixels a side, to which images are resized; a multiple of the model's patches.",
)
@click.option(
    "--examples",
    type=click.IntRange(min=20),
    default=240,
    show_default=True,
    metavar="N",
    help="For table6: images that are trained on, half of each class; half of them are ranked.",
)
@shared("executor", "device")
@click.pass_context
def reproduce(
    ctx: click.Context, table: str, seeds: int, cnn_seeds: int | None, quick: bool, ceiling: float | None,
    ceiling_runs: int, data: tuple[str, ...], weights: str | None, image_size: int, examples: int, out: str,
    workers: int | None, executor: str | None, device: str,
) -> None:  # fmt: skip
    """Run the experiments of TABLE (arXiv 2502.10793) and print the result beside the paper's figures.

    TABLE is table1 (patterns by model and data), table2 (agreement with leave-one-out), table3 (by pattern),
    table4 (between stages of training), table5 (flipped labels found), or all of these; table6 (flipped
    labels found in a vision transformer), on images and weights that you give; seeds (are patterns and ranks
    the data's or the seed's?) and windows (when do flipped labels show?) go beyond the paper.

    Every run is kept in DIR as soon as it is done, so that the same command continues after a break. The
    tables stand there as CSV, JSON, LaTeX and Markdown. Examples:

    \b
      influencekit reproduce table4
      influencekit reproduce table2 --executor dask:tcp://HOST:8786
      influencekit reproduce table2 --seeds 4 --ceiling
      influencekit reproduce all --quick
      influencekit reproduce table5 --seeds 4 --workers 2 --out table5
      influencekit reproduce table6 --seeds 1 --data pairs.npz --weights vit-b16 --image-size 224
    """
    if quick and ctx.get_parameter_source("seeds") is click.core.ParameterSource.DEFAULT:
        seeds = 2
    said = f" --cnn-seeds {cnn_seeds}" if cnn_seeds else ""
    said += " --quick" if quick else ""
    if table not in GIVEN and (data or weights):
        raise InputError(f"--data and --weights are table6's; {table} has its own data")
    if table in GIVEN:
        said += "".join(f" --data {os.path.basename(file)}" for file in data)
        said += f" --image-size {image_size} --examples {examples}" if not quick else ""
    if ceiling is not None:
        if table not in ("table2", "table3", "all"):
            raise InputError(
                f"--ceiling: {table} has no agreement with leave-one-out; table2 and table3 have"
            )
        said += f" --ceiling {ceiling:g} --ceiling-runs {ceiling_runs}"
    with progress():
        from influencekit.extend import use_device
        from influencekit_paper import reproduce as tables

        if workers and executor:
            raise InputError("--workers N is --executor processes:N; leave one of the two out")
        chip, workers = use_device(device, 1), workers or os.cpu_count() or 1
        images = tables.Images(data, weights or "", examples, image_size)
        extent = tables.Extent(seeds, quick, chip, cnn_seeds, ceiling, ceiling_runs, images)
        try:
            reports = tables.reproduce(
                PAPER if table == "all" else (table,),
                out,
                extent,
                executor=executor or (f"processes:{workers}" if workers > 1 and chip == "cpu" else None),
                command=f"influencekit reproduce {table} --seeds {seeds}{said}",
            )
        except (KeyboardInterrupt, SystemExit) as stop:
            for note in stop.__dict__.pop("__notes__", ()):
                complain(note)
            raise
    for report in reports:
        _show(report)
    say(f"saved in {out}: {', '.join(r.name for r in reports)} (csv, json, tex, md)")


def _show(report: Report) -> None:
    import pandas as pd

    head, *rows = report.cells
    print_table(pd.DataFrame(rows, columns=head), report.title, left=len(report.heads), gap=2)
    say("Test accuracy in %" + ("; the paper's figure in brackets." if report.compared else "."))
    for note in report.notes:
        say(note)
    say()
