"""Ranks that do not do the same: all of them stop, with one line, and the store says how the run ended."""

import math

import pytest
import torch
import zarr
from helpers_ranks import on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import influencekit as ik

LOSS = nn.CrossEntropyLoss(reduction="none")
pytestmark = pytest.mark.fresh


def data(changed=None):
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    if changed is not None:
        y[changed] = 1 - y[changed]
    return TensorDataset(x, y)


class Fetched:
    """The same, not known to be rows of tensors."""

    def __init__(self, changed=None):
        self.rows = data(changed)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, k):
        return self.rows[k]


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def loop(path, rank, before=None, examples=None, lr=0.02, group=True, average=None, again=False, **options):
    """6 steps of 4 examples a rank. `before(optimizer, step)` is called before each, and after the last one:
    "break" leaves the loop, "nan" makes inputs NaN."""
    torch.manual_seed(rank)
    examples = data() if examples is None else examples
    model = DistributedDataParallel(network()) if group and not average else network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    loader = DataLoader(examples, batch_size=4, sampler=DistributedSampler(examples) if group else None)
    world = torch.distributed.group.WORLD if group else None
    before = before or (lambda optimizer, step: None)
    step = 0
    tape = ik.Tape(path, model, optimizer, loss=LOSS, data=examples, group=world, **options)
    with tape:
        for _ in range(2):
            for _, (x, y) in tape.batches(loader):
                optimizer.zero_grad()
                if (said := before(optimizer, step)) == "break":
                    return
                LOSS(model(x * math.nan if said == "nan" else x), y).mean().backward()
                if average:
                    average(model)
                optimizer.step()
                step += 1
        before(optimizer, "end")
    if again:
        with tape:
            for _, (x, y) in tape.batches(loader):
                optimizer.zero_grad()
                LOSS(model(x), y).mean().backward()
                optimizer.step()
    return tape


def at(step, act):
    """`before` that does something before a step."""
    return lambda optimizer, now: act(optimizer) if now == step else None


def put(name, value):
    return at(4, lambda optimizer: optimizer.param_groups[0].update({name: value}))


def one_more(optimizer):
    optimizer.state[optimizer.param_groups[0]["params"][0]]["step"] += 1


def summed(model):
    for p in model.parameters():
        torch.distributed.all_reduce(p.grad)


def raising(optimizer):
    raise RuntimeError("mine")


def leaving(step):
    return at(step, lambda optimizer: "break")


def of(path):
    group = zarr.open_group(path, mode="r")
    return group.attrs["status"], group.attrs["committed"], group.attrs.get("reason", "")


# what differs on rank 1: its options, the error that all ranks raise, how the store ends
CASES = {
    "a label": (
        {"examples": data(17)},
        "the ranks do not have the same training data: targets of row 17 differ (rank 1, compared with",
    ),
    "a fetched label": (
        {"examples": Fetched(17)},
        "the ranks do not have the same training data: targets of row 17 differ (rank 1, compared with",
    ),
    "reduction": (
        {"reduction": "sum"},
        "the ranks do not record in the same way: reduction= is mean on rank 0 and sum on rank 1; do",
    ),
    "rate": ({"lr": 0.0199}, "step 0: the learning rate of group 0 is 0.02 on rank 0 and 0.0199 on rank 1; "),
    "schedule": ({"before": put("lr", 0.01)}, "step 4: the learning rate of group 0 is 0.02 on rank 0 and "),
    "decay": ({"before": put("weight_decay", 0.5)}, "step 4: weight_decay of parameter group 0 is 0.01 on "),
    "drift": ({"before": at(3, one_more)}, "step 3: after it parameter 0.weight of rank 1 is not that of "),
    "left": (
        {"before": leaving(4)},
        "the ranks have come apart: rank 0 is at the forward pass of step 4, and rank 1 has left the loop "
        "after 4 steps; give every rank as many batches",
    ),
    "nan": ({"before": at(3, lambda optimizer: "nan")}, "rank 1: the training loss became NaN"),
}


def test_ranks_that_do_not_do_the_same_all_stop_with_one_line(tmp_path):
    def work(rank):
        return [refused(tmp_path / f"{name}.zarr", rank, case[0]) for name, case in CASES.items()]

    def refused(path, rank, options):
        fetched = {"examples": Fetched()} if isinstance(options.get("examples"), Fetched) else {}
        try:
            loop(path, rank, **(options if rank else fetched))
        except ik.InfluenceKitError as error:
            return type(error).__name__, str(error)
        return None

    first, second = on_ranks(2, work)
    assert first == second
    for (name, (_, words)), (kind, said) in zip(CASES.items(), first, strict=True):
        assert words in said and "\n" not in said, name
        assert kind == ("DivergedError" if name == "nan" else "InputError")
    for name, step in {"schedule": 4, "decay": 4, "drift": 3, "left": 4}.items():
        assert of(tmp_path / f"{name}.zarr") == ("recording", step, ""), name
    status, step, reason = of(tmp_path / "nan.zarr")
    assert (status, step) == ("stopped", 3) and reason == first[-1][1]


def test_rank_0_that_leaves_or_another_that_fails_at_the_end_leaves_the_run_unfinished(tmp_path):
    def work(rank):
        try:
            loop(tmp_path / "left.zarr", rank, before=None if rank else leaving(4))
        except ik.InputError as error:
            said = str(error)
        loop(tmp_path / "end.zarr", rank, before=at("end", raising) if rank else None)
        return said

    first, second = on_ranks(2, work)
    assert type(second) is RuntimeError
    assert type(first) is ik.InfluenceKitError and str(first).startswith("another rank has ended")
    assert of(tmp_path / "left.zarr")[:2] == ("recording", 4)
    assert of(tmp_path / "end.zarr")[0] == "recording"


def test_gradients_that_are_summed_are_named():
    first, second = on_ranks(2, lambda rank: loop(None, rank, average=summed))
    assert str(first) == str(second)
    assert "divide them by the number of ranks, 2" in str(first) and "drawn" not in str(first)


def test_one_process_does_not_resume_what_ranks_recorded(tmp_path):
    path, cut = tmp_path / "run.zarr", tmp_path / "cut.zarr"

    def work(rank):
        with pytest.raises(ik.InputError, match="a run that several ranks recorded cannot go on; make a new"):
            loop(path, rank, again=True)
        loop(cut, rank, before=leaving(4) if rank else None)

    on_ranks(2, work)
    assert of(path)[0] == "complete"
    assert zarr.open_group(path, mode="r").attrs["tape"]["ranks"] == 2
    words = "was recorded by 2 ranks; a run of several ranks cannot be resumed: record into a new store"
    for store in (path, cut):
        with pytest.raises(ik.InputError, match=words):
            loop(store, 0, group=False, resume=True)
    with pytest.warns(UserWarning, match="record it again into a new store .a run of 2 ranks cannot"):
        run = ik.open(cut, model=network(), loss=LOSS, data=data(), test=data())
    assert run.steps == 4


def test_a_tape_of_a_group_of_one_goes_on():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert loop(None, 0, again=True).steps == 18
    finally:
        torch.distributed.destroy_process_group()
