"""The losses of trainers' models tell tokens apart, without `loss=`: in any padding, and masked anew."""

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the extra influencekit[transformers] is not installed")

from helpers_transformers import MODELS, Collation, N, Texts, gap, trained, trainer  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import influencekit as ik  # noqa: E402
from influencekit._tape.rng import restored  # noqa: E402
from influencekit.trainers.transformers import CrossEntropy, InfluenceCallback  # noqa: E402

CPU = torch.device("cpu")
KINDS = {
    "causal": {"kind": "llama"},
    "causal, smoothed": {"kind": "llama", "label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
    "masked": {"kind": "masked"},
    "tokens": {"kind": "tokens", "gradient_accumulation_steps": 3},
    "sequence to sequence": {"kind": "t5"},
}


def recorded(folder, collate=None, **changes):
    """A run in float64, by a Trainer with nothing but the callback."""
    tape = InfluenceCallback(folder / "run.zarr", check=1, recorder="every-k:k=3")
    own = {"double": True, "adam_epsilon": 1e-3, "num_train_epochs": 1, "seed": 0, **changes}
    made = trainer(folder, tape, **own)
    if collate is not None:
        made.train_dataset, made.data_collator = Texts(), collate
        made.model.set_attn_implementation("sdpa")  # the eager one gives NaN in float64 at padding
    return trained(made, folder / "run.zarr")


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_tokens_sum_to_their_example_without_a_loss_given(changes, tmp_path):
    run = recorded(tmp_path, **changes)
    whole, parts = (ik.estimate(run, "test-losses", parts=p) for p in (False, True))
    assert gap(parts, whole) < 1e-11
    labels = run.workload.examples(torch.arange(N))["labels"]
    labels[:, 0] = -100 if changes["kind"] == "llama" else labels[:, 0]  # nothing foretells the first token
    there = torch.tensor(parts.influence[0, 0].notnull().values)
    assert torch.equal(there, (labels != -100)[:, : there.shape[1]])
    added = ik.estimate(run, "test-parts").influence.sum("query")
    largest = float(abs(added).max())  # norms round to float32, each example alone or together
    np.testing.assert_allclose(added, whole.influence.sum("query"), rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize("estimator", ["dit", "loo:examples=6"])
def test_padding_on_the_left_and_on_the_right_give_the_same_scores(estimator, tmp_path):
    """Up to rounding: positions are relative, and a token is known by its place in the text."""
    scores = []
    for side in ("left", "right"):
        (folder := tmp_path / side).mkdir()
        run = recorded(folder, Collation(side), kind="llama")
        assert bool((run.workload.test["attention_mask"][:, 0] == 0).any()) == (side == "left")
        scores.append(ik.estimate(run, "test-loss", estimator, parts=True).influence)
    left, right = scores
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-6 * float(abs(right).max()))
    lengths = [len(Texts()[i]["input_ids"]) for i in range(N)]
    if estimator == "dit":  # which scores all of them
        assert right[0, 0].notnull().sum("part").values.tolist() == [n - 1 for n in lengths]
        assert right[0, 0, :, 0].isnull().all()


def test_a_token_that_is_a_target_in_some_batches_only_has_a_score(tmp_path):
    """The first of a text is foretold from the padding before it, and not where it is the longest."""
    run = recorded(tmp_path, Collation("left", first=True), kind="llama", num_train_epochs=2)
    whole, parts = (ik.estimate(run, parts=p) for p in (False, True))
    assert gap(parts, whole) < 1e-11
    first, longest = parts.influence[0, 0, :, 0].values, np.arange(N) % 5 == 4
    padded = {
        k for _, b in fetched(run) for k, m in zip(b["rows"], b["attention_mask"], strict=True) if not m[0]
    }
    assert set(np.flatnonzero(np.isfinite(first))) == padded and not padded & set(np.flatnonzero(longest))


def test_tokens_that_are_masked_anew_each_time_have_scores_of_their_own(tmp_path):
    """Against a loop in plain torch, in which one token of one text never counts."""
    run = recorded(tmp_path, Collation("right", masked=True), kind="masked", num_train_epochs=3)
    whole, parts = (ik.estimate(run, parts=p) for p in (False, True))
    assert gap(parts, whole) < 1e-11
    values = parts.influence[0, 0]
    row, token = map(int, np.unravel_index(np.nanargmax(abs(values.values)), values.shape))
    ends = [by_hand(run, row, token, w) for w in (1.0, 0.0, 1 + 1e-4, 1 - 1e-4)]
    exact = ik.verify_top(run, top=3, which="lowers" if values[row, token] < 0 else "raises", parts=True)
    assert exact.train[0] == f"{row}[{token}]"
    assert float(exact.retrained[0, 0, 0]) == pytest.approx(ends[1] - ends[0], rel=1e-6)
    assert float(values[row, token]) == pytest.approx(-(ends[2] - ends[3]) / 2e-4, rel=1e-4)
    counted = {
        int(p)
        for _, batch in fetched(run)
        for k, labels in zip(batch["rows"], batch["labels"], strict=True)
        if k == row
        for p in (labels != -100).nonzero()[:, 0]
    }
    assert set(np.flatnonzero(values[row].notnull())) == counted


def fetched(run):
    """The recorded batches, with the positions of their examples and the random numbers of their forward."""
    for t in range(run.steps):
        (micro,) = run.step.source.micros(t)
        yield t, {**run.workload.call.batch(micro, CPU), "rows": micro.indices, "rng": micro.forward_rng}


def by_hand(run, row, token, weight):
    """The mean test loss after the recorded batches in a plain loop, with a weight on one token."""
    net = MODELS["masked"]().double()
    own = dict(net.named_parameters())
    with torch.no_grad():
        for name, value in run.workload.layout.split(run.state(0).theta).items():
            own[name].copy_(value)
    rule = torch.optim.AdamW(net.train().parameters(), lr=1.0, eps=1e-3, weight_decay=0.0)
    for t, batch in fetched(run):
        labels, rows, rng = (batch.pop(name) for name in ("labels", "rows", "rng"))
        with restored(rng, CPU):
            logits = net(**batch).logits
        each = torch.nn.functional.cross_entropy(logits.mT, labels, reduction="none")
        scale = torch.ones_like(each)
        scale[[k for k, name in enumerate(rows) if name == row], token : token + 1] = weight
        rule.zero_grad()
        ((scale * each).sum() / (labels != -100).sum()).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        rule.param_groups[0]["lr"] = float(run.plan.lr[t, 0])
        rule.step()
    theta = torch.cat([own[name].detach().reshape(-1) for name in run.workload.layout.names])
    return float(run.workload.losses(theta, run.workload.test).mean())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    shift=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    left=st.lists(st.integers(0, 4), min_size=1, max_size=3),
)
def test_the_loss_of_an_example_is_the_same_to_the_bit_and_places_are_those_in_the_text(
    seed, shift, smoothing, dtype, left
):
    generator, (n, width) = torch.Generator().manual_seed(seed), (len(left), 6)
    logits = torch.randn(n, width, 7, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(7, (n, width), generator=generator)
    mask = torch.arange(width) >= torch.tensor(left)[:, None]
    labels[~mask] = -100
    loss = CrossEntropy(shift, smoothing)
    batch = {"attention_mask": mask.long()}
    parts = loss.parts({"logits": logits}, labels, batch)
    whole = loss({"logits": logits}, labels)
    (a,), (b,) = (torch.autograd.grad(x.sum(), logits) for x in (parts.reduced(), whole))
    torch.testing.assert_close(parts.reduced(), whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert torch.equal(parts.part[mask], (torch.arange(width) - torch.tensor(left)[:, None])[mask])
    counted = parts.weights != 0
    assert not counted[:, 0].any() if shift else torch.equal(counted, mask)


def test_a_model_with_one_label_an_example_has_no_parts(tmp_path):
    run = recorded(tmp_path, kind="bert")
    with pytest.raises(ik.InputError, match="this run's loss returns one number an example") as caught:
        ik.estimate(run, parts=True)
    assert "\n" not in str(caught.value)
