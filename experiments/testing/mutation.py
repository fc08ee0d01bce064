"""Planted errors, one at a time: `python -m experiments mutation draw MUTANTS.json`.

`draw` chooses mutants by a seed, `run` runs tests of each one's folder, `survivors`
runs the whole suite on the rest, `find` locates each mutant in today's code, and
`summary` counts. The repository is never changed: mutants are planted in a copy.
--quick draws a few mutants and locates them; no test is run.
"""

import json
import pathlib
import sys
import tempfile
from collections import Counter
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional, arg

from ._mutant_tree import Tests, Tree
from ._mutants import Place, folder_of, locate, mutations, plant, read_tree

Mutants = Positional[Annotated[pathlib.Path, arg(metavar="MUTANTS.json")]]
Outcome = Positional[Annotated[pathlib.Path, arg(metavar="OUTCOME.json")]]

_ROOT = pathlib.Path(__file__).parents[2]
# Kinds of errors that are easily overlooked, drawn twice as often.
_SUBTLE = {"boundary", "number", "plus", "times", "extreme", "logic", "axis"}
# Limit of processor time for some files; for all tests, multiples and seconds more.
_RUN_SECONDS, _TIMES, _SECONDS = 400, 3, 60


def draw(
    out: Positional[Annotated[pathlib.Path, arg(metavar="MUTANTS.json")]],
    *,
    seed: int = 20,
    count: int = 60,
    least: int = 3,
    root: pathlib.Path = _ROOT,
) -> None:
    """Draw mutants by a seed: of all kinds, and at most one in a function.

    Only statements that occur once in the package are mutated: they can be located.

    Args:
        out: File to write.
        seed: Of the generator.
        count: Number of mutants.
        least: Least number of mutants of each folder.
        root: The repository.
    """
    modules, rng = read_tree(root), np.random.default_rng(seed)
    times = Counter(s.text for members in modules.values() for s in members)
    pools: dict[str, list[dict[str, Any]]] = {}
    for path, members in modules.items():
        source = (root / path).read_bytes()
        for statement in members:
            for kind, after in (
                mutations(statement) if times[statement.text] == 1 else ()
            ):
                line = statement.node.lineno
                mutant = {"folder": folder_of(path), "file": path}
                mutant |= {"function": statement.function, "line": line, "kind": kind}
                mutant["source"] = source.splitlines()[line - 1].decode().strip()
                mutant |= {"before": statement.text, "after": after, "moved_to": None}
                compile(plant(source, statement, after), path, "exec")
                pools.setdefault(folder_of(path), []).append(mutant)
    sizes = {folder: len(pool) for folder, pool in pools.items()}
    drawn = []
    turns = [folder for folder in pools for _ in range(least)]
    while len(drawn) < count:
        folders = [folder for folder, pool in pools.items() if pool]
        share = np.array([sizes[folder] for folder in folders], float)
        if turns:
            folder = turns.pop(0)
        else:
            folder = str(rng.choice(folders, p=share / share.sum()))
        kinds = sorted({mutant["kind"] for mutant in pools[folder]})
        weights = np.array([1 + (kind in _SUBTLE) for kind in kinds], float)
        kind = rng.choice(kinds, p=weights / weights.sum())
        choices = [mutant for mutant in pools[folder] if mutant["kind"] == kind]
        mutant = choices[rng.integers(len(choices))]
        place = mutant["file"], mutant["function"]
        pools[folder] = [
            m for m in pools[folder] if (m["file"], m["function"]) != place
        ]
        drawn.append(mutant)
    drawn.sort(key=lambda mutant: (mutant["file"], mutant["line"]))
    numbered = [{"id": f"{i:02}", **mutant} for i, mutant in enumerate(drawn, start=1)]
    _write(out, {"seed": seed, "candidates": sizes, "mutants": numbered})
    print(f"{len(numbered)} of {sum(sizes.values())} mutants in {len(sizes)} folders")


def find(mutants: Mutants, *, root: pathlib.Path = _ROOT) -> None:
    """Locate each mutant in today's code, and list code similar to lost ones.

    Args:
        mutants: Output of `draw`, with `moved_to` edited by hand.
        root: The repository.
    """
    modules = read_tree(root)
    for mutant in _read(mutants)["mutants"]:
        place = locate(modules, mutant)
        if isinstance(place, Place):
            print(mutant["id"], place.path, place.statement.function)
        else:
            print(f"{mutant['id']} {mutant['file']}, {mutant['before']}: {place}")


def run(
    mutants: Mutants,
    outcome: Outcome,
    *,
    only: tuple[str, ...] = (),
    files: int = 3,
    root: pathlib.Path = _ROOT,
) -> None:
    """Plant each mutant and run the most relevant tests of its folder until one fails.

    Tests that caught a mutant are run once without any: a test that fails then, too,
    has caught nothing. Mutants with an outcome are not run again, unless `only` names
    them. What survives is left to `survivors`, which runs all tests.

    Args:
        mutants: Output of `draw`.
        outcome: File to write, after each mutant.
        only: Identifiers of the mutants to run; none for all.
        files: Most test files to run for a mutant, beside its module's own examples.
        root: The repository.
    """
    tree = Tree(root)
    report = _read(outcome) if outcome.exists() else {"outcomes": {}}
    outcomes = report["outcomes"]
    for mutant in _read(mutants)["mutants"]:
        name = mutant["id"]
        if name not in only if only else name in outcomes:
            continue
        place = locate(tree.modules, mutant)
        outcomes[name] = {"folder": mutant["folder"]}
        if isinstance(place, str):
            outcomes[name] |= {"status": "not found", "why": place}
        else:
            tree.plant(place)
            tests = [*tree.tests_of(place)[1][:files], place.path]
            outcomes[name] |= _verdict(tree.test(["-x", *tests], limit=_RUN_SECONDS))
        _write(outcome, report)
        print(name, outcomes[name], flush=True)
    tree.plant()
    catchers = {o["by"] for o in outcomes.values() if "::" in o.get("by", "")}
    usual = tree.test(sorted(catchers)).failed if catchers else {}
    for name, verdict in outcomes.items():
        if verdict.get("by") in usual:
            outcomes[name] = {"folder": verdict["folder"], "status": "survived"}
            print(name, "survived:", verdict["by"], "fails without a mutant, too")
    _write(outcome, report)


def _verdict(tests: Tests) -> dict[str, Any]:
    """Derives the outcome of a mutant from a run of tests."""
    cost = {"seconds": round(tests.seconds), "processor": round(tests.processor)}
    if tests.status == 0:
        return {"status": "survived", **cost}
    if tests.failed:
        test, error = next(iter(tests.failed.items()))
        return {"status": "caught", "by": test, "why": error, **cost}
    if tests.status is None:
        return {"status": "caught", "by": "timeout", **cost}
    # Killed by a signal, or no test could be collected.
    return {"status": "caught", "by": f"exit status {tests.status}", **cost}


def survivors(
    mutants: Mutants, outcome: Outcome, *, n: int = 0, root: pathlib.Path = _ROOT
) -> None:
    """Run the whole suite on all survivors of `run` together, then sort them out.

    Tests that fail with all of them and not without any are run again with each alone.
    That is exact as long as no mutant hides another: a survivor counts as not caught if
    the only test that would catch it passes with all of them planted.

    Args:
        mutants: Output of `draw`.
        outcome: Output of `run`; `whole_suite` is added to it.
        n: Worker processes of pytest for the whole suite; 0 for none.
        root: The repository.
    """
    tree, report = Tree(root), _read(outcome)
    places = {}
    for mutant in _read(mutants)["mutants"]:
        place = locate(tree.modules, mutant)
        status = report["outcomes"].get(mutant["id"], {}).get("status")
        if status == "survived" and isinstance(place, Place):
            places[mutant["id"]] = place
    tree.plant(*places.values())
    together = tree.test(n=n)
    tree.plant()
    # A file that could not be imported is a suspect as a whole.
    suspects = sorted(together.failed)
    usual = tree.test(suspects).failed if suspects else {}
    suspects = [test for test in suspects if test not in usual]
    report["whole_suite"] = {**together._asdict(), "usual": usual, "suspects": suspects}
    _write(outcome, report)
    for name, place in places.items():
        verdict = {"status": "survived"}
        if suspects:
            tree.plant(place)
            limit = _TIMES * together.processor + _SECONDS
            verdict = _verdict(tree.test(["-x", *suspects], limit=limit))
        report["outcomes"][name]["whole_suite"] = verdict
        _write(outcome, report)
        print(name, verdict, flush=True)


def summary(outcomes: Positional[tuple[pathlib.Path, ...]]) -> None:
    """Count the caught mutants, folder by folder.

    Args:
        outcomes: Outputs of `run` and `survivors`.
    """
    for path in outcomes:
        counts: dict[str, Counter[str]] = {}
        for mutant in _read(path)["outcomes"].values():
            in_suite = mutant.get("whole_suite", {}).get("status")
            status = (
                "caught by the whole suite"
                if in_suite == "caught"
                else mutant["status"]
            )
            for folder in (mutant["folder"], "all"):
                counts.setdefault(folder, Counter())[status] += 1
        print(path)
        for folder, count in sorted(counts.items()):
            numbers = (f"{n} {status}" for status, n in sorted(count.items()))
            print(f"  {folder}: {count.total()} drawn, {', '.join(numbers)}")


def _read(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _write(path: pathlib.Path, value: dict[str, Any]) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


def main() -> None:
    """Reads the command line and runs one of the commands."""
    if sys.argv[1:] == ["--quick"]:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "mutants.json"
            draw(path, count=5, least=0)
            find(path)
        return
    verbs = {verb.__name__: verb for verb in (draw, find, run, survivors, summary)}
    tyro.extras.subcommand_cli_from_dict(verbs, prog="python -m experiments mutation")
