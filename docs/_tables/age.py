"""docs/results/age.md: which result file is older than the code that it measures, by the history of git."""

import subprocess
from functools import cache
from typing import NamedTuple

from _tables.page import RESULTS, ROOT, Table
from _tables.sources import SOURCES


class Commit(NamedTuple):
    date: str
    changed: frozenset[str]  # files by the names that they have today; a mere renaming is no change


@cache
def history() -> list[Commit]:
    """All commits, the newest first; none where there is no git or no whole history."""
    log = ["git", "log", "--no-merges", "-M", "--name-status", "--format=commit %cs"]
    try:
        shallow = subprocess.run(
            ["git", "rev-parse", "--is-shallow-repository"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        text = subprocess.run(log, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [] if shallow.stdout.strip() == "true" else _parsed(text)


def _parsed(text: str) -> list[Commit]:
    today: dict[str, str] = {}  # the present name of a file by one that it had
    commits = []
    for part in text.split("commit ")[1:] if text.startswith("commit ") else []:
        date, *lines = part.splitlines()
        changed = set()
        for status, *names in (line.split("\t") for line in lines if line):
            name = today.get(names[-1], names[-1])
            if status.startswith("R"):
                today[names[0]] = name
            if status != "R100":
                changed.add(name)
        commits.append(Commit(date, frozenset(changed)))
    return commits


def files() -> dict[str, list[str]]:
    """The files of benchmarks/results by their names without a suffix."""
    found: dict[str, list[str]] = {}
    for path in sorted(RESULTS.iterdir()):
        found.setdefault(path.stem, []).append(path.name)
    return found


def _row(name: str, commits: list[Commit]) -> list[str]:
    code = SOURCES[name].code if name in SOURCES else ()
    cells = [
        ", ".join(files()[name]),
        ", ".join(f"`{path}`" for path in code) or "**not listed in sources.py**",
    ]
    measured = next(
        (i for i, c in enumerate(commits) if f"benchmarks/results/{name}.json" in c.changed), None
    )
    if measured is None:
        return [*cells, "unknown", "unknown", "unknown"]
    touched = [commit.date for commit in commits if _touches(commit, code)]
    since = sum(_touches(commit, code) for commit in commits[:measured])
    return [*cells, commits[measured].date, touched[0] if touched else "unknown", str(since)]


def _touches(commit: Commit, code: tuple[str, ...]) -> bool:
    return any(file == path or file.startswith(f"{path}/") for path in code for file in commit.changed)


def rows() -> list[list[str]]:
    """Files, the code, when measured, when the code changed last, and how many commits changed it since."""
    return [_row(name, history()) for name in files()]


def summary() -> str:
    if not history():
        return "This checkout has no whole history of git, so ages are unknown."
    older = sum(row[-1] not in ("0", "unknown") for row in rows())
    return f"{older} of {len(rows())} results are older than the last change of the code that they measure."


def written() -> str:
    from _tables.page import WARNING

    heads = ["result", "code that it measures", "measured", "code changed", "commits to the code since"]
    text = (
        "Dates are those of commits. A move of a file without a change of its lines does not count. An old "
        "result is not a wrong one: most changes of code leave the figures as they are. Run the command "
        "again when you change what it measures; [Benchmarks](../dev/benchmarks.md) says how."
    )
    return "\n\n".join(["# Age of the results", WARNING, text, summary(), str(Table(heads, rows()))]) + "\n"


def undated(text: str) -> list[str]:
    """What of the page does not change with every commit: the files and their code."""
    return ["|".join(line.split("|")[:3]) for line in text.splitlines() if line.startswith("|")]
