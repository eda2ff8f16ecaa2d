"""Mutation testing: do the tests of weights, rewards, metrics and estimates notice small faults?

    python tests/mutation/run.py --seed 0 --sample 400 --jobs 2

draws mutants (see `places`), runs each in a copy of the checkout against its room's tests until one
fails or time is out, and prints every survivor as a diff, then the share killed with its 95%
interval. The exit status is 1 below 85%. Results are kept in a session under `runs/mutants/`, named
after the sample and the state of all Python files: the same command goes on where it was stopped,
even by `kill -9`, and starts anew when a file has changed.
"""

import argparse
import difflib
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from places import ROOMS, mutated_code, sample, tests_for
from scipy.stats import binomtest
from slots import PACKAGES, Job, Slot, run

ROOT = Path(__file__).resolve().parents[2]
AT_LEAST = 0.85


def main() -> int:
    """Draw a sample or go on with it, and report."""
    options = arguments()
    file = session_file(options)
    file.parent.mkdir(parents=True, exist_ok=True)
    with use_db(str(file)) as session:
        if not session.num_work_items:
            again = options.survivors_of
            session.add_work_items(survivors(again) if again else drawn(options))
        print(f"session {file}", flush=True)
        with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
            slots = [Slot(ROOT, Path(folder, str(number))) for number in range(options.jobs)]
            go_on(session, slots)
        return int(report(session) < AT_LEAST)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Mutation testing.")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--sample", type=int, default=400, help="number of mutants")
    parser.add_argument("--jobs", type=int, default=2, help="test runs side by side")
    parser.add_argument("--rooms", nargs="+", default=list(ROOMS), choices=ROOMS)
    parser.add_argument(
        "--survivors-of",
        type=Path,
        metavar="SESSION",
        help="instead of a sample, run a session's survivors, once tests were added for them",
    )
    return parser.parse_args()


def session_file(options: argparse.Namespace) -> Path:
    """Name the session after what is asked and the state of the files."""
    files = [file for name in (*PACKAGES, "tests") for file in sorted((ROOT / name).rglob("*.py"))]
    state = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:8]
    asked = [str(options.seed), str(options.sample), *sorted(options.rooms)]
    if options.survivors_of:
        asked = [options.survivors_of.stem, "survivors"]
    return ROOT / "runs" / "mutants" / f"{'-'.join([*asked, state])}.sqlite"


def drawn(options: argparse.Namespace) -> list[WorkItem]:
    """Draw a sample; a mutant is called by its room and a number."""
    mutants = sample(options.rooms, ROOT, options.seed, options.sample)
    return [
        WorkItem.single(f"{room}-{index:03}", mutant)
        for index, (room, mutant) in enumerate(mutants)
    ]


def survivors(file: Path) -> list[WorkItem]:
    """Read the survivors of a session; their modules must be as they were."""
    with use_db(str(file), WorkDB.Mode.open) as session:
        found = [pair for pair in session.completed_work_items if not pair[1].is_killed]
    for item, result in found:
        (mutant,) = item.mutations
        if difference(mutant, mutated_code(mutant, ROOT)) != result.diff:
            raise SystemExit(f"{mutant.module_path} has changed since {item.job_id} survived")
    return [item for item, _ in found]


def room_of(job_id: str) -> str:
    """Read the room from a mutant's name."""
    return job_id.rpartition("-")[0]


def go_on(session: WorkDB, slots: list[Slot]) -> None:
    """Run every mutant of the session that has no result yet."""
    mutants = {item.job_id: item.mutations[0] for item in session.pending_work_items}
    seconds = limits(sorted({room_of(name) for name in mutants}), slots)
    jobs = [
        Job(
            name,
            mutant.module_path,
            mutated_code(mutant, ROOT),
            tests_for(room_of(name), mutant.module_path, ROOT),
            seconds[room_of(name)],
        )
        for name, mutant in sorted(mutants.items())
    ]
    diffs = {job.name: difference(mutants[job.name], job.code) for job in jobs}
    for job, outcome in run(jobs, slots):
        fate = TestOutcome.SURVIVED if outcome.status == 0 else TestOutcome.KILLED
        output = "out of time" if outcome.status is None else outcome.output
        result = WorkResult(WorkerOutcome.NORMAL, output, fate, diffs[job.name])
        session.set_result(job.name, result)
        done = f"{session.num_results}/{session.num_work_items}"
        print(f"{done} {job.name} {fate.value} in {outcome.seconds:.0f} s", flush=True)


def limits(rooms: Iterable[str], slots: list[Slot]) -> dict[str, float]:
    """Run each room's tests on the code as it is: they must pass, and their time is the measure.

    Returns:
        Processor time that a mutant has, in seconds, by room.
    """
    jobs = [Job(room, None, "", tests_for(room, Path(), ROOT), 3600) for room in rooms]
    allowed = {}
    for job, outcome in run(jobs, slots):
        if outcome.status != 0:
            raise SystemExit(f"tests of {job.name} fail without a mutant:\n{outcome.output}")
        print(f"tests of {job.name} pass in {outcome.seconds:.0f} s", flush=True)
        allowed[job.name] = 2 * outcome.seconds + 30
    return allowed


def difference(mutant: MutationSpec, code: str) -> str:
    """Show as a diff what the mutant changes, given its code."""
    name = str(mutant.module_path)
    before = (ROOT / name).read_text().splitlines()
    return "\n".join(difflib.unified_diff(before, code.splitlines(), name, name, "", "", 2, ""))


def report(session: WorkDB) -> float:
    """Print the survivors and the scores with 95% intervals (Wilson's).

    Returns:
        Share of all mutants that were killed.
    """
    results = dict(session.results)
    for name, result in sorted(results.items()):
        if not result.is_killed:
            print(f"\n{name} survived\n{result.diff}")
    print()
    score = 1.0
    for room in [*sorted({room_of(name) for name in results}), "all"]:
        fates = [
            result.is_killed for name, result in results.items() if room in (room_of(name), "all")
        ]
        low, high = binomtest(sum(fates), len(fates)).proportion_ci(method="wilson")
        score = sum(fates) / len(fates)
        print(f"{room}: {sum(fates)} of {len(fates)} killed, {score:.1%} [{low:.1%}, {high:.1%}]")
    return score


if __name__ == "__main__":
    raise SystemExit(main())
