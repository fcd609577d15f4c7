"""Does retraining on a real Slurm give the bits of one process, also where its jobs are taken away?

A Slurm of one node (from Debian: `apt-get install slurm-wlm munge`) is begun as root in a folder of its own,
and ended afterwards. Leave-one-out is cut into slices, each a job of submitit. Running jobs are requeued, as
Slurm does to preempted ones. What is asked for again is not done again.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import influencekit as ik
from benchmarks.executors import scores, seconds_of

TAKES = "5 min"
QUICK = {"examples": 8, "requeues": 1}
CONF = """ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=26917
SlurmdPort=26918
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def slurm(folder: Path, cpus: int) -> Iterator[None]:
    """A Slurm of this node; its processes are ended by their own ids."""
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]:
        raise click.ClickException(f"{missing[0]} is not installed: apt-get install slurm-wlm munge")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=said("hostname", "-s").strip(), folder=folder, cpus=cpus))
    os.environ["SLURM_CONF"] = str(conf)
    munge = [f"--{what}={folder}/{file}" for what, file in MUNGE.items()]
    begun: list[subprocess.Popen[bytes]] = []
    try:
        for command in (["munged", "-F", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
            begun.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(2)
        until = time.monotonic() + 60
        while "idle" not in said("sinfo", "-h", "-o", "%T"):
            if time.monotonic() > until:
                raise click.ClickException(f"Slurm does not come up: see {folder}/slurmctld.log")
            time.sleep(1)
        yield
    finally:
        subprocess.run(["scancel", "--user", "root"], check=False)  # of this Slurm: what an error left
        time.sleep(3)
        for process in reversed(begun):
            process.terminate()
            process.wait(30)


MUNGE = {
    "socket": "munge.sock", "key-file": "key", "pid-file": "munged.pid", "log-file": "munged.log",
    "seed-file": "munge.seed",
}  # fmt: skip


def requeued(folder: Path, times: int, done: threading.Event) -> list[str]:
    """Requeue a running job, once the first slice is there, so many times."""
    taken: list[str] = []
    while len(taken) < times and not done.wait(0.5):
        running = [
            job for job in said("squeue", "-h", "-t", "RUNNING", "-o", "%A").split() if job not in taken
        ]
        if any(folder.glob("effects-*.zarr")) and running:
            subprocess.run(["scontrol", "requeue", running[0]], check=False)
            taken.append(running[0])
    return taken


@click.option("--workload", default="mnist-1v7-lr:n_train=48", show_default=True)
@click.option("--examples", default=24, help="Left out, one at a time.")
@click.option("--requeues", default=2, help="Of running jobs.")
def answer(examples: int, requeues: int, workload: str = "mnist-1v7-lr:n_train=48") -> dict:
    torch.set_num_threads(1)
    taken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ik-") as name, slurm(Path(name), os.cpu_count() or 1):
        folder = Path(name, "slices")
        run = ik.record(ik.make("workload", workload), store=Path(name, "run.zarr"))
        here, truth = seconds_of(lambda: scores(run, examples))
        workers: Any = ik.Workers("submitit:partition=all:cpus_per_task=1:timeout_min=60", folder)
        done = threading.Event()
        thread = threading.Thread(target=lambda: taken.extend(requeued(folder, requeues, done)))
        thread.start()
        try:
            there, found = seconds_of(lambda: scores(run, examples, executor=workers))
        finally:
            done.set()
            thread.join()
        jobs = len(list((folder / "submitit").glob("*_submission.sh")))
        slices = len(list(folder.glob("effects-*.zarr")))
        again, same_again = seconds_of(lambda: scores(run, examples, executor=workers))
        return {
            "slurm": said("sinfo", "--version").strip(), "workload": workload, "examples": examples,
            "slices": slices, "jobs": jobs, "requeued": len(taken), "seconds here": here,
            "seconds on slurm": there, "seconds again": again,
            "same": bool(np.array_equal(found, truth, equal_nan=True)),
            "same again": bool(np.array_equal(same_again, truth, equal_nan=True)),
        }  # fmt: skip


def wrong(report: dict) -> list[str]:
    found = [] if report["same"] and report["same again"] else ["Slurm gives other bits than one process"]
    return found + ([] if report["requeued"] else ["no job was requeued"])
