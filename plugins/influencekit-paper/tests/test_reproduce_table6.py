"""Table VI: a vision transformer on two classes, with rankings that know no influence beside `dit`.

A tiny model at random on drawn stripes; what is compared is counted by hand, or with a model whose answer is
known.
"""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from influencekit_paper.command import reproduce
from influencekit_paper.reproduce import Extent, Images, cells, fine_tuning, plan, vit
from influencekit_paper.reproduce.cells import Cell
from influencekit_paper.reproduce.table6 import table6

import influencekit as ik

transformers = pytest.importorskip("transformers")
SIZES = {"flipped": 0.25, "examples": 32, "size": 14}


def saved(folder, **changes):
    """A data file of drawn images; `changes` to its arrays."""
    arrays = vit.images("")._asdict() | changes
    np.savez(folder / "pairs.npz", **{k: x for k, x in arrays.items() if x is not None})
    return str(folder / "pairs.npz")


def test_labels_are_flipped_one_way_and_all_of_them_are_in_the_pool(tmp_path):
    work, wrong, pool = vit.problem(saved(tmp_path), "", 3, **SIZES)
    found, y = vit.images(""), work.train[1].numpy()
    assert (work.n_train, len(pool), int(wrong.sum()), work.epochs) == (32, 16, 4, 1)
    assert set(np.flatnonzero(wrong)) <= set(pool) and (y[wrong] == 1).all()
    shown = vit.pixels(found.x_train, 14, vit.encoder("", 14)[1])
    truth = [found.y_train[(shown == x).flatten(1).all(1).nonzero()[0, 0]] for x in work.train[0]]
    assert ((np.array(truth) != y) == wrong).all() and np.array(truth)[wrong].max() == 0
    again = vit.problem(saved(tmp_path), "", 3, **SIZES)
    assert (again[1] == wrong).all() and torch.equal(again[0].theta0, work.theta0)
    assert not (vit.problem("", "", 4, **SIZES)[1] == wrong).all()


def test_all_weights_are_trained_but_those_that_no_output_reads():
    work = vit.problem("", "", 0, **SIZES)[0]
    own = {n: p.numel() for n, p in work.model.named_parameters() if "mask_token" not in n}
    assert work.n_params == sum(own.values())


def test_positions_are_interpolated_once_and_the_output_is_that_of_transformers(tmp_path):
    """A model saved for 28 pixels, used on 42: transformers interpolates at every call."""
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=7,
        attn_implementation="eager",
    )  # fmt: skip
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path / "w")
    x = torch.randn(2, 3, 42, 42)
    with torch.no_grad():
        ours = vit.encoder(str(tmp_path / "w"), 42)[0](pixel_values=x).last_hidden_state
        theirs = model(pixel_values=x).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ik.InputError, match="--image-size 30: expected a multiple of 7"):
        vit.encoder(str(tmp_path / "w"), 30)
    with pytest.raises(ik.InputError, match="expected a folder as transformers saves it"):
        vit.encoder(str(tmp_path / "none"), 28)


def test_frozen_losses_are_of_models_that_have_not_seen_the_image():
    """One wrong label among separable ones has the largest loss out of its fold."""
    work, wrong, _ = vit.problem("", "", 0, **SIZES)
    y = work.train[1].clone()
    y[torch.from_numpy(wrong)] = 0
    y[5] = 1 - y[5]
    separable = torch.nn.functional.one_hot(torch.where(torch.arange(len(y)) == 5, 1 - y, y), 2).float()

    class Known(torch.nn.Module):
        def features(self, x):
            return separable[: len(x)] if len(x) == len(separable) else x.flatten(1)[:, :2]

    class Given:
        model, train, test = Known(), (work.train[0], y), work.test

    losses, _ = fine_tuning.frozen_losses(Given(), 0)
    assert losses.argmax() == 5


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"x_test": None}, "expected an .npz file with x_train, y_train, x_test, y_test"),
        ({"y_train": np.zeros(120, np.uint8)}, "both labels, 0 and 1"),
        ({"x_train": np.zeros((120, 14, 14), np.uint8)}, "of uint8 with a label each"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, changes, said):
    with pytest.raises(ik.InputError, match=said) as caught:
        vit.images(saved(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_no_file_no_weights_and_too_many_flips_are_refused(tmp_path):
    with pytest.raises(ik.InputError, match=r"--data FILE.npz .* and --weights FOLDER"):
        plan.table6(Extent(1))
    with pytest.raises(ik.InputError, match="there is no .*none.npz; name a file"):
        plan.table6(Extent(1, images=Images((str(tmp_path / "none.npz"),), "w")))
    with pytest.raises(ik.InputError, match="16 labels of 16 images of class 0 cannot be flipped"):
        vit.problem("", "", 0, flipped=1.0, examples=32, size=14)


def test_a_cell_is_known_by_what_its_files_hold_not_by_where_they_are(tmp_path):
    (tmp_path / "other").mkdir()
    one, two = (saved(folder) for folder in (tmp_path, tmp_path / "other"))
    (row, *_), (same, *_) = (
        plan.table6(Extent(1, quick=True, images=Images((file,)))).values() for file in (one, two)
    )
    assert row == same and row[0].sources != same[0].sources
    assert "tmp" not in row[0].file and not set(tmp_path.parts[1:]) & set(str(row[0]).split())
    third = plan.table6(
        Extent(1, quick=True, images=Images((saved(tmp_path, y_test=1 - vit.images("").y_test),)))
    )
    assert next(iter(third.values())) != row


def test_the_command_runs_prints_and_continues(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "FLIPPED_OF_POOL", (0.3,))
    words = ["table6", "--quick", "--seeds", "1", "--workers", "1", "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(reproduce, words, catch_exceptions=False).stdout
    report = json.loads((tmp_path / "out" / "table6.json").read_text())
    figures = {(x["figure"], x["ranking"]): x["figures"] for x in report["lines"]}
    assert len(figures) == 8 and "Chance finds" in shown
    (found,) = figures["found, %", "dit"].values()
    assert found["printed"] == pytest.approx(100 * 299 / 300) and 0 <= found["mean"] <= 100
    monkeypatch.setattr(cells, "run", lambda *_: pytest.fail("done again"))
    assert CliRunner().invoke(reproduce, words, catch_exceptions=False).stdout == shown


def test_the_table_counts_in_per_cent_of_the_flipped():
    judged = {"found": 6.0, "auc": 0.75}
    cell = {
        "accuracy": 0.9, "frozen_accuracy": 0.8, "examples": 40, "pool": 20, "flipped": 8, "parameters": 5,
        "found": dict.fromkeys(("dit", "final-loss", "frozen"), judged),
    }  # fmt: skip
    lines = {x.labels: x.figures for x in table6({("birds", "10%"): [cell]}).lines}
    (dit,) = lines["birds", "found, %", "dit"]
    assert (dit.mean, dit.printed) == (75.0, 98.0) and lines["birds", "AUC", "dit"][0].mean == 0.75
    assert (
        str(Cell("fine-tuning", "birds", 0, (("flipped", 0.1),))) == "fine-tuning, birds, seed 0, flipped 0.1"
    )
