"""Puts faults into copies of the repository and tells which the tests notice.

    python benchmarks/fault_injection.py [--only PATTERN ...] [--list] [--jobs 2] [--write]

A fault of fault_table.py is one replacement that would make results wrong without an error. Each is
put into a copy of the tracked files, where the tests that must notice it run. Prints a table: every
fault with the first test that failed, or SURVIVED. The exit code is 1 if one survived, or if the
tests fail without any fault. `--only` takes patterns of names, such as 'data/*'; `--write` keeps
the table in benchmarks/results, with the rows there of faults that were not put in this time.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from fault_table import FAULTS, Fault
from measure import RESULTS, write_result

ROOT = Path(__file__).parents[1]
SURVIVED = "SURVIVED"


def check(fault: Fault) -> None:
    """Raises SystemExit naming the fault unless its text occurs once and its tests exist."""
    count = (ROOT / fault.file).read_text().count(fault.old)
    if count != 1:
        raise SystemExit(f"{fault.name}: {fault.file} holds its text {count} times: {fault.old!r}")
    for test in fault.tests:
        if not (ROOT / test).exists():
            raise SystemExit(f"{fault.name}: {test}: no such tests")


def copy_tracked(folder: Path) -> None:
    """Copies what git tracks, as the working tree has it, into `folder`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in listed.stdout.decode().split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def first_failure(folder: Path, tests: Iterable[str], *, jobs: int = 1) -> str | None:
    """The first test that fails in the copy in `folder`; None if all pass."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    python = [sys.executable, "-m"]
    parallel = ["-n", str(jobs), "--dist", "loadfile"] if jobs > 1 else []
    done = subprocess.run(
        [*python, "pytest", "-x", "-q", *parallel, *tests],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if failed is None:  # no test failed: pytest did
        raise SystemExit(f"{done.stdout}\n{done.stderr}")
    return failed[1]


def inject(fault: Fault) -> str:
    """The first test that fails with the fault, or SURVIVED."""
    with tempfile.TemporaryDirectory(prefix="perpixel-fault-") as name:
        folder = Path(name)
        copy_tracked(folder)
        file = folder / fault.file
        file.write_text(file.read_text().replace(fault.old, fault.new))
        return first_failure(folder, fault.tests) or SURVIVED


def check_baseline(faults: Iterable[Fault], *, jobs: int) -> None:
    """Raises SystemExit unless the tests pass without a fault, in a copy that they import."""
    with tempfile.TemporaryDirectory(prefix="perpixel-fault-") as name:
        folder = Path(name)
        copy_tracked(folder)
        imported = subprocess.run(
            [sys.executable, "-c", "import perpixel; print(perpixel.__file__)"],
            cwd=folder, env=os.environ | {"PYTHONPATH": name}, check=True, capture_output=True,
            text=True,
        ).stdout  # fmt: skip
        if not Path(imported).is_relative_to(folder):
            raise SystemExit(f"the copy's tests would import {imported.strip()}")
        tests = dict.fromkeys(test for fault in faults for test in fault.tests)
        if failed := first_failure(folder, tests, jobs=jobs):
            raise SystemExit(f"without any fault {failed} fails: nothing can be told")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--list", action="store_true", help="names the faults and runs nothing")
    parser.add_argument("--jobs", type=int, default=1, help="faults at a time")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    faults = [f for f in FAULTS if any(fnmatchcase(f.name, p) for p in arguments.only)]
    for fault in faults:
        check(fault)
    if arguments.list:
        print("\n".join(fault.name for fault in faults))
        return
    check_baseline(faults, jobs=arguments.jobs)
    found: dict[str, str] = {}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for fault, noticed_by in zip(faults, pool.map(inject, faults), strict=True):
            print(f"{fault.name:<68}{noticed_by}", flush=True)
            found[fault.name] = noticed_by
    survivors = list(found.values()).count(SURVIVED)
    print(f"{len(found) - survivors} of {len(found)} faults noticed")
    if arguments.write:
        path = RESULTS / "fault_injection.json"
        known = json.loads(path.read_text())["noticed_by"] if path.exists() else {}
        rows = known | found
        names = [fault.name for fault in FAULTS if fault.name in rows]
        write_result("fault_injection", {"noticed_by": {name: rows[name] for name in names}})
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
