"""Records: one is rehearsed from recipe to table, in pieces; rules that are broken; what beats what."""

import tomllib
from pathlib import Path

import pytest

import discli
from discli.cli.quickstart import unpack_digits
from discli.data.encode import encode
from discli.data.store import Store
from discli.recipe import load_recipe, parse_recipe
from discli.recipe.size import Size
from discli.runs.layout import RunFolder
from discli.runtime.errors import DiscliError
from discli.runtime.signals import EXIT_INTERRUPTED
from tests.bench import record
from tests.tiny_run import RECIPE

TABLE = '\n[record]\nminutes = {minutes}\nchanged = "{changed}"\n'


def _result(*distances: float, **others) -> record.Result:
    zeros = [0.0 for _ in distances]
    told = {"date": "2026-12-01", "commit": "abc", "processor": "p", "torch": "t", "data_sha256": "0", "score": "FD"}
    lists = {"recognised": zeros, "minutes": zeros, "sampling_minutes": zeros, "images_per_second": zeros}
    seeds = list(range(len(distances)))
    return record.Result(**{**told, **lists, "n": 9, "nfe": 9, "seeds": seeds, "distance": list(distances), **others})


@pytest.fixture
def file(tmp_path) -> Path:
    """A recipe of 16 px with a record of ten minutes."""
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.replace("resolution = 8", "resolution = 16") + TABLE.format(minutes=10, changed="all"))
    return path


def test_a_recipe_with_a_record_trains_as_one_without(file):
    with_record = load_recipe(file)
    file.write_text(file.read_text().partition("[record]")[0])
    assert load_recipe(file) == with_record


def test_a_result_is_written_once_below_the_recipe_and_read_back(file):
    before = file.read_text()
    for distances in ((3.0, 4.0), (1.0, 2.0)):
        record.write_result(file, _result(*distances))
    assert file.read_text().startswith(before.rstrip())
    assert record.read_record(file).result.scores == {0: 1.0, 1: 2.0}
    assert tomllib.loads(file.read_text())["record"]["changed"] == "all"
    load_recipe(file)


def test_the_table_has_what_was_run_in_order_and_no_rehearsal(tmp_path):
    (tmp_path / "README.md").write_text(f"above\n{record.BEGIN}\nold\n{record.END}\nbelow\n")

    def add(name: str, minutes: float, result: record.Result | None) -> None:
        path = tmp_path / f"{name}.toml"
        path.write_text(f'name = "{name}"\n' + TABLE.format(minutes=minutes, changed=f"c-{name}"))
        if result:
            record.write_result(path, result)

    add("later", 40, _result(2.0, 3.0, 2.5, date="2026-12-02", less=[1.0, 0.5, 1.5]))
    add("chance", 40, _result(2.0, 3.0, 2.5, date="2026-12-03", less=[1.0, -0.5, 2.5]))
    add("first", 40, _result(3.0, 4.0, 3.5))
    add("short", 10, _result(9.0, 9.0, 9.5))
    add("not-run", 10, None)
    add("tried", 10, _result(1.0, rehearsal=True))
    record.write_table(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("above\n")
    assert page.endswith("below\n")
    assert "old" not in page
    rows = [row.split(" | ") for row in page.splitlines() if row.startswith("| ") and "[" in row]
    assert [row[1].partition("]")[0] for row in rows] == ["[short", "[first", "[later", "[chance"]
    assert [row[4] for row in rows] == ["-", "-", "1 (0.5 to 1.5)", "1 (-0.5 to 2.5; may be chance, no record)"]
    assert "3.5 ± 1.2" in rows[1][3]


def test_a_difference_is_paired_by_seed():
    found = record.less_than({0: 5.0, 1: 9.0, 2: 7.0}, {0: 4.0, 1: 7.9, 2: 6.1})
    assert found.low > 0.5  # alone, each side's spread is larger than the difference
    assert record.less_than({0: 5.0, 1: 9.0, 2: 7.0}, {7: 4.0, 8: 7.9, 9: 6.1}).low < 0


def _grid(accuracy: float | None) -> dict:
    about = {"name": "own", "network": "n", "weights_sha256": "1", "input_size": 16, "side": 2, "channels": 4}
    return about | {"accuracy": accuracy}


@pytest.mark.parametrize(
    ("grids", "align", "told", "key"),
    [
        ([], False, {}, None),
        ([_grid(0.9)], True, {"teacher_minutes": 1.0}, None),
        ([_grid(None)], False, {}, None),  # nobody looks at them
        ([_grid(None)], True, {"teacher_minutes": 1.0}, "other images"),
        ([_grid(0.9)], True, {}, "teacher_minutes"),
        ([], False, {"minutes": 11}, "budgets"),
        ([], False, {"before": "another"}, "another budget"),
    ],
)
def test_rules(grids, align, told, key, file, digits_file):
    if align:
        file.write_text(file.read_text().replace("[sample]", '[train.align]\nfeatures = "own"\n[sample]'))
    contract = Store(digits_file).contract
    cifar10 = {"num_samples": 50_000, "resolution": Size.square(32), "grids": grids}
    contract = type(contract).model_validate(contract.model_dump() | cifar10)
    claim = record.Record(**{"minutes": 10, "changed": "all", **told})
    before = record.Record(minutes=40, changed="") if claim.before else None
    broken = record.broken_rules(load_recipe(file), claim, before, contract, 3, False)
    assert (not broken) if key is None else key in " ".join(broken)


def test_other_data_few_seeds_and_a_missing_table_are_refused(file, digits_file, tmp_path):
    with pytest.raises(DiscliError, match="holds images of 8 px"):
        record.run(str(file), digits_file, tmp_path, [0, 1, 2], 1, record.Stop(), None)
    file.write_text(RECIPE + TABLE.format(minutes=10, changed="all"))
    with pytest.raises(DiscliError, match="50,000 training images"):
        record.run(str(file), digits_file, tmp_path, [0, 1, 2], 1, record.Stop(), None)
    file.write_text(RECIPE)
    with pytest.raises(DiscliError, match=r"\[record\]"):
        record.run(str(file), digits_file, tmp_path, [0], 1, record.Stop(), 10)
    with pytest.raises(DiscliError, match="No record at"):
        record.read_record(tmp_path / "nowhere.toml")


def test_one_seed_given_thrice_is_one_and_a_rehearsal_is_nothing_to_beat(file, digits_file, tmp_path):
    file.write_text(RECIPE + TABLE.format(minutes=10, changed="all"))
    with pytest.raises(DiscliError, match="1 seeds"):
        record.run(str(file), digits_file, tmp_path, [0, 0, 0], 1, record.Stop(), None)
    before = record.Record(minutes=10, changed="", result=_result(1.0, rehearsal=True))
    contract = Store(digits_file).contract.model_copy(update={"num_samples": 50_000, "resolution": Size.square(32)})
    claim = record.Record(minutes=10, changed="all", before="tried")
    assert "rehearsed" in " ".join(record.broken_rules(load_recipe(file), claim, before, contract, 3, False))


def test_minutes_of_another_processor_are_not_compared(file, digits_file):
    contract = Store(digits_file).contract.model_copy(update={"num_samples": 50_000, "resolution": Size.square(32)})
    claim = record.Record(minutes=10, changed="all", before="first")
    for where, refused in ((record.processor(), False), ("another", True)):
        before = record.Record(minutes=10, changed="", result=_result(1.0, processor=where))
        broken = record.broken_rules(load_recipe(file), claim, before, contract, 3, False)
        assert ("run it here first" in " ".join(broken)) == refused


def test_a_recipe_that_was_changed_after_its_training_has_no_result(tiny_run, tmp_path):
    (tmp_path / "run").symlink_to(tiny_run)
    recipe = discli.load(tiny_run).recipe
    tree = recipe.model_dump(mode="json")
    record.check_trained(parse_recipe({**tree, "train": {**tree["train"], "seed": 9}}, "tiny"), tmp_path)
    changed = recipe.model_copy(update={"sample": recipe.sample.model_copy(update={"cfg_scale": 3.5})})
    with pytest.raises(DiscliError, match="cfg_scale was"):
        record.check_trained(changed, tmp_path)


class _AtItsFirstCheckpoint(record.Stop):
    """Stops the trainings once one in ``run`` is on its way."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = RunFolder(run)

    def __bool__(self) -> bool:
        return super().__bool__() or bool(self.run.find_checkpoints())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_record_is_rehearsed_in_pieces(file, tmp_path):
    """From recipe to score, stopped on the way; compared with another; and one that is too slow."""
    unpack_digits(tmp_path / "digits")
    for path in (tmp_path / "digits").glob("*/*.png"):
        if int(path.stem) >= 20:
            path.unlink()
    data = encode(tmp_path / "digits", 16, codec="rgb", out=tmp_path / "digits.h5", workers=0)
    out, seeds = tmp_path / "records", [0, 1]
    text = file.read_text().replace("steps = 12", "steps = 200").replace("minutes = 10", "minutes = 600")
    file.write_text(text)
    first = out / "tiny/seed-0"
    with pytest.raises(DiscliError) as paused:
        record.run(str(file), data, out, seeds, 1, _AtItsFirstCheckpoint(first / "run"), 40)
    assert paused.value.status == EXIT_INTERRUPTED
    took = record.read_times(first).training
    assert took > 0
    assert record.read_record(file).result is None

    found = record.run(str(file), data, out, seeds, 1, record.Stop(), 40)
    assert record.read_record(file).result == found
    assert found.rehearsal
    assert len(found.distance) == len(found.recognised) == 2
    assert took / 60 <= found.minutes[0]
    assert "Compiling" in (first / "train.log").read_text()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    again = record.run(str(file), data, out, seeds, 1, record.Stop(), 40)
    assert (again.distance, again.minutes) == (found.distance, found.minutes)
    assert kept == {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}

    second = tmp_path / "second.toml"
    other = text.replace('name = "tiny"', 'name = "second"').replace("steps = 200", "steps = 12")
    second.write_text(other + 'before = "tiny"\n')
    compared = record.run(str(second), data, out, seeds, 1, record.Stop(), 40)
    mean, low, high = compared.less
    assert low <= mean <= high
    assert mean == pytest.approx(sum(found.distance) / 2 - sum(compared.distance) / 2)

    slow = tmp_path / "slow.toml"
    slow.write_text(text.replace('"tiny"', '"slow"').replace("minutes = 600", "minutes = 0.01"))
    with pytest.raises(DiscliError, match="over its budget") as late:
        record.run(str(slow), data, out, seeds, 1, record.Stop(), 40)
    assert late.value.status == 1
    assert record.read_record(slow).result is None
