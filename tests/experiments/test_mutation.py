import ast
import itertools

import pytest

from experiments.testing._mutants import (
    Place,
    locate,
    mutations,
    plant,
    read_tree,
    statements,
)

SOURCE = b'''"""Doc < string."""
LIMIT = 1 < 2


def total(x: int, *, axis: int = 0) -> int:
    """Sums, or x < 3."""
    if x < 3 and not isinstance(x, str):
        raise ValueError(f"{x + 1} < 3")
    while (
        x
        <= 4  # Half of the way.
    ):
        x += 2

    def inner():
        return max(x, key=len)

    print(x + 1)
    return sum(x, axis=0)
'''
MUTANTS = {
    ("total", "while x <= 4", "while x < 4"),
    ("total", "while x <= 4", "while x <= 5"),
    ("total", "x += 2", "x -= 2"),
    ("total", "x += 2", "x += 3"),
    ("total", "x += 2", "pass"),
    ("total.inner", "return max(x, key=len)", "return min(x, key=len)"),
    ("total.inner", "return max(x, key=len)", "return x"),
    ("total", "return sum(x, axis=0)", "return sum(x, axis=1)"),
    ("total", "return sum(x, axis=0)", "return x"),
}


@pytest.fixture
def package(tmp_path):
    (tmp_path / "diffjax").mkdir()
    (tmp_path / "diffjax" / "sums.py").write_bytes(SOURCE)
    return tmp_path


def mutant(before, after, moved_to=None, file="diffjax/sums.py", function="total"):
    place = {"file": file, "function": function, "moved_to": moved_to}
    return {"before": before, "after": after, **place}


def test_computations_are_mutated_and_no_texts_or_type_checks():
    got = {
        (s.function, s.text, after)
        for s in statements(ast.parse(SOURCE))
        for _, after in mutations(s)
    }
    assert got == MUTANTS


@pytest.mark.parametrize(("function", "before", "after"), sorted(MUTANTS))
def test_a_planted_mutant_changes_its_statement_alone(package, function, before, after):
    wanted = mutant(before, after, function=function)
    place = locate(read_tree(package), wanted)
    assert isinstance(place, Place)
    planted = plant(SOURCE, place.statement, place.after)
    was, now = (list(statements(ast.parse(s))) for s in (SOURCE, planted))
    changed = [
        a.text for a, b in itertools.zip_longest(was, now) if not b or a.text != b.text
    ]
    assert changed[0] == before
    assert after in ast.unparse(ast.parse(planted))
    assert len(changed) == 1 or after == "pass"


@pytest.mark.parametrize(
    "moved",
    [
        mutant("x += 2", "x -= 2", file="diffjax/gone.py", function="of_old"),
        mutant("y += 2", "y -= 2", {"before": "x+=2", "after": "x-=2"}),
        mutant("x += 2", "x -= 2", {"function": "total"}, file="diffjax/gone.py"),
    ],
)
def test_a_mutant_is_found_where_its_statement_has_moved(package, moved):
    place = locate(read_tree(package), moved)
    assert isinstance(place, Place)
    assert (place.path, place.after) == ("diffjax/sums.py", "x -= 2")


def test_a_lost_mutant_is_listed_with_similar_statements(package):
    modules = read_tree(package)
    why = locate(modules, mutant("x += 20", "x -= 20"))
    assert isinstance(why, str)
    assert "sums.py, total: x += 2" in why
    assert "no longer" in str(locate(modules, mutant("", "", {"gone": "no longer"})))
