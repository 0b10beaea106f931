"""Studies as a user meets them: real trials in real processes, killed, continued, extended and failing."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from PIL import Image

from discli.ablation import scorer
from discli.ablation.checks import check_before
from discli.ablation.plan import describe_plan, find_trial, make_plan, plan_study, refresh
from discli.ablation.report import summarise, write_report
from discli.ablation.results import StudyReport
from discli.ablation.study import ablate, ablate_trial
from discli.ablation.trial import failure_of, plan_recipe, read_result, run_trial
from discli.ablation.trial_result import TrialResult
from discli.ablation.workers import run_trials
from discli.cli.ablate import ablate as command
from discli.data.encode import encode
from discli.evaluation.evaluate import evaluate
from discli.recipe import load_study
from discli.reports.run import report_run
from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError
from discli.sampling.sample import sample
from tests.ablation.test_report import result
from tests.data.autoencoders.autoencoders import save_tiny
from tests.tiny_run import RECIPE

STUDY = """
name = "skips"
base = "tiny.toml"
seeds = {seeds}
budget.steps = {steps}
[axes]
model.skip = {skips}
[score]
features = "random"
n = 8
curve_points = 2
curve_n = 8
images = 3
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a study beside its base; trials run in this folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "tiny.toml").write_text(RECIPE)

    def study(skips='["concat", "none"]', steps=6, seeds="[0, 1]", more=""):
        (tmp_path / "study.toml").write_text(STUDY.format(skips=skips, steps=steps, seeds=seeds) + more)
        return tmp_path / "study.toml"

    return study


def finished(out):
    return {str(path.parent.relative_to(out / "trials")): path.stat().st_mtime_ns for path in out.rglob("result.json")}


POINT = """
[[points]]
name = "{name}"
train.lr = {lr}
train.skip_limit = 1
"""


@pytest.mark.slow
def test_a_study_reports_what_failed_and_runs_only_what_is_new(write, digits_file, tmp_path):
    one_seed = {"skips": '["none"]', "seeds": "[0]"}
    good, other = POINT.format(name="good", lr=1e-3), POINT.format(name="other", lr=2e-3)
    ablate(write(more=good, **one_seed), data=digits_file)
    out = tmp_path / "runs/ablate-skips"
    first = finished(out)
    assert first.keys() == {"good,skip=none/seed-0"}
    result = json.loads((out / "trials/good,skip=none/seed-0/result.json").read_text())
    assert [line["step"] for line in result["curve"]] == [3, 6]
    assert result["steps"] * 8 == result["images"] == 48
    assert result["eval"]["samples"]["n"] == 8
    assert result["peak_memory"] > 1e7

    bad = POINT.format(name="bad", lr=1e30)  # its numbers are soon not finite
    with pytest.raises(DiscliError, match="1 of 3 trials failed, 2 are done") as caught:
        ablate(write(more=good + bad + other, **one_seed), data=digits_file, jobs=2)
    assert caught.value.status == 1
    after = finished(out)
    assert after == first | {"other,skip=none/seed-0": after["other,skip=none/seed-0"]}
    report = (out / "report.md").read_text()
    assert "2 of 3 trials finished" in report
    assert "Failed: bad,skip=none/seed-0" in report
    assert "not finite" in report


def test_a_trial_is_scored_by_each_sampling_seed(write, digits_file, tmp_path):
    study, trials = load_study(write(steps=2, seeds="{ init = 2, sampling = 2 }"))
    crossed = run_trial(study, trials[0], tmp_path / "trial", digits_file)
    first, second = crossed.by_sampling
    assert first != second
    assert crossed.score == pytest.approx((first + second) / 2)
    assert first == crossed.eval.distance
    assert len(crossed.recognised_by_sampling) == 2
    assert crossed.recognised_by_sampling[0] == crossed.eval.recognised.samples.share
    more, trials = load_study(write(steps=2, seeds="{ init = 2, sampling = 3 }"))
    with pytest.raises(DiscliError, match="scored with 2 sampling seeds, the study now says 3"):
        read_result(more, trials[0], plan_recipe(more, trials[0]), tmp_path / "trial")
    plain, trials = load_study(write(steps=2, seeds="[0]"))
    with pytest.raises(DiscliError, match="scored with 2 sampling seeds, the study now says 1"):
        read_result(plain, trials[0], plan_recipe(plain, trials[0]), tmp_path / "trial")
    (tmp_path / "trial" / "result.json").unlink()
    assert run_trial(plain, trials[0], tmp_path / "trial", digits_file).score == first  # of the same network
    by_class, trials = load_study(write(steps=2, seeds="{ init = 2, sampling = 2 }", more='by = "recognised"\n'))
    (tmp_path / "trial" / "result.json").unlink()
    shares = run_trial(by_class, trials[0], tmp_path / "trial", digits_file)
    assert shares.score == pytest.approx(1 - shares.recognised) == pytest.approx(1 - crossed.recognised)


def test_a_trial_depends_on_its_seed_and_settings_alone(write, digits_file, tmp_path):
    study, trials = load_study(write())
    again, first, other_seed = (
        run_trial(study, trial, tmp_path / name, digits_file)
        for name, trial in (("again", trials[0]), ("first", trials[0]), ("other seed", trials[1]))
    )
    assert again.score == first.score != other_seed.score
    assert again.loss == first.loss != other_seed.loss
    strips = [(tmp_path / name / "images.png").read_bytes() for name in ("again", "first", "other seed")]
    assert strips[0] == strips[1] != strips[2]


@pytest.mark.slow
def test_killed_with_its_trials_it_goes_on(write, digits_file, tmp_path):
    path = write(skips='["concat"]', steps=150, seeds="[0]")
    command = [sys.executable, "-m", "discli", "ablate", str(path), "--data", str(digits_file)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    run = tmp_path / "runs/ablate-skips/trials/skip=concat/seed-0/run"
    deadline = time.monotonic() + 120
    while not any(line["step"] >= 6 for line in read_log(run / "metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The trial is told by the kernel, writes its checkpoint and ends: its lock is free again.
    while subprocess.run(["flock", "--nonblock", run / ".lock", "true"]).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stopped_at = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert 0 < stopped_at < 150
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = (run.parent / "log.txt").read_text()
    assert f"resuming at step {stopped_at}" in log
    steps = [line["step"] for line in read_log(run / "metrics.jsonl")]
    assert steps == sorted(set(steps))


def test_a_changed_study_is_refused_before_anything_runs(write, digits_file, tmp_path):
    study, trials = load_study(write())
    out = tmp_path / "out"
    run_trial(study, trials[0], out / "trials" / trials[0].name, digits_file)
    changed, trials = load_study(write(steps=7))
    with pytest.raises(DiscliError, match=r"skip=concat/seed-0.*train\.steps = 6"):
        make_plan(changed, trials, out)


@pytest.fixture(scope="module")
def one_done(tmp_path_factory, digits_file):
    """A study's folder in which one trial of four is finished."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(RECIPE)
    (folder / "study.toml").write_text(STUDY.format(skips='["concat", "none"]', steps=2, seeds="[0, 1]"))
    study, trials = load_study(folder / "study.toml")
    run_trial(study, trials[0], folder / "out" / "trials" / trials[0].name, digits_file)
    return folder


def load_changed(folder, old, new):
    text = (folder / "study.toml").read_text()
    assert old in text
    (folder / "changed.toml").write_text(text.replace(old, new))
    return load_study(folder / "changed.toml")


def test_what_is_kept_may_change_and_what_is_scored_may_not(one_done):
    study, trials = load_changed(one_done, "[axes]", "set.train = { keep_last = 1, checkpoint_every = 1 }\n[axes]")
    assert make_plan(study, trials, one_done / "out")[0].result is not None
    study, trials = load_changed(one_done, "\nn = 8", "\nn = 9")
    with pytest.raises(DiscliError, match="scored with n = 8, the study now says 9"):
        make_plan(study, trials, one_done / "out")


def test_a_study_edited_while_it_runs_costs_only_its_trial(one_done):
    study, trials = load_changed(one_done, "steps = 2", "steps = 3")
    before = make_plan(study, trials, one_done / "nowhere")
    moved = [replace(p, folder=one_done / "out" / "trials" / p.trial.name) for p in before]
    first, *others = refresh(study, moved)
    assert "the study now says 3" in first.failure
    assert [(p.result, p.failure) for p in others] == [(None, None)] * 3


def test_finished_trials_hold_other_trials_to_their_data(one_done, digits_file, tmp_path):
    study, trials = load_study(one_done / "study.toml")
    plan = make_plan(study, trials, one_done / "out")
    check_before(study, plan, digits_file)
    fewer = encode(digits_file.parent / "all" / "3", 8, codec="rgb", out=tmp_path / "threes.h5", workers=0)
    with pytest.raises(DiscliError, match="was trained on data with"):
        check_before(study, plan, fewer)


def test_a_finished_study_needs_no_data(one_done, tmp_path):
    study, trials = load_study(one_done / "study.toml")
    plan = make_plan(study, trials[:1], one_done / "out")
    check_before(study, plan, None)
    check_before(study, plan, tmp_path / "gone.h5")
    with pytest.raises(DiscliError, match="no data file"):
        check_before(study, make_plan(study, trials, one_done / "out"), None)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('features = "random"', 'features = "inception"', "INCEPTION_WEIGHTS"),
        ('features = "random"', 'features = "cifar10"', "8x8 px are too small"),
        ("[axes]", 'set.sample.guidance = { name = "autoguidance", checkpoint = "gone" }\n[axes]', "gone"),
        ("[axes]", 'set.train.score.reference = "gone.npz"\n[axes]', "gone.npz does not exist"),
        ("[axes]", "set.data.resolution = 16\n[axes]", "data.resolution is 16"),
    ],
)
def test_what_would_fail_after_training_fails_before(one_done, digits_file, monkeypatch, old, new, says):
    monkeypatch.setenv("DISCLI_INCEPTION_WEIGHTS", str(one_done / "nowhere"))
    study, trials = load_changed(one_done, old, new)
    with pytest.raises(DiscliError, match=says):
        check_before(study, make_plan(study, trials, one_done / "other"), digits_file)


@pytest.mark.parametrize("setting", ["set.model.lora = { rank = 2 }", 'set.train.freeze = ["block.0.*"]'])
def test_what_no_trial_could_begin_with_is_refused_by_the_plan(one_done, setting):
    study, trials = load_changed(one_done, "[axes]", f"{setting}\n[axes]")
    with pytest.raises(DiscliError, match=r"model\.lora|train\.freeze"):
        make_plan(study, trials, one_done / "other")


def test_a_trial_of_another_process_is_waited_for_and_never_failed(one_done, digits_file, tmp_path):
    study, trials = load_study(one_done / "study.toml")
    [planned] = make_plan(study, trials[1:2], tmp_path)
    planned.folder.mkdir(parents=True)
    (planned.folder / "failed.txt").write_text("long ago")
    with (planned.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert failure_of(planned.folder) is None
        with pytest.raises(DiscliError, match="another process") as held:
            run_trial(study, trials[1], planned.folder, digits_file)
        assert held.value.status == 75
        done = one_done / "out" / "trials" / trials[0].name / "result.json"

        def finish():
            shutil.copy(done, planned.folder)
            fcntl.flock(lock, fcntl.LOCK_UN)

        threading.Timer(0.8, finish).start()
        assert list(run_trials([planned], ["no such study"], jobs=2)) == [f"{trials[1].name}: done by another process"]


def test_a_trial_alone_is_one_process_and_may_be_looked_at_first(one_done, digits_file, tmp_path, monkeypatch, capsys):
    study, out = one_done / "study.toml", tmp_path / "out"
    assert len(plan_study(study, out=out, trial="1").trials) == 1
    assert not out.exists()
    assert ablate_trial(study, "0", data=digits_file, out=one_done / "out").trial == "skip=concat/seed-0"
    assert capsys.readouterr().out == ""
    command(str(study), data=digits_file, out=one_done / "out", trial="0", as_json=True)
    assert json.loads(capsys.readouterr().out)["trial"] == "skip=concat/seed-0"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DiscliError, match="--trial with 2 processes"):
        ablate_trial(study, "1", data=digits_file, out=out)


def test_a_missing_autoencoder_is_refused_before_the_first_trial(write, digits_file, tmp_path):
    vae = tmp_path / "vae"
    save_tiny(vae)
    latents = encode(
        digits_file.parent / "all" / "3", 32, codec="vae", vae=str(vae), out=tmp_path / "latents.h5", workers=0
    )
    codec = '{ name = "vae", channels = 4, downsample = 8 }'
    data = f"data = {{ resolution = 32, horizontal_flip = false, codec = {codec} }}"
    study, trials = load_study(write(more=f"[set]\nmodel.num_classes = 0\n{data}\n"))
    plan = make_plan(study, trials, tmp_path / "out")
    check_before(study, plan, latents)
    shutil.rmtree(vae)
    with pytest.raises(DiscliError, match=str(vae)):
        check_before(study, plan, latents)


def test_of_several_processes_the_last_one_tells_of_failures(one_done, digits_file, monkeypatch, capsys):
    """torchrun ends all of them when one fails."""
    folder = one_done / "out" / "trials" / "skip=none" / "seed-1"
    folder.mkdir(parents=True)
    (folder / "failed.txt").write_text("it broke")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    ablate(one_done / "study.toml", data=digits_file, out=one_done / "out")
    assert "1 of 4; the others' are missing: 2 of 4 trials" in " ".join(capsys.readouterr().err.split())
    for name in ("skip=concat/seed-1", "skip=none/seed-0"):
        (one_done / "out" / "trials" / name).mkdir(parents=True)
        (one_done / "out" / "trials" / name / "failed.txt").write_text("it broke, too")
    with pytest.raises(DiscliError, match="3 of 4 trials failed, 1 are done") as failed:
        ablate(one_done / "study.toml", data=digits_file, out=one_done / "out")
    assert failed.value.status == 1


def test_all_averages_are_counted_in_disk(one_done):
    study, trials = load_study(one_done / "study.toml")
    power, _ = load_changed(one_done, "[axes]", 'set.train.ema = { name = "power", stds = [0.05, 0.1] }\n[axes]')
    _, power_trials = load_study(one_done / "changed.toml")
    one, two = make_plan(study, trials, one_done / "x")[0], make_plan(power, power_trials, one_done / "x")[0]
    assert two.disk == one.disk * 5 / 4


def test_equal_flops_give_cheap_trials_more_steps(write):
    path = write()
    path.write_text(path.read_text().replace("budget.steps = 6", "budget.flops = 1e9"))
    study, trials = load_study(path)
    plan = make_plan(study, trials, path.parent)
    steps = {p.trial.point.name: p.recipe.train.steps for p in plan}
    assert steps["skip=none"] > steps["skip=concat"]
    flops = [p.training_flops for p in plan]
    assert max(abs(each - 1e9) for each in flops) < 0.03e9


def test_a_dry_run_prints_every_trial_and_writes_nothing(write, capsys):
    path = write()
    command(str(path), dry_run=True, as_json=True)
    assert not (path.parent / "runs").exists()
    plan = json.loads(capsys.readouterr().out)
    assert [trial["trial"] for trial in plan["trials"]] == [c.name for c in load_study(path)[1]]
    assert all(trial["parameters"] > 1000 and trial["disk"] > 0 and trial["seconds"] > 0 for trial in plan["trials"])
    command(str(path), dry_run=True)
    shown = capsys.readouterr()
    assert "skip=none/seed-1" in shown.out
    assert "4 of 4 trials to run" in shown.err


def test_a_dry_run_refuses_data_that_do_not_fit(write, digits_file, tmp_path):
    path = write()
    command(str(path), data=digits_file, dry_run=True)
    with pytest.raises(DiscliError, match=r"gone\.h5"):
        command(str(path), data=tmp_path / "gone.h5", dry_run=True)
    path.write_text(path.read_text() + "\n[set]\nmodel.num_classes = 7\n")
    with pytest.raises(DiscliError, match="num_classes"):
        command(str(path), data=digits_file, dry_run=True)


def test_trials_are_shared_by_processes_and_found_by_number_or_name(write, monkeypatch):
    _, trials = load_study(write())
    assert find_trial(trials, "2") is trials[2] is find_trial(trials, "skip=none/seed-0")
    with pytest.raises(DiscliError, match="number from 0 to 3"):
        find_trial(trials, "4")


@pytest.mark.slow
def test_ranks_run_disjoint_trials(write, digits_file, tmp_path):
    """Two processes with torchrun's variables; each trains alone."""
    command = [sys.executable, "-m", "discli", "ablate", str(write(skips='["none"]')), "--data", str(digits_file)]
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert all("1 to run here" in text for text in said)
    assert len(finished(tmp_path / "runs/ablate-skips")) == 2
    assert "2 of 2 trials finished" in (tmp_path / "runs/ablate-skips/report.md").read_text()


def test_planning_alone_costs_no_network(write):
    """The paper's largest trials can be planned on a laptop: sizes come from the meta device."""
    study, trials = load_study("scaling")
    recipe = plan_recipe(study, trials[-1])
    assert recipe.train.score.every == recipe.train.steps // study.score.curve_points
    out = write().parent / "nowhere"
    [trial] = describe_plan(study, make_plan(study, trials[-1:], out)).trials
    assert trial.seconds is None
    assert trial.parameters > 900e6


def test_scored_by_the_gap_to_the_floor(write, digits_file, tmp_path):
    """Its score is the gap that the run's own report gives, and along the way."""
    data = shutil.copy(digits_file, tmp_path / "digits.h5")
    held_out = "[set]\ndata.holdout = 0.2\ntrain.holdout_n = 48\ntrain.holdout_every = 3\nsample.cfg_scale = 1.0\n"
    study, trials = load_study(write(more='by = "loss gap"\n' + held_out))
    result = run_trial(study, trials[0], tmp_path / "trial", data)
    fit = report_run(tmp_path / "trial" / "run").fit
    assert result.score_name == "loss gap"
    assert result.score == pytest.approx(fit.loss_gap.gap)
    assert [point.step for point in result.curve] == [3, 6]

    plain, _ = load_study(write(more=held_out))
    with pytest.raises(DiscliError, match="scored by loss gap"):
        run_trial(plain, trials[0], tmp_path / "trial", data)


def test_a_study_by_losses_that_holds_nothing_out_is_refused(write, digits_file, tmp_path):
    study = write(more='by = "held-out loss"\n')
    with pytest.raises(DiscliError, match="holds no samples out"):
        ablate(study, data=digits_file, out=tmp_path / "out")
    assert not (tmp_path / "out" / "trials").exists()


def test_scored_by_what_is_recognised(write, digits_file, tmp_path):
    """The share of samples that are not recognised; a study by distance reports the recognised ones beside it."""
    study, trials = load_study(write(more='by = "recognised"\n'))
    result = run_trial(study, trials[0], tmp_path / "trial", digits_file)
    share = result.eval.recognised.samples
    assert share.n == study.score.n
    assert result.recognised == share.right / share.n
    assert result.score == pytest.approx(1 - result.recognised)

    plain, trials = load_study(write())
    with pytest.raises(DiscliError, match="scored by not recognised"):
        run_trial(plain, trials[0], tmp_path / "trial", digits_file)


@pytest.mark.slow
def test_what_is_recognised_stands_beside_the_distance(write, digits_file, tmp_path):
    beside = ablate(write(skips='["none"]', seeds="[0]"), data=digits_file, out=tmp_path / "out")
    [point] = beside.points
    assert point.first.score == point.first.eval.distance
    assert point.recognised.mean == point.first.recognised
    assert "| recognised |" in (tmp_path / "out" / "report.md").read_text()
    assert summarise(beside).points[0].recognised == point.recognised


def test_a_study_by_classes_without_any_is_refused(write, digits_file, tmp_path):
    with pytest.raises(DiscliError, match="no classes"):
        ablate(write(more='by = "recognised"\n[set]\nmodel.num_classes = 0\n'), data=digits_file, out=tmp_path / "out")
    assert not (tmp_path / "out" / "trials").exists()


def test_a_study_by_classes_needs_them_in_its_reference(write, digits_file, tmp_path):
    (tmp_path / "flat").mkdir()
    for number in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / "flat" / f"{number}.png")
    study = write(more='by = "recognised"\n[set]\ntrain.score.reference = "flat"\n')
    with pytest.raises(DiscliError, match="flat has no classes"):
        ablate(study, data=digits_file, out=tmp_path / "out")
    assert not (tmp_path / "out" / "trials").exists()


TUNED = "tune = { cfg_scale = [1, 3], ema = [0.1, 0.2], n = 9 }\n"
SNAPSHOTS = '[set]\ntrain.ema = { name = "power", stds = [0.05, 0.2], snapshot_every = 1 }\n'


@pytest.mark.parametrize("by", ["distance", "recognised"])
def test_a_trial_is_tuned_by_samples_that_no_score_is_of(write, digits_file, tmp_path, monkeypatch, by):
    path = write(steps=2, seeds="{ init = 2, sampling = 2 }", more=f'by = "{by}"\n{TUNED}{SNAPSHOTS}')
    study, trials = load_study(path)
    made = run_trial(study, trials[0], tmp_path / "trial", digits_file)
    tuned = made.tuned
    assert [(each.cfg_scale, each.ema) for each in tuned.tried] == [(1, 0.1), (1, 0.2), (3, 0.1), (3, 0.2)]
    assert tuned.chosen.score == min(each.score for each in tuned.tried)
    assert tuned.seed not in range(study.samplings)

    def drawn(seed, n):
        folder, chosen = tmp_path / f"drawn-{seed}", tuned.chosen
        network = tmp_path / "trial" / f"ema-{chosen.ema:g}"
        sample(network, n, cfg_scale=chosen.cfg_scale, seed=seed, out=folder)
        found = evaluate(folder, digits_file, features="random", metrics=("fid", "recognised"), bootstrap=0)
        return found.distance if by == "distance" else 1 - found.recognised.samples.share

    assert drawn(tuned.seed, 9) == pytest.approx(tuned.chosen.score)
    assert drawn(1, 8) == pytest.approx(made.by_sampling[1])

    monkeypatch.setattr(scorer, "evaluate", None)  # what was scored already is not scored again
    (tmp_path / "trial" / "result.json").unlink()
    assert run_trial(study, trials[0], tmp_path / "trial", digits_file) == made
    other, trials = load_study(write(steps=2, seeds="{ init = 2, sampling = 2 }", more=f'by = "{by}"\n{SNAPSHOTS}'))
    with pytest.raises(DiscliError, match="was tuned over other settings"):
        read_result(other, trials[0], plan_recipe(other, trials[0]), tmp_path / "trial")


def test_a_report_says_what_trials_were_tuned_to_and_what_it_cost(tmp_path):
    def tried(scale, score):
        return {"cfg_scale": scale, "ema": None, "steps": 5, "nfe": 10, "score": score}

    read = []
    for seed, chosen in enumerate([tried(3.0, 1.0), tried(3.0, 1.5), tried(1.5, 0.5)]):
        made = result("a", seed, 5.0 + seed)
        every = [tried(1.0, 9.0), tried(1.5, 8.0), tried(3.0, 7.0)]
        made["tuned"] = {"chosen": chosen, "tried": every, "n": 50, "seed": 1000, "seconds": 60.0}
        read.append(TrialResult.model_validate(made))
    report = StudyReport("s", "base", "10 steps", (0, 1, 2), 3, read)
    write_report(report, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| guidance 3 (2); guidance 1.5 (1) |" in text
    assert "guidance 3 is the highest tried, and was chosen for 2 of 3 trials" in text
    assert "3 min of it tuning" in text
    assert (tmp_path / "trials.csv").read_text().count(",3.0,,60.0,") == 2
    assert summarise(report).points[0].tuning_seconds == 60.0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("tune = { cfg_scale = [2] }", "nothing to choose from"),
        ("tune = { cfg_scale = [2, 2] }", "every value once"),
        ('tune = { cfg_scale = [1, 2] }\nby = "held-out loss"', "no effect"),
        ("tune = { cfg_scale = [1, 2] }\n[[points]]\nsample.cfg_scale = 3.0", "no effect"),
        ("tune = { ema = [0.1, 0.2] }", "no snapshots"),
        ("tune = { ema = [0.1, 0.3] }", "less than"),
        ("tune = { cfg_scale = [1, 2] }\n[set]\nmodel.num_classes = 0", "unconditional"),
    ],
)
def test_what_cannot_be_tuned_is_refused_by_a_dry_run(write, more, says):
    path = write(more=more)
    with pytest.raises(DiscliError, match=says):
        plan_study(path)


def test_the_plan_counts_the_samples_that_tune(write, tmp_path):
    def planned(more):
        study, trials = load_study(write(more=more))
        [first, *_] = make_plan(study, trials, tmp_path / "out")
        return describe_plan(study, [first]).tuning, first

    plain, one = planned("")
    tuned, other = planned("tune = { cfg_scale = [1, 2], n = 5 }\n[set]\nsample.cfg_scale = 2.0\n")
    assert (plain, tuned) == (0, 10)
    calls = {scale: 4 * scale for scale in (1, 2)}  # of the network, an image: twice as many under guidance
    along, final = 2 * 8, 8
    assert one.sampling_flops == pytest.approx(1e9 * one.costs.forward_gflops * calls[1] * (along + final))
    more = 5 * (calls[1] + calls[2]) + calls[2] * (along + final)
    assert other.sampling_flops == pytest.approx(1e9 * one.costs.forward_gflops * more)


def test_only_a_study_by_distance_scores_along_the_way(write):
    for by, every in (("distance", 3), ("recognised", 0)):
        study, trials = load_study(write(more=f'by = "{by}"\n'))
        assert plan_recipe(study, trials[0]).train.score.every == every
