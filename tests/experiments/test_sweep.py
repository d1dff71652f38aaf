import getpass
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import wandb
import yaml
from rich.console import Console

from experiments import report, run
from experiments.cli import ConfigError, SuiteCLI, normalise
from experiments.run_folder import RunFolder
from experiments.sweep import main
from experiments.sweeping import local
from experiments.sweeping.board import Board
from experiments.sweeping.plan import Trial, load_sweep

ROOT = Path(__file__).parents[2]
TINY = [
    "--data.root=synth:synth_facs?subjects=21&frames=3&size=64&stride=60&rates=balanced",
    "--data.image_size=32",
    "--data.batch_size=8",
    "--data.num_workers=0",
    "--data.val_subjects=3",
    "--data.aus=[1, 12, 25]",
    "--model.recalibrate_batches=2",
    "--trainer.accelerator=cpu",
]
GRID: dict[str, Any] = {
    "program": "experiments/run.py",
    "method": "grid",
    "metric": {"name": "val/f1_mean", "goal": "maximize"},
    "parameters": {"model.lr": {"values": [0.003, 0.1]}, "data.fold": {"values": [1, 2]}},
    "command": ["${env}", "python", "${program}", "--config", "renet_synthetic.yaml", "${args}"],
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are written below the working directory."""
    monkeypatch.chdir(tmp_path)


def write(config: Mapping[str, Any] = GRID, **changes: Any) -> Path:
    path = Path("small.yaml")
    path.write_text(yaml.safe_dump({**config, **changes}, sort_keys=False))
    return path


def parameters(**more: Any) -> dict[str, Any]:
    return {"parameters": GRID["parameters"] | {key.replace("__", "."): value for key, value in more.items()}}


def names(path: Path, *extra: str) -> list[str]:
    return [str(trial.path.relative_to("runs")) for trial in load_sweep(path, extra).trials()]


def test_a_trial_is_named_by_what_differs_from_its_configuration() -> None:
    assert names(write()) == [
        "renet_synthetic/fold1-seed0",  # 0.003 is what the file says: the same run as without a sweep
        "renet_synthetic/fold2-seed0",
        "renet_synthetic-lr=0.1/fold1-seed0",
        "renet_synthetic-lr=0.1/fold2-seed0",
    ]
    last = {"model.lr": {"value": 0.1}, "data.duplicate_aus": {"values": [None, [1, 4]]}}
    last["model.backbone_checkpoint"] = {"values": [None, "a/b c.ckpt"]}
    assert names(write(parameters=last)) == [
        "renet_synthetic/fold1-seed0",
        "renet_synthetic-backbone_checkpoint=a_b_c.ckpt/fold1-seed0",
        "renet_synthetic-duplicate_aus=1_4/fold1-seed0",
        "renet_synthetic-duplicate_aus=1_4-backbone_checkpoint=a_b_c.ckpt/fold1-seed0",
    ]


def test_the_name_is_the_same_whoever_starts_the_trial() -> None:
    """W&B's agents call run.py with the command of the file as `definition` gives it to the server."""
    sweep = load_sweep(write())
    trials = sweep.trials()
    assert sweep.command[3:-1] == ["--config", "renet_synthetic.yaml", "--run.vary=[model.lr]"]
    lines = agent_lines({**sweep.config, "command": sweep.command}, sweep.combinations)
    assert lines == sweep.lines()
    folders = [str(RunFolder.of(SuiteCLI(normalise(line))).path) for line in lines]
    assert folders == [str(trial.path) for trial in trials]


def agent_lines(config: Mapping[str, Any], combinations: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Words of run.py as the W&B client makes them."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    lines = []
    for chosen in combinations:
        arguments = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
        words = create_sweep_command(list(config["command"]))
        words = [word for part in words for word in arguments.get(part[2:-1], [part])]
        lines.append(words[words.index("${program}") + 1 :])
    return lines


def test_a_finished_run_starts_again_from_its_configuration_under_its_name() -> None:
    trial = load_sweep(write()).trials()[2]
    Path("config.yaml").write_text(yaml.safe_dump(trial.settings))
    again = RunFolder.of(SuiteCLI(normalise(["--config", "config.yaml"])))
    assert (again.path, again.hash) == (trial.path, trial.folder.hash)


@pytest.mark.parametrize(
    ("changes", "extra", "named", "remedy"),
    [
        (parameters(model__lrr={"values": [1]}), [], "model.lrr: no such argument", "--help"),
        (parameters(model__relation={"values": ["friendly"]}), [], "model.relation", "--help"),
        (parameters(model__lr={"min": 1e-4, "max": 1e-2}), [], "model.lr: a grid over a range never ends", "random"),
        (parameters(model={"parameters": {"lr": {"values": [1]}}}), [], "model: nested parameters", "dotted"),
        (parameters(model__lr={"valeus": [1]}), [], "model.lr: valeus", "values"),
        (parameters(model__lr={"values": []}), [], "model.lr: values", "list"),
        (parameters(model__lr={"values": [0.1, 0.1]}), [], "two trials would run in", "list each value once"),
        ({"method": "grd"}, [], "method: grd", "grid"),
        ({"metod": "grid"}, [], "metod", "method"),
        ({"method": "bayes"}, [], "bayes needs W&B's server", "--backend wandb"),
        ({"method": "random"}, [], "without a run_cap", "run_cap"),
        ({"metric": {"name": "val/f1_mean", "goal": "max"}}, [], "goal", "maximize"),
        ({"run_cap": 0}, [], "run_cap: 0", "number of trials"),
        ({"program": "train.py"}, [], "program: train.py", "experiments/run.py"),
        ({"command": ["python", "${program}"]}, [], "needs ${program} and, behind it, ${args}", "${args}"),
        ({"command": ["${program}", "${args}", "--folds", "all"]}, [], "--folds", "words of run.py"),
        ({"parameters": {}}, [], "no parameters", "examples"),
        ({}, ["--model.lr=1"], "sweeps model.lr", "leave it out"),
        ({}, ["--model.lrr=1"], "model.lrr: no such argument", "--help"),
        ({}, ["--config", "nowhere.yaml"], "nowhere.yaml", "choose from"),
    ],
)
def test_what_cannot_run_is_said_before_the_first_trial(
    changes: dict[str, Any], extra: list[str], named: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "run", None)
    with pytest.raises(ConfigError) as refused:
        main([str(write(**changes)), *extra])
    assert named in str(refused.value)
    assert remedy in refused.value.remedy
    assert [path.name for path in Path().iterdir()] == ["small.yaml"]


def test_a_missing_or_torn_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file") as refused:
        load_sweep(Path("none.yaml"))
    assert "renet_table7_synthetic.yaml" in refused.value.remedy
    Path("torn.yaml").write_text("parameters: [1, 2\n")
    with pytest.raises(ConfigError, match="is no YAML"):
        load_sweep(Path("torn.yaml"))


def test_a_folder_with_other_settings_or_of_a_newer_version_stops_the_sweep() -> None:
    trial = load_sweep(write()).trials()[3]
    other = RunFolder(trial.path, {**trial.settings, "seed_everything": 7})
    other.open("new")
    with pytest.raises(ConfigError, match=r"seed_everything \(7 there, 0 here\)"):
        main(["small.yaml"])
    newer = trial.path / "config.yaml"
    newer.write_text(newer.read_text().replace("# format: 1", "# format: 99"))
    with pytest.raises(ConfigError, match="written by a newer version") as refused:
        main(["small.yaml"])
    assert "update" in refused.value.remedy


def test_a_place_without_write_permission_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "run", None)
    Path("occupied").touch()
    with pytest.raises(ConfigError, match=r"occupied.*cannot be written") as refused:
        main([str(write()), "--trainer.default_root_dir=occupied/runs"])
    assert "permissions" in refused.value.remedy


def test_random_draws_repeat_and_keep_to_their_ranges() -> None:
    drawn = {"model.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}}
    drawn |= {"model.weight_decay": {"min": 0.0, "max": 1.0}, "data.batch_size": {"min": 8, "max": 16}}
    drawn |= {"model.relation": {"values": ["fixed", "identity"]}, "data.fold": {"value": 1}}
    path = write(method="random", run_cap=200, parameters=drawn)
    first, again = (load_sweep(path, random_seed=3).combinations for _ in range(2))
    assert first == again != load_sweep(path, random_seed=4).combinations
    assert load_sweep(write(method="random", run_cap=20, parameters=drawn), random_seed=3).combinations == first[:20]
    table = pd.DataFrame(first)
    assert table["model.lr"].between(1e-4, 1e-2).all()
    assert 0.4 < (table["model.lr"] < 1e-3).mean() < 0.6  # half of the draws in each decade
    assert table["model.weight_decay"].between(0, 1).all()
    assert set(table["data.batch_size"]) == set(range(8, 17))
    assert set(table["model.relation"]) == {"fixed", "identity"}
    with pytest.raises(ConfigError, match="cannot be drawn") as refused:
        load_sweep(
            write(method="random", run_cap=2, parameters={"model.lr": {"mu": 0, "sigma": 1, "distribution": "normal"}})
        )
    assert "log_uniform_values" in refused.value.remedy


def test_what_the_server_alone_does_is_said() -> None:
    stopped = {"type": "hyperband", "min_iter": 3, "eta": 3}
    sweep = load_sweep(write(early_terminate=stopped, run_cap=3))
    assert len(sweep.combinations) == 3
    assert [note.partition(":")[0] for note in sweep.notes] == ["run_cap", "early_terminate"]


class FakePool:
    """Ends what is started at the next look, as the words of ``failing`` say."""

    failing: tuple[str, ...] = ()
    started: list[str]

    def __init__(self, places: Sequence[Mapping[str, str]]) -> None:
        self.free, self.running = list(places), {}
        FakePool.started = []

    def __enter__(self) -> "FakePool":
        return self

    def __exit__(self, *_: object) -> None:
        assert not self.running

    def start(self, key: Path, words: list[str], log: Any) -> None:
        self.running[key] = words, self.free.pop()
        FakePool.started.append(str(key))
        log.write(f"about {key}\n\nerror: what\nremedy: how\n")

    def ended(self, seconds: float) -> dict[Path, int]:
        codes = {}
        for key, (words, place) in list(self.running.items()):
            del self.running[key]
            self.free.append(place)
            codes[key] = 2 if any(word in " ".join(words) for word in self.failing) else 0
            if not codes[key]:
                finish(Trial.parse(words))
        return codes


def finish(trial: Trial) -> None:
    """As run.py leaves it."""
    trial.folder.open("new")
    pd.DataFrame({"epoch": [0, 1], "val/f1_mean": [0.25, 0.125]}).to_csv(trial.path / "metrics.csv")
    trial.folder.close({})


def test_the_rest_goes_on_after_a_failure_and_the_same_command_does_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "Pool", FakePool)
    reported: list[Path] = []
    monkeypatch.setattr(report, "write_report", lambda paths, out: reported.extend(paths) or out / "report.html")
    monkeypatch.setattr(FakePool, "failing", ("--model.lr=0.1 --data.fold=1",))
    command = [str(write()), "--workers", "2"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    failed = Path("runs/renet_synthetic-lr=0.1/fold1-seed0")
    assert len(FakePool.started) == 4
    assert f"{failed}: failed (2)"[:-4] in out
    assert "error: what\n  remedy: how" in err
    assert "1 of 4 trials are not finished; the same command goes on" in err
    assert not reported
    monkeypatch.setattr(FakePool, "failing", ())
    assert main(command) == 0
    assert FakePool.started == [str(failed)]
    out, _ = capsys.readouterr()
    assert reported == [Path("runs/renet_synthetic"), Path("runs/renet_synthetic-lr=0.1")]
    assert "report: runs/sweeps/small/report/report.html" in out
    assert out.count("0.250") >= 4  # the epoch that validation chooses, not the last one


def test_a_trial_that_another_process_runs_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "Pool", FakePool)
    monkeypatch.setattr(local, "PACE", 0)
    monkeypatch.setattr(report, "write_report", lambda paths, out: out)
    theirs = load_sweep(write()).trials()[0]
    folder = theirs.folder
    folder.open("new")
    ended = FakePool.ended

    def end_theirs_later(pool: FakePool, seconds: float) -> dict[Path, int]:
        if len(FakePool.started) == 3:
            pd.DataFrame({"epoch": [0], "val/f1_mean": [0.5]}).to_csv(theirs.path / "metrics.csv")
            folder.close({})
        return ended(pool, seconds)

    monkeypatch.setattr(FakePool, "ended", end_theirs_later)
    assert main(["small.yaml"]) == 0
    assert str(theirs.path) not in FakePool.started


def test_nothing_is_begun_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "Pool", FakePool)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 << 20))
    with pytest.raises(ConfigError, match="5 MB are left") as refused:
        main([str(write())])
    assert "goes on from here" in refused.value.remedy
    assert not FakePool.started


def test_the_table_shows_epochs_of_what_runs_and_moves_on_a_terminal() -> None:
    sweep = load_sweep(write(), ["--trainer.max_epochs=7"])
    trials = sweep.trials()
    screen = io.StringIO()
    console = Console(force_terminal=True, width=120, file=screen)
    with Board(sweep, trials, console) as board:
        board.set(trials[0], "running")
        trials[0].folder.open("new")
        pd.DataFrame({"epoch": [0, 1, 2]}).to_csv(trials[0].path / "metrics.csv")
        board.refresh()
        assert board.cell(trials[0]) == "3/7"
        finish(trials[1])
        board.set(trials[1], "done")
        board.set(trials[2], "failed", 1)
        assert [board.cell(trial) for trial in trials] == ["3/7", "0.250", "failed (1)", "·"]
    shown = screen.getvalue()
    assert "small: 1 done, 1 running, 1 failed, 1 waiting" in shown
    assert "\x1b[1A" in shown  # the cursor goes up: the table is drawn over itself


def test_trials_take_the_gpus_that_nobody_uses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "0, GPU-aa, 3, 81559\n1, GPU-bb, 40000, 81559\n2, GPU-cc, 700, 81559\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said))
    for visible, free in (("0,1,2", ["0", "2"]), ("GPU-cc,GPU-bb", ["GPU-cc"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [place["CUDA_VISIBLE_DEVICES"] for place in local.places(None, None)] == free
        assert "GPU-bb" in capsys.readouterr().out or visible == "0,1,2"
    assert [place["CUDA_VISIBLE_DEVICES"] for place in local.places(None, ["1"])] == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(ConfigError, match="somebody uses every GPU: 1"):
        local.places(None, None)
    assert len(local.places(3, None)) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local.places(None, None) == [{}]


def test_what_several_trials_require_is_made_once() -> None:
    trial = load_sweep(write()).trials()[0]
    order: list[str] = []

    def second() -> None:
        with run.alone_at(trial.folder):
            order.append("second")

    def third() -> None:
        with run.alone_at(trial.folder):
            order.append("third")

    direct = trial.folder
    direct.open("new")  # somebody runs it, not because it is required
    waiting = threading.Thread(target=second)
    waiting.start()
    time.sleep(0.3)
    assert not order
    late = threading.Thread(target=third)
    late.start()
    time.sleep(0.3)
    assert not order
    order.append("first")
    direct.close({})
    waiting.join(10)
    late.join(10)
    assert order == ["first", "second", "third"]


def test_wandb_needs_a_key_and_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "sweep", lambda config, **_: sent.append(config) or "abc123")
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(settings={"entity": None}, default_entity="team"))
    command = [str(write(method="bayes")), "--backend", "wandb"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ConfigError, match="WANDB_MODE=offline"):
        main(command)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(Path.cwd()))  # where a key would be looked for
    with pytest.raises(ConfigError, match="no W&B key") as refused:
        main(command)
    assert "wandb login" in refused.value.remedy
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    for gpus, lines in (
        ("", ["wandb agent team/facsuite/abc123"]),
        ("0,1", ["CUDA_VISIBLE_DEVICES=0 wandb agent", "CUDA_VISIBLE_DEVICES=1"]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        assert main(command) == 0
        said = capsys.readouterr().out
        assert all(line in said for line in lines)
    assert sent[0]["command"][-2:] == ["--run.vary=[model.lr]", "${args}"]
    assert sent[0]["parameters"] == GRID["parameters"]

    def unreachable(*_: Any, **__: Any) -> None:
        raise wandb.errors.CommError("connection refused")

    monkeypatch.setattr(wandb, "sweep", unreachable)
    with pytest.raises(ConfigError, match="connection refused") as refused:
        main(command)
    assert "network" in refused.value.remedy


def test_the_array_script_is_shown_without_slurm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    command = [
        str(write()),
        "--backend",
        "slurm",
        "--slurm",
        "partition=gpu",
        "--slurm",
        "gres=gpu:1",
        "--slurm",
        "nice=5",
    ]
    finish(load_sweep(Path("small.yaml")).trials()[0])
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    options = {line.removeprefix("#SBATCH --") for line in said.splitlines() if line.startswith("#SBATCH")}
    assert options >= {
        "array=0-2%3",
        "requeue",
        "partition=gpu",
        "gres=gpu:1",
        "nice=5",
        "open-mode=append",
        "time=240",
    }
    assert "# 2: run.py --config renet_synthetic.yaml" in said
    with pytest.raises(ConfigError, match="no sbatch"):
        main(command)
    with pytest.raises(ConfigError, match="time is a number of minutes"):
        main([*command, "--slurm", "time=4:00:00"])


def epochs_of(folder: Path) -> list[int]:
    return pd.read_csv(folder / "metrics.csv")["epoch"].tolist()


def until(true: Callable[[], Any], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.05)


@pytest.mark.slow  # a job of SLURM that goes on, and trials that a failure left, are always tested
def test_a_killed_sweep_leaves_nothing_running_and_goes_on() -> None:
    """Its trial ends with it and is resumed by the next."""
    only = {"data.fold": {"values": [1]}, "trainer.max_epochs": {"value": 16}}
    command = [str(write(parameters=only)), *TINY]
    sweep = subprocess.Popen([sys.executable, ROOT / "experiments" / "sweep.py", *command], stdout=subprocess.DEVNULL)
    folder = Path("runs/renet_synthetic/fold1-seed0")
    until((folder / "checkpoints" / "last.ckpt").exists, "the first checkpoint")
    sweep.kill()
    sweep.wait()
    trial = load_sweep(Path("small.yaml"), TINY).trials()[0]
    until(lambda: not trial.folder.busy(), "the end of its trial", 30)
    assert trial.folder.state() == "resume"
    assert main(command) == 0
    said = Path("runs/sweeps/small/renet_synthetic_fold1-seed0.txt").read_text()
    assert "fold1-seed0: goes on" in said
    assert epochs_of(folder) == list(range(16))
    assert Path("runs/sweeps/small/report/report.html").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A SLURM of one node, of this user alone."""
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "srun") if shutil.which(name, path=SBIN) is None]:
        pytest.skip(f"no SLURM here ({', '.join(missing)}): apt-get install slurm-wlm munge")
    monkeypatch.setenv("PATH", SBIN)
    folder = tmp_path_factory.mktemp("slurm")
    node, user = socket.gethostname().split(".")[0], getpass.getuser()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(64))
    (folder / "key").chmod(0o600)
    (folder / "slurm.conf").write_text(
        f"""ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={node} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    )
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    munge = [f"--{option}={folder}/{file}" for option, file in MUNGE.items()]
    daemons = [["munged", "--force", *munge], ["slurmctld"], ["slurmd"]]
    try:
        for daemon in daemons:
            subprocess.run(daemon, check=True, capture_output=True)
        until(lambda: "idle" in ask("sinfo", "-h", "-o", "%T"), "the node", 60)
        yield
    finally:
        subprocess.run(["scancel", "--me"], check=False, capture_output=True)
        for name in ("slurmd", "slurmctld", "munged"):
            if (pid := folder / f"{name}.pid").exists():
                os.kill(int(pid.read_text()), signal.SIGTERM)


SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MUNGE = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "munged.pid", "seed-file": "seed"}


def ask(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.usefixtures("slurm")
def test_a_requeued_job_of_a_real_slurm_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    shorter = GRID["parameters"] | {"model.lr": {"value": 0.003}, "trainer.max_epochs": {"value": 16}}
    command = [str(write(parameters=shorter)), "--backend", "slurm", *TINY]
    assert main(command) == 0
    assert "submitted 2 trials" in capsys.readouterr().out
    first, second = (Path(f"runs/renet_synthetic/fold{fold}-seed0") for fold in (1, 2))
    until((first / "checkpoints" / "last.ckpt").exists, "the first checkpoint")
    job = json.loads(Path("runs/sweeps/small/slurm/jobs.json").read_text())[str(first)]
    ask("scontrol", "requeue", job)
    until(lambda: "PENDING" in ask("squeue", "-h", "-j", job, "-o", "%T"), "the job in the queue")
    assert main(command) == 0  # what is in the queue is not submitted again
    assert "submitted" not in capsys.readouterr().out
    ask("scontrol", "update", f"JobId={job}", "StartTime=now")  # it would wait two minutes
    until(lambda: not ask("squeue", "-h"), "the end of the array")
    said = Path("runs/sweeps/small/renet_synthetic_fold1-seed0.txt").read_text()
    assert said.count("fold1-seed0: starts") == said.count("fold1-seed0: goes on") == 1
    assert epochs_of(first) == epochs_of(second) == list(range(16))
    assert main(command) == 0
    assert "report: runs/sweeps/small/report/report.html" in capsys.readouterr().out
