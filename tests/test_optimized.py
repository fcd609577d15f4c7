"""`python -OO`, which drops asserts as `-O` does, and docstrings: the same texts, refusals and numbers."""

import re
import subprocess
import sys

SCRIPT = """
import sys, warnings
import torch
import influencekit as ik
from influencekit.cli import main

warnings.simplefilter("ignore")

def command(line):
    try:
        main(line.split())
    except SystemExit as ended:
        print(line, ended.code)

for line in ("--help", "record --help", "list", "compare no-such-workload",
             "compare mnist-1v7-lr:n_train=16:epochs=2 --estimators dit,if,loo"):
    command(line)
print("Python")

work = ik.make("workload", "mnist-1v7-lr:n_train=16:epochs=2")
run = ik.record(work)
print(ik.estimate(run, "test-loss", "dit", "each-epoch").influence.values.tolist())
print(ik.verify(run), ik.evaluate(run, "lds:m=8")["lds:m=8"].lds.values.tolist())
for wrong in (lambda: ik.estimate(work), lambda: ik.estimate(run, windows=[ik.Window(0, 9)]),
              lambda: ik.record(work, "every-k:k=0"),
              lambda: ik.make("average", "after:epoch=9").weights(run),
              lambda: ik.make("workload", "mnist-1v7-lr:n_train=-1"), lambda: ik.remove(run)):
    try:
        print("not refused", wrong())
    except ik.InfluenceKitError as error:
        print(type(error).__name__, error)

torch.manual_seed(0)
data = torch.utils.data.TensorDataset(torch.randn(12, 3), torch.arange(12) % 2)
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.1), torch.nn.Linear(4, 2))
optimizer = torch.optim.AdamW(model.parameters())
loss = torch.nn.CrossEntropyLoss(reduction="none")
loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
with ik.Tape(None, model, optimizer, loss=loss, data=data, check=1.0) as tape:
    for _, (x, y) in tape.batches(loader):
        optimizer.zero_grad()
        loss(model(x), y).mean().backward()
        optimizer.step()
taped = tape.trajectory(test=data)
print(ik.verify(taped), ik.estimate(taped).influence.values.tolist())
"""


def output(*flags):
    done = subprocess.run(
        [sys.executable, *flags, "-c", SCRIPT], capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    commands, python = done.stdout.split("Python\n")
    return re.sub(r"[ ─]*[\d.]+", "#", commands), python, done.stderr  # a command prints seconds, too


def test_all_is_the_same_without_asserts_and_docstrings():
    plain = output()
    assert plain[0].count("\n") > 100 and "not refused" not in plain[1]
    assert output("-OO") == plain
