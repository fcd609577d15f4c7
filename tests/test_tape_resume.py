"""A taped run that was cut off and resumed is bitwise the run that was not."""

import random

import numpy as np
import pytest
import torch
from helpers_tape import Examples, network, per_example, seed, vector
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, WeightedRandomSampler

import influencekit as ik
from influencekit._trajectory.store import open_group, read

N = 12


class Cut(Exception):
    pass


def own(number=1):
    return torch.Generator().manual_seed(number)


def normed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 3)).double()


LOADERS = {
    "shuffled": lambda data: DataLoader(data, batch_size=2, shuffle=True),
    "its own generator": lambda data: DataLoader(data, batch_size=2, shuffle=True, generator=own()),
    "generators of samplers": lambda data: DataLoader(
        data, batch_sampler=BatchSampler(RandomSampler(data, generator=own()), 2, drop_last=False)
    ),
    "weighted": lambda data: DataLoader(
        data, 2, sampler=WeightedRandomSampler(torch.arange(1, 13).double(), 12, False, generator=own())
    ),
    "workers": lambda data: DataLoader(data, batch_size=2, shuffle=True, num_workers=2),
}


class Script:
    """A user's script: AdamW, a schedule, clipping, accumulation over 2, dropout, augmentation; 9 steps."""

    def __init__(self, loader="shuffled", model=None, number=3, rule=None, noisy=True):
        seed(number)
        self.data = Examples(noisy=noisy)
        self.model = (model or (lambda: network(dropout=0.3)))()
        self.optimizer = (rule or (lambda p: torch.optim.AdamW(p, lr=0.05)))(self.model.parameters())
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 9)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, patience=0)
        self.loader = LOADERS[loader](self.data)
        self.options = {} if model is None else {"separable": False}

    def run(self, store=None, stop=None, **options):
        """`stop` = (where, how often it has been come by, exception)."""
        self.left = stop
        settings = {
            "loss": per_example, "data": self.data, "accumulate": 2, "clip_norm": 0.5,
            "recorder": "every-k:k=2", "scheduler": [self.scheduler, self.plateau], "resume": True,
            **self.options, **options,
        }  # fmt: skip
        with ik.Tape(store, self.model, self.optimizer, **settings) as self.tape:
            for _ in range(3):
                self.maybe("epoch")
                for k, (_, (x, y)) in enumerate(self.tape.batches(self.loader)):
                    self.maybe("batch")
                    (nn.functional.cross_entropy(self.model(x), y) / 2).backward()
                    self.maybe("forward")
                    if k % 2 == 0:
                        continue
                    nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
                    self.optimizer.step()
                    self.maybe("step")
                    self.scheduler.step()
                    self.optimizer.zero_grad()
                self.model.eval()
                with torch.no_grad():  # as an evaluation would
                    value = per_example(self.model(self.data.x), self.data.y).mean()
                    torch.rand(1), random.random(), np.random.rand()
                self.model.train()
                self.plateau.step(value)
            self.maybe("end")
        return self

    def maybe(self, where):
        if self.left is None or self.left[0] != where:
            return
        _, count, error = self.left
        self.left = (where, count - 1, error)
        if not count:
            raise error

    def ends(self):
        """What must be the same."""
        return {
            "theta": vector(self.model),
            "buffers": [b.clone() for b in self.model.buffers()],
            "optimizer": self.optimizer.state_dict()["state"],
            "rates": [group["lr"] for group in self.optimizer.param_groups],
            "schedulers": [s.state_dict() for s in (self.scheduler, self.plateau)],
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": np.random.get_state()[1].tolist(),
        }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return all(map(same, a, b)) and len(a) == len(b) if isinstance(a, list | tuple) else a == b


def assert_same_run(script, path, whole, reference):
    """Ends, and every array of the store."""
    for name, value in whole.ends().items():
        assert same(script.ends()[name], value), name
    mine, theirs = open_group(path), open_group(reference)
    assert set(mine.array_keys()) == set(theirs.array_keys())
    for name in theirs.array_keys():
        assert read(mine, name).tobytes() == read(theirs, name).tobytes(), name
    assert mine.attrs["status"] == theirs.attrs["status"] == "complete"
    for name in ("committed", "fingerprint", "tape", "recorder", "optimizer", "buffers"):
        assert mine.attrs[name] == theirs.attrs[name], name


CUTS = [
    ("epoch", 0, Cut()), ("batch", 0, Cut()), ("forward", 0, Cut()), ("step", 0, Cut()), ("batch", 3, Cut()),
    ("step", 2, KeyboardInterrupt()), ("forward", 5, Cut()), ("epoch", 1, Cut()), ("batch", 6, Cut()),
    ("step", 4, Cut()), ("batch", 11, KeyboardInterrupt()), ("step", 5, Cut()), ("epoch", 2, Cut()),
    ("step", 8, Cut()), ("end", 0, SystemExit()),
]  # fmt: skip


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Runs that were not cut off: (script, path), one for each kind."""
    made = {}

    def of(**kind):
        key = str(kind)
        if key not in made:
            path = tmp_path_factory.mktemp("whole") / "run.zarr"
            script = Script(**kind).run(path)
            made[key] = script, path, script.ends()
            script.ends = lambda ends=made[key][2]: ends
        return made[key][:2]

    return of


def cut_and_resumed(path, cuts, other=None, **kind):
    for cut in cuts:
        with pytest.raises(type(cut[2])):
            Script(**kind).run(path, cut)
    return Script(**(other or kind)).run(path)


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{cut[0]} {cut[1]}")
def test_wherever_it_was_cut_off(tmp_path, reference, cut):
    path = tmp_path / "run.zarr"
    assert_same_run(cut_and_resumed(path, [cut]), path, *reference())


@pytest.mark.parametrize("loader", LOADERS)
def test_with_every_loader(tmp_path, reference, loader):
    path, cut = tmp_path / "run.zarr", ("batch", 13, Cut())
    assert_same_run(cut_and_resumed(path, [cut], loader=loader), path, *reference(loader=loader))


def test_again_and_again(tmp_path, reference):
    path, cuts = tmp_path / "run.zarr", [("batch", k, Cut()) for k in (1, 4, 2, 0, 9, 5)]
    assert_same_run(cut_and_resumed(path, cuts), path, *reference())


@pytest.mark.parametrize("kind", [
    {"model": normed}, {"rule": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)}, {"noisy": False},
])  # fmt: skip
def test_other_models_and_optimizers(tmp_path, reference, kind):
    path = tmp_path / "run.zarr"
    assert_same_run(cut_and_resumed(path, [("batch", 9, Cut())], **kind), path, *reference(**kind))


def test_whatever_the_new_process_starts_from(tmp_path, reference):
    """Other seeds, another initial model: everything comes from the store."""
    path, cut = tmp_path / "run.zarr", ("batch", 9, Cut())

    def other():
        torch.manual_seed(8)
        return network().apply(lambda m: nn.init.normal_(m.weight) if hasattr(m, "weight") else None)

    with pytest.raises(Cut):
        Script().run(path, cut)
    script = Script(number=99)
    script.model.load_state_dict(other().state_dict())
    assert_same_run(script.run(path), path, *reference())


def test_a_run_from_the_first_state_on(tmp_path, reference):
    """Nothing but state 0 was kept."""
    path = tmp_path / "run.zarr"
    with pytest.raises(Cut):
        Script().run(path, ("step", 0, Cut()))
    assert open_group(path).attrs["committed"] == 1 and read(open_group(path), "kept").tolist() == [0]
    assert_same_run(Script(number=98).run(path), path, *reference())


def test_scores_of_a_resumed_run_are_those_of_the_whole_one(tmp_path, reference):
    path = tmp_path / "run.zarr"
    cut_and_resumed(path, [("batch", 9, Cut())])
    found = [
        ik.estimate(
            ik.open(p, model=network(dropout=0.3), loss=per_example, data=Examples(noisy=True)),
            "parameter:index=3",
        ).influence.values
        for p in (path, reference()[1])
    ]
    assert found[0].tobytes() == found[1].tobytes()


# what cannot be resumed --------------------------------------------------------------------------------


@pytest.fixture
def cut_off(tmp_path):
    path = tmp_path / "run.zarr"
    with pytest.raises(Cut):
        Script(noisy=False).run(path, ("batch", 9, Cut()))
    return path


def refused(path, message, script=None, **options):
    with pytest.raises(ik.InfluenceKitError, match=message) as info:
        (script or Script(noisy=False)).run(path, **options)
    assert "\n" not in str(info.value)
    Script(noisy=False).run(path)  # nothing is lost, and nothing is locked


def test_not_asked_to(cut_off):
    refused(
        cut_off,
        "exists already; choose another path, or continue it: resume=True",
        resume=False,
    )


def test_by_another_recorder(cut_off):
    refused(
        cut_off,
        "was recorded by every-k:k=2, not by full; resume it with recorder='every-k:k=2'",
        recorder="full",
    )


def test_with_other_data(cut_off):
    refused(cut_off, "on other training data", Script())


def test_with_another_model(cut_off):
    script = Script(noisy=False)
    script.model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).double()
    script.optimizer = torch.optim.AdamW(script.model.parameters())
    refused(cut_off, "a run of another model: its 0.weight has shape", script)


def test_in_another_order(cut_off):
    message = "had a loader of batch size 2, RandomSampler and BatchSampler, 0 workers, no generators of its"
    refused(cut_off, message + ".*WeightedRandomSampler.*1 generator of", Script("weighted", noisy=False))


def test_with_another_optimizer(cut_off):
    script = Script(noisy=False, rule=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    refused(cut_off, "was recorded with AdamW, and this is SGD; resume it with AdamW", script)


def test_with_other_hyper_parameters(cut_off):
    script = Script(noisy=False, rule=lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.5, 0.9)))
    refused(cut_off, r"betas of parameter group 0 is \(0.5, 0.9\), and was \(0.9, 0.999\) in the run", script)


def test_a_complete_run(tmp_path):
    path = tmp_path / "run.zarr"
    Script(noisy=False).run(path)
    with pytest.raises(ik.InfluenceKitError, match="is complete: there is nothing to resume"):
        Script(noisy=False).run(path)


def test_a_loop_that_ends_before_where_it_was(cut_off):
    script = Script(noisy=False)
    with (
        pytest.raises(ik.InputError, match="the loop ended before epoch 1, where the run that it resumes"),
        ik.Tape(
            cut_off, script.model, script.optimizer, loss=per_example, data=script.data, accumulate=2,
            clip_norm=0.5, recorder="every-k:k=2", resume=True, scheduler=[script.scheduler, script.plateau],
        ) as tape,
    ):  # fmt: skip
        for _ in tape.batches(script.loader):
            pass
    Script(noisy=False).run(cut_off)


def test_persistent_workers(tmp_path):
    data = Examples()

    def run(stop):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(data, batch_size=4, num_workers=1, persistent_workers=True)
        path, steps = tmp_path / "run.zarr", 0
        with ik.Tape(
            path, model, optimizer, loss=per_example, data=data, recorder="every-k:k=2", resume=True
        ) as tape:
            for _ in range(3):
                for _, (x, y) in tape.batches(loader):
                    nn.functional.cross_entropy(model(x), y).backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    steps += 1
                    if steps == stop:
                        raise Cut

    with pytest.raises(Cut):
        run(5)
    with pytest.raises(
        ik.InputError, match="persistent workers, whose random states .* persistent_workers=False"
    ):
        run(0)


def test_a_scheduler_that_cannot_be_saved(tmp_path):
    script = Script(noisy=False)

    class Odd:
        def state_dict(self):
            return {"what": object()}

        def load_state_dict(self, state):
            pass

    with pytest.raises(ik.InputError, match="scheduler: its state cannot be saved as plain data"):
        script.run(tmp_path / "run.zarr", scheduler=Odd())
