"""Several scores a side: what chance would do is told from what differs, and no score counts twice."""

import json

import numpy as np
import pytest

from discli.reports.compare_scores import compare_files
from discli.reports.compare_sides import compare_sides
from discli.runtime.errors import DiscliError
from tests.cli.commands import discli
from tests.reports.test_compare_scores import changed


@pytest.fixture
def write(tmp_path):
    def file(name, distance, train_seed, seed=0, **changes):
        made = {"distance": distance, "scores": {"FID": distance}, "samples__seed": seed}
        made |= {"samples__train_seed": train_seed, "samples__run": f"{name[0]}-{train_seed}"}
        (tmp_path / f"{name}.json").write_text(json.dumps(changed(**made, **changes)))
        return str(tmp_path / f"{name}.json")

    return file


def test_paired_by_seed_a_small_difference_shows(write):
    """Seeds differ by 10, the sides by 1 in every seed."""
    a = [write(f"a{s}", 10.0 * s, s) for s in (1, 2, 3)]
    b = [write(f"b{s}", 10.0 * s + 1 + s / 50, s) for s in (1, 2, 3)]
    [verdict] = compare_sides(a, b).verdict
    assert verdict.startswith("They differ: A is lower by 1.04")
    assert "3 networks a side, paired by seed" in verdict
    unpaired = [write(f"c{s}", 10.0 * s + 1, s + 5) for s in (1, 2, 3)]
    [verdict] = compare_sides(a, unpaired).verdict
    assert "cannot be told" in verdict
    assert "3 and 3 networks, not paired" in verdict
    assert "seeds a side would show it" in verdict


def test_samples_of_one_network_are_no_trainings(write):
    """However many sets of samples there are, the networks are two a side."""
    a = [write(f"a{s}{k}", 5.0 + s + k / 100, s, k) for s in (0, 1) for k in range(4)]
    b = [write(f"b{s}{k}", 5.3 + 3 * s + k / 100, s, k) for s in (0, 1) for k in range(4)]
    found = compare_sides(a, b)
    assert "(2 networks, 8 sets of samples)" in found.scores[0]
    assert "cannot be told" in found.verdict[0]
    of_two = compare_sides(a[:4], b[:4])
    assert of_two.verdict[0].startswith("They differ: A is lower by 0.3")
    assert "these two networks alone" in of_two.verdict[1]


def test_networks_that_share_seeds_count_as_they_are(write):
    """Two initialisations that differ by 1, ten orders each: as twenty networks of their own they would tell."""

    def side(name, shift, orders=10):
        return [
            write(f"{name}{i}{o}", 5.0 + shift * (1 - 0.5 * i) + o / 100, {"init": i, "order": o, "noise": 0})
            for i in (0, 1)
            for o in range(orders)
        ]

    crossed = compare_sides(side("a", 0.0), side("b", 1.0))
    assert "cannot be told" in crossed.verdict[0]
    assert "all combinations of init and order seeds" in crossed.verdict[0]
    uneven = compare_sides(side("a", 0.0)[:-1], side("b", 1.0)[:-1])
    assert "share a seed" in uneven.verdict[1]


def test_checkpoints_of_one_training_are_not_trainings(write):
    """A side's networks that have all seeds in common are less independent still than those with some in common."""

    def side(name, first):
        return [write(f"{name}{k}", first + k / 9, 0, samples__step=k + 1) for k in range(3)]

    found = compare_sides(side("a", 1.0), side("b", 2.0))
    assert "share a seed" in found.verdict[1]
    assert "±" not in found.scores[0]


def test_a_single_score_a_side_tells_nothing(write):
    [verdict] = compare_sides([write("a0", 1.0, 0)], [write("b0", 99.0, 0)]).verdict
    assert "cannot be told from chance" in verdict


def test_wrong_verdicts_are_as_rare_as_they_say(write):
    """Sides of the same kind: one in twenty is said to differ."""
    generator, wrong = np.random.default_rng(0), 0
    for _ in range(100):
        sides = [[write(f"{side}{s}", float(generator.normal(20, 1)), s) for s in range(4)] for side in "ab"]
        wrong += compare_sides(*sides).verdict[0].startswith("They differ")
    assert wrong <= 11


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights_sha256": "0" * 64}, "weights of the feature network"),
        ({"samples__n": 10}, "n: 10 and 50,000 samples"),
        ({"reference__sha256": "bb"}, "reference"),
    ],
)
def test_one_that_does_not_fit_forbids_all(write, changes, says):
    a, b = [write("a0", 1.0, 0), write("a1", 1.1, 1)], [write("b0", 9.0, 0), write("b1", 9.1, 1, **changes)]
    found = compare_sides(a, b)
    assert any(says in line for line in found.forbids)
    assert found.verdict == []


def test_a_score_given_twice_is_refused(write, tmp_path):
    first, second = write("a0", 1.0, 0), write("a1", 1.1, 1)
    with pytest.raises(DiscliError, match="given twice"):
        compare_sides([first, first], [second])
    (tmp_path / "copy.json").write_bytes((tmp_path / "a0.json").read_bytes())
    with pytest.raises(DiscliError, match="scores the same samples"):
        compare_sides([first, tmp_path / "copy.json"], [second])


def test_the_same_samples_count_once_wherever_they_lie(write):
    first = write("a0", 1.0, 0)
    moved = write("a-copy", 1.0, 0, samples__path="elsewhere")
    with pytest.raises(DiscliError, match="scores the same samples"):
        compare_sides([first, moved], [write("b0", 2.0, 0)])
    other = write("a-shifted", 1.2, 0, samples__path="elsewhere", samples__time_shift=2.0)
    compare_sides([first, other], [write("b0", 2.0, 0)])


def test_a_network_is_known_by_its_weights_wherever_its_run_lies(write):
    """One that was trained anew in the same folder is another, and one whose run was moved the same."""
    old, new = (
        write(name, 1.0 + k, 0, samples__model_sha256=sha * 64)
        for k, (name, sha) in enumerate([("a0", "a"), ("a1", "b")])
    )
    compare_sides([old], [new])
    assert any("weights" in line for line in compare_files(old, new).explains)
    moved = write("b0", 1.0, 0, samples__model_sha256="a" * 64)
    with pytest.raises(DiscliError, match="scores the same samples"):
        compare_sides([old], [moved])


def test_the_command_takes_several_files_after_each_flag(write):
    a, b = [write(f"a{s}", 1.0 + s / 10, s) for s in (0, 1, 2)], [write(f"b{s}", 3.0 + s / 9, s) for s in (0, 1, 2)]
    done = discli("compare", "--a", *a, "--b", *b)
    assert "They differ: A is lower by 2.0" in done.stdout
    assert json.loads(discli("compare", "--json", "--a", *a, "--b", *b).stdout)["verdict"][0].startswith("They differ")
    for wrong in (["--a", a[0]], [a[0]], [a[0], b[0], "--a", a[1], "--b", b[1]], []):
        refused = discli("compare", *wrong)
        assert refused.returncode == 2
        assert len(refused.stderr.strip().splitlines()) == 2
