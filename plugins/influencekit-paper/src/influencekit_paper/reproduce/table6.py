"""Table VI: flipped labels found in a vision transformer that is fine-tuned as a whole."""

from influencekit_paper.reproduce.report import Done, Line, Report, accuracy, mean_of, printed

__all__ = ["table6"]

RANKINGS = {"dit": "dit", "final-loss": "loss at the end", "frozen": "loss, frozen features"}


def table6(done: Done) -> Report:
    """Flipped labels found among as many of the lowest scores of the pool, in per cent of them."""
    paper = printed()["table_6_vit_b16_flipped_found"]
    fractions = list(dict.fromkeys(row[1] for row in done))
    beside = [100 * paper[str(n)] / n for n in (round(10 * float(f.rstrip("%"))) for f in fractions)]
    lines, sizes = [], []
    for data in dict.fromkeys(row[0] for row in done):
        rows = [done[data, fraction] for fraction in fractions]
        one = rows[0][0]
        sizes.append(f"{data} {one['examples']}, pool {one['pool']}")
        lines.append(Line((data, "test accuracy, %", "fine-tuned"), tuple(map(accuracy, rows))))
        before = [mean_of((100 * each["frozen_accuracy"] for each in found), decimals=1) for found in rows]
        lines.append(Line((data, "test accuracy, %", "frozen features"), tuple(before)))
        for ranking, words in RANKINGS.items():
            percent = [
                mean_of(
                    (100 * each["found"][ranking]["found"] / each["flipped"] for each in found),
                    value if ranking == "dit" else None, decimals=1,
                )
                for found, value in zip(rows, beside, strict=True)
            ]  # fmt: skip
            lines.append(Line((data, "found, %", words), tuple(percent)))
        for ranking, words in RANKINGS.items():
            auc = [mean_of(each["found"][ranking]["auc"] for each in found) for found in rows]
            lines.append(Line((data, "AUC", words), tuple(auc)))
    return Report(
        "table6", "Table VI: flipped labels found in a vision transformer, % of them",
        ("data", "figure", "ranking"), tuple(fractions), lines,
        [
            f"One epoch, all {one['parameters']} weights trained; so many of a pool of images have class 0 "
            f"flipped to class 1, and the pool is ranked. Images: {'; '.join(sizes)}. Chance finds the "
            "column's own percentage.",
            "The paper's figures, in brackets, are of ViT-B/16 on brambling and daisy of ImageNet, a pool of "
            "1,000.",
            "Loss, frozen features: of a linear model on the features before fine-tuning, which has not seen "
            "the image. Where it finds as many, the task is easy, and the table says little about dit.",
        ],
    )  # fmt: skip
