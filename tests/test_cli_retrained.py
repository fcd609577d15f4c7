"""`estimate`: the figure of trust, --verify-top and --remove, printed and saved as the verbs give them."""

import csv
import re

import numpy as np
import pytest
import xarray as xr
from helpers_cli import TINY, fails, run

import influencekit as ik
from influencekit.cli.problems import WorkloadSource
from influencekit.cli.retrained import print_verified


@pytest.fixture(scope="module")
def trajectory(recorded):
    return ik.open(recorded, WorkloadSource(TINY)(0))


@pytest.fixture(scope="module")
def some(trajectory):
    return [str(i) for i in trajectory.workload.train_ids[:3]]


@pytest.fixture
def listed(some, tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text(f"# suspects\n{some[0]}\n\n  {some[1]}\n{some[2]}\n# the end\n", encoding="utf-8")
    return path


def test_every_estimate_says_how_far_to_trust_it(recorded, trajectory):
    lines = run("estimate", recorded).stdout.splitlines()
    (said,) = [line for line in lines if line.startswith("trust ")]
    expected = ik.trust(trajectory).trust.item()
    assert float(
        re.match(r"trust (\S+) of 1: agreement with retraining without each of 16 random", said)[1]
    ) == round(expected, 2)
    found = ik.trust(trajectory)
    parts = (
        f"values {found.pearson.item():.2f}, ranks {found.spearman.item():.2f}, "
        f"retraining shows {found.scale.item():.2g} times"
    )
    assert "and of the 8 with the largest scores; " + parts in said
    smooth = run("estimate", recorded, "--trust", "smooth").stdout
    figure = re.search(r"^trust (\S+) of 1: how proportionately training answers", smooth, re.M)[1]
    expected = ik.trust(trajectory, method="smooth")
    assert float(figure) == round(expected.trust.item(), 2) and "Beware" not in smooth


def test_trust_by_window_is_one_line_however_many_windows_there_are(recorded, trajectory):
    shown = run("estimate", recorded, "--window", "each-epoch").stdout
    found = ik.trust(trajectory, windows="each-epoch")
    ends = zip(found.start.values, found.stop.values, found.trust.values, strict=True)
    cells = ", ".join(f"step:{start}-{stop} {value:.2f}" for start, stop, value in ends)
    assert f"\nby window: {cells}\n" in shown and f"\nat least 0.9: {found.believed}\n" in shown
    steps = ",".join(["step:1-6", *(f"step:0-{t + 1}" for t in range(trajectory.steps))])
    (line,) = re.findall(r"^by window: .*", run("estimate", recorded, "--window", steps).stdout, re.M)
    values = ik.trust(trajectory, windows=steps).trust.values
    known = values[~np.isnan(values)]
    assert len(values) > 6 and f"{(known >= 0.9).sum()} of {len(known)} reach 0.9; lowest step:" in line


@pytest.mark.parametrize("arguments", [("--trust", "none"), ("--estimator", "loo:examples=4")])
def test_no_trust_is_asked_for_where_it_is_not_wanted_or_the_scores_are_the_truth(recorded, arguments):
    assert "trust" not in run("estimate", recorded, *arguments).stdout


def test_a_low_figure_is_a_warning_in_plain_words_and_stands_in_the_result(recorded, monkeypatch, tmp_path):
    monkeypatch.setattr("influencekit._verbs.trust.verb.LIMITS", {"retrain": 2.0, "smooth": 2.0})
    out = tmp_path / "scores.zarr"
    shown = run("estimate", recorded, "--out", out).stdout
    assert re.search(r"^Beware: trust \S+ is below 2: leaving examples out does not do what", shown, re.M)
    assert "a smaller learning rate (now " in shown and "--verify-top 20 shows" in shown
    assert re.search(
        r"^at least 2: absence from the start not even up to step \d+; absence not even", shown, re.M
    )
    attrs = xr.open_zarr(out, consolidated=False).attrs
    assert attrs["trust_warning"] in " ".join(shown.split())
    assert (
        attrs["trust_method"] == "retrain"
        and 16 < attrs["trust_trainings"] <= 25
        and attrs["trust_limit"] == 2
    )
    assert attrs["trust"] == min(attrs["trust_pearson"], attrs["trust_spearman"]) and attrs["trust_scale"] > 0
    assert 0 < attrs["trust"] <= 1 and attrs["trust_seconds"] > 0
    assert "--verify-top 20 shows" not in run("estimate", recorded, "--verify-top", "2").stdout


@pytest.mark.parametrize("side", ["harmful", "helpful"])
def test_the_verified_examples_are_printed_with_estimate_and_truth(recorded, trajectory, side):
    shown = run("estimate", recorded, "--trust", "none", "--verify-top", "4", f"--{side}").stdout
    found = ik.verify_top(trajectory, top=4, which=side)
    lines = shown.splitlines()
    start = next(
        k for k, line in enumerate(lines) if line.startswith(f"the 4 most {side}, retrained without")
    )
    assert lines[start + 1].split() == ["example", "class", "estimate", "retrained", "test-loss", "without"]
    for k, line in enumerate(lines[start + 2 : start + 6]):
        name, _, estimate, retrained, after = line.split()
        at = found.isel(train=k, query=0, window=0)
        assert name == str(at.train.item())
        assert [float(estimate), float(retrained)] == pytest.approx(
            [at.estimate.item(), at.retrained.item()], rel=1e-3
        )
        assert float(after) == pytest.approx(at.after.item(), rel=1e-5)
    assert f"test-loss is {found.before.item():#.6g} with all examples; the sign is right for 4 of 4" in shown


def test_signs_are_counted_in_the_rows_that_are_shown(trajectory, capsys):
    """Rows are means over queries; so is their count, and not the mean of the queries' own counts."""
    found = ik.verify_top(trajectory, "test-losses", top=2)
    one = [[1.0, 1.0]] + [[-1e-3, -1e-3]] * (found.sizes["query"] - 1)  # of most queries the sign is right
    found["estimate"] = found.estimate * 0 - 1e-3
    found["retrained"] = found.estimate.dims, np.array(one)[:, None]
    found["same_sign"] = found.same_sign * 0 + 1 - 1 / found.sizes["query"]
    scores = ik.estimate(trajectory, "test-losses")
    ids = np.array([scores.train.values.astype(str)])
    print_verified(xr.Dataset(coords={"example": (("seed", "train"), ids)}), found.assign_attrs(seconds=1))
    rows = capsys.readouterr().out.splitlines()[-3:]
    assert all(" -1.000e-03  +" in row for row in rows[:2]) and "the sign is right for 0 of 2" in rows[2]


def test_the_set_is_printed_with_prediction_and_truth(recorded, trajectory, listed, some):
    shown = run("estimate", recorded, "--trust", "none", "--remove", listed).stdout
    found = ik.remove(trajectory, ids=some)
    lines = shown.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("without all 3 examples of the set"))
    assert lines[start + 1].split() == ["with", "all", "without", "change", "sum", "of", "scores"]
    name, *values = lines[start + 2].split()
    expected = [found[n].item() for n in ("before", "after", "retrained", "estimate")]
    assert name == "test-loss" and [float(v) for v in values] == pytest.approx(expected, rel=1e-3)
    before, after = (100 * found[f"accuracy_{n}"].item() for n in ("before", "after"))
    assert lines[start + 3].split()[2:] == [
        f"{before:.1f}",
        "%",
        f"{after:.1f}",
        "%",
        f"{after - before:+.1f}",
        "%",
    ]


def test_how_far_the_sum_holds_is_printed_and_saved(recorded, trajectory, listed, some, tmp_path):
    out = tmp_path / "scores.zarr"
    shown = run("estimate", recorded, "--trust", "none", "--remove", listed, "--out", out).stdout
    found = ik.remove(trajectory, ids=some)
    assert shown.splitlines()[-2] == found.attrs["verdict"]
    rows = {int(m[1]): m[2].split() for m in re.finditer(r"(?m)^(\d) strongest of them +(.*)$", shown)}
    assert list(rows) == found.part.values.tolist()[:-1][::-1] == [2, 1]
    for size, cells in rows.items():
        at = found.sel(part=size)
        change, total = at.part_retrained.item(), at.part_estimate.item()
        before = found.before.item()
        expected = [before, before + change, change, total]
        assert [float(c) for c in cells] == pytest.approx(expected, rel=1e-3)
    saved = xr.open_zarr(out, consolidated=False).load()
    assert saved.attrs["removed_verdict"] == found.attrs["verdict"]
    np.testing.assert_allclose(saved.removed_part_retrained, found.part_retrained)


def test_a_set_has_a_row_for_every_window(recorded, listed):
    shown = run("estimate", recorded, "--trust", "none", "--remove", listed, "--window", "each-epoch").stdout
    assert re.search(r"^step:0-3 ", shown, re.M) and re.search(r"^step:3-6 ", shown, re.M)


@pytest.mark.parametrize("ending", ["zarr", "nc", "csv"])
def test_what_was_retrained_is_saved_beside_the_scores(recorded, trajectory, listed, some, tmp_path, ending):
    if ending == "nc":
        pytest.importorskip("h5netcdf")
    out = tmp_path / f"scores.{ending}"
    run("estimate", recorded, "--trust", "none", "--verify-top", "4", "--remove", listed, "--out", out)
    verified, removed = ik.verify_top(trajectory, top=4), ik.remove(trajectory, ids=some)
    worst = {str(i): v for i, v in zip(verified.train.values, verified.retrained.values.ravel(), strict=True)}
    if ending == "csv":
        rows = list(csv.DictReader(out.open()))
        assert {r["example"]: float(r["retrained"]) for r in rows if r["retrained"]} == pytest.approx(worst)
        assert {r["example"] for r in rows if r["removed"] == "1"} == set(some)
        return
    saved = xr.load_dataset(out) if ending == "nc" else xr.open_zarr(out, consolidated=False).load()
    ids = saved.example.values.ravel()
    there = saved.retrained.values.ravel()
    assert dict(zip(ids[~np.isnan(there)], there[~np.isnan(there)], strict=True)) == pytest.approx(worst)
    assert set(ids[saved.removed.values.astype(bool)]) == set(some)
    for name in ("estimate", "retrained", "before", "after", "accuracy_before", "accuracy_after"):
        np.testing.assert_allclose(saved[f"removed_{name}"], removed[name])
    np.testing.assert_allclose(saved.before, verified.before)
    assert saved.agreement.sel(metric="spearman").item() == pytest.approx(verified.agreement[1].item())
    run("plot", out, "--out", tmp_path / "plots")


def test_a_set_that_is_removed_makes_no_parts_of_examples(recorded, listed):
    """It said: the query without the part minus with it, and all of it with all parts."""
    shown = run("estimate", recorded, "--remove", listed, "--verify-top", "2", "--trust", "none").stdout
    assert "effect = the query without the example minus with it" in shown
    assert "with all examples; the sign" in shown and not re.search(r"\bparts?\b", shown)


WRONG = {
    "nowhere.txt": (None, ["--remove", "cannot be read", "No such file"]),
    "empty.txt": (b"# nobody\n\n", ["holds no example id", "one a line"]),
    "binary.txt": (b"\xff\xfe\x00\x01", ["cannot be read", "UTF-8"]),
    "unknown.txt": (b"nobody\n", ["no training example 'nobody'", "there are 24"]),
    "head.csv": (b'\xef\xbb\xbf"id"\r\n29002\r\n', ["the first line, id, is the head", "leave it out"]),
    "scores.csv": (b"example,label,seed,query,window,dit\n", ["a table of scores", "their ids, one a line"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_of_ids_that_cannot_be_used(recorded, tmp_path, name):
    content, words = WRONG[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    line = fails("estimate", recorded, "--remove", tmp_path / name, code=2)
    assert all(word in line for word in words), line


def test_other_impossible_requests(recorded, trajectory, tmp_path):
    everybody = tmp_path / "all.txt"
    everybody.write_text("\n".join(map(str, trajectory.workload.train_ids)))
    assert "leave some of them in" in fails("estimate", recorded, "--remove", everybody, code=2)
    assert "--verify-top" in fails("estimate", recorded, "--verify-top", "0", code=2)
    assert "--trust" in fails("estimate", recorded, "--trust", "maybe", code=2)


@pytest.mark.parametrize("name", ["final-loss", "loo"])
def test_what_asks_no_query_is_not_called_an_effect(recorded, name):
    shown = run("estimate", recorded, "--estimator", name, "--trust", "none").stdout
    assert ("score, not an effect of removal" in shown) == (name == "final-loss")
    assert ("effect = the query without" in shown) == (name == "loo")
    heads = [line.split() for line in shown.splitlines() if line.startswith("example")]
    assert heads == [["example", "class", "score" if name == "final-loss" else "effect"] * 2]
