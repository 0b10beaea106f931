"""What is said of runs in every state, whole and broken."""

import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from discli.cli.info import info
from discli.cli.report import report
from discli.cli.runs import runs
from discli.runs.status import RunStatus, run_status
from discli.runs.verify import sha256_of_state
from tests.reports.test_compare_scores import changed


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A copy that may be broken; it finished at step 30."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_a_finished_run(run):
    found = run_status(run)
    assert (found.state, found.problems, found.step, found.steps, found.checkpoint) == ("finished", [], 30, 30, 30)
    assert found.loss == json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
    assert found.images_per_second == json.loads((run / "speed.jsonl").read_text())["images_per_second"]
    assert found.score is None
    assert found.bytes == sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    written = [p for p in run.rglob("*") if p.is_file() and p.name != ".lock"]
    assert found.changed.timestamp() == pytest.approx(max(path.stat().st_mtime for path in written))
    assert [line["step"] for line in found.logs["sessions"]] == [0]


def test_a_run_that_is_asked_for_more_steps_can_go_on(run):
    description = json.loads((run / "run.json").read_text())
    description["recipe"]["train"]["steps"] = 90
    (run / "run.json").write_text(json.dumps(description))
    assert (run_status(run).state, run_status(run).steps) == ("stopped", 90)


def test_a_run_under_a_lock_is_training(run):
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (run / "metrics.jsonl").open("a") as log:
            log.write('{"step": 40, "loss": 0.5}\n')
        assert (run_status(run).state, run_status(run).step, run_status(run).checkpoint) == ("training", 40, 30)
    # Later lines will be cut away: it would go on at its checkpoint.
    assert (run_status(run).state, run_status(run).step) == ("finished", 30)


def test_a_look_leaves_the_lock_free(run):
    run_status(run)
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_torn_and_strange_lines_are_counted_and_left_out(run):
    with (run / "metrics.jsonl").open("ab") as log:
        log.write(b'\n[1]\n\xff\xfe\n{"step": 31, "loss": "low"}\n{"step": 32, "loss": NaN}\n{"step": 33, "lo')
    found = run_status(run)
    assert found.problems == ["metrics.jsonl: 3 torn lines left out"]
    assert found.loss is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "run.json is missing"),
        ("{", "run.json is corrupt"),
        ("[]", "run.json is corrupt"),
        ("{}", "run.json is corrupt"),
    ],
)
def test_a_broken_description_is_damage(run, text, problem):
    (run / "run.json").unlink() if text is None else (run / "run.json").write_text(text)
    found = run_status(run)
    assert (found.state, found.problems, found.step) == ("corrupt", [problem], 30)
    assert found.loss is not None


def test_a_recipe_of_another_version_is_said_and_costs_only_the_recipe(run):
    description = json.loads((run / "run.json").read_text())
    description["recipe"]["model"]["warp"] = 9
    (run / "run.json").write_text(json.dumps(description))
    found = run_status(run)
    assert (found.state, found.steps, found.recipe) == ("finished", 30, None)
    assert "model.warp: unknown key" in found.problems[0]


def _rewrite(checkpoint, **changes):
    """state.json with ``changes``, None: without it, and the hash that belongs to it."""
    state = json.loads((checkpoint / "state.json").read_text()) | changes
    state = {key: value for key, value in state.items() if value is not None}
    (checkpoint / "state.json").write_text(json.dumps(state | {"sha256": sha256_of_state(state)}))


def test_checkpoints_that_are_not_whole(run):
    newest = run / "checkpoints" / "00000030"
    older = shutil.copytree(newest, run / "checkpoints" / "00000020")
    _rewrite(older, step=20)
    with (newest / "ema.safetensors").open("ab") as file:
        file.write(b"x")
    found = run_status(run)
    assert (found.state, found.checkpoint, found.step) == ("stopped", 20, 20)
    assert "checkpoint 30 is corrupt (ema.safetensors has" in found.problems[0]
    (older / "model.safetensors").unlink()
    (newest / "state.json").write_text("{")
    found = run_status(run)
    assert (found.state, found.checkpoint) == ("corrupt", None)
    assert found.problems == [
        "checkpoint 30 is corrupt (state.json is unreadable)",
        "checkpoint 20 is corrupt (model.safetensors is missing)",
    ]
    shutil.rmtree(run / "checkpoints")
    assert run_status(run).state == "no checkpoint"


def test_a_run_with_averages_alone_cannot_be_resumed(run):
    _rewrite(run / "checkpoints" / "00000030", window=None)
    assert run_status(run).state == "weights only"


def test_what_cannot_be_read_is_a_problem_and_no_error(run):
    for name in ("metrics.jsonl", "speed.jsonl"):
        (run / name).unlink()
        (run / name).mkdir()
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("")
    found = run_status(run)
    assert [problem.partition(" (")[0] for problem in found.problems] == [
        "metrics.jsonl cannot be read",
        "speed.jsonl cannot be read",
        "checkpoints cannot be read",
    ]
    assert (found.state, found.loss, found.images_per_second) == ("corrupt", None, None)


def test_scores_keep_their_names_and_the_latest_step_wins(run):
    line = {
        "step": 20,
        "FD (random features), not comparable with FID": 7.5,
        "n": 64,
        "sampling_steps": 5,
        "cfg_scale": 1.5,
    }
    (run / "scores.jsonl").write_text(json.dumps(line))
    score = run_status(run).score
    assert (score.name, score.value, score.step, score.n) == (
        "FD (random features), not comparable with FID", 7.5, 20, 64,
    )  # fmt: skip
    (run / "scored").mkdir()
    (run / "scored" / "fid.json").write_text(json.dumps(changed(samples__step=30)))
    (run / "scored" / "other.json").write_text('{"scores": 5}')
    found = run_status(run)
    assert (found.score.name, found.score.value, found.score.n) == ("FID", 3.0, 50_000)
    assert len(found.scores) == 2


def test_run_status_imports_no_torch():
    code = "import sys; from discli.runs.status import run_status; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_numbers_that_are_none_are_left_out(run):
    with (run / "metrics.jsonl").open("a") as log:
        log.write(
            '{"step": 31, "loss": 1%s}\n{"step": true, "loss": 1}\n{"step": 32, "rollbacks": "x"}\n' % ("0" * 400)
        )
    (run / "score.json").write_text('{"scores": {"FID": 1.0}, "samples": {"n": "many"}}')
    found = run_status(run)
    assert found.problems == ["metrics.jsonl: 2 torn lines left out"]
    assert found.loss == json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert found.scores == []


def test_three_commands_say_the_same_of_a_run(run, capsys):
    """What two of them have, they have alike; and all of `runs` is in the other two."""
    found = []
    for command in (
        lambda: runs(run, as_json=True),
        lambda: info(str(run), as_json=True),
        lambda: report(run, None, True),
    ):
        command()
        found.append(json.loads(capsys.readouterr().out))
    (listed,), described, reported = found
    for key, value in listed.items():
        if key not in ("bytes", "changed"):  # the report's page is in the folder
            assert (key, described[key]) == (key, reported[key]) == (key, value)


def test_a_status_is_read_back_by_the_class_that_wrote_it(run):
    found = run_status(run)
    again = RunStatus.model_validate_json(found.model_dump_json())
    assert (again.step, again.loss, again.changed) == (found.step, found.loss, found.changed)
    assert again.description is None
