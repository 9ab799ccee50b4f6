"""One training run of an ablation: a folder and a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detcli.files import write_atomically
from detcli.recipe import Recipe, dump_yaml

RUN, RESULT, RECIPE, CONSOLE, FINAL = "run", "result.json", "recipe.yaml", "console.txt", "final"
PREDICTIONS = "predictions.json"


@dataclass(frozen=True)
class Trial:
    """A system with one seed.

    folder: absolute; holds recipe.yaml, the run folder, console.txt and, once the trial has ended,
    result.json. options: arguments of `detcli train` in addition to the recipe.
    """

    system: str
    seed: int
    folder: Path
    recipe: Recipe
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.system}, seed {self.seed}"

    @property
    def yaml(self) -> str:
        return dump_yaml(self.recipe)

    @property
    def run(self) -> Path:
        return self.folder / RUN

    @property
    def predictions(self) -> Path:
        """The detections of the last epoch, of a finished trial."""
        final = self.folder / FINAL / PREDICTIONS
        return final if final.is_file() else self.run / PREDICTIONS


@dataclass(frozen=True)
class Result:
    """How a trial ended; reason: None, or why it failed."""

    reason: str | None

    @property
    def failed(self) -> bool:
        return self.reason is not None


def read_result(trial: Trial) -> Result | None:
    """How the trial ended, None if it has not."""
    path = trial.folder / RESULT
    return Result(json.loads(path.read_text())["reason"]) if path.is_file() else None


def write_result(trial: Trial, reason: str | None) -> None:
    """Say in the trial's folder that it ended; failed, if there is a reason."""
    write_atomically(trial.folder / RESULT, json.dumps({"reason": reason}))


class Interrupted(Exception):
    """The ablation is being stopped: no more processes."""


@dataclass
class Processes:
    """The processes of this ablation that are at work, so that all of them can be ended.

    inherited: file descriptors that each of them keeps open (the folder's lock).
    """

    inherited: tuple[int, ...] = ()
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False

    def run(self, arguments: Sequence[str], console: Path, environment: Mapping[str, str]) -> int:
        """`python -m detcli ARGUMENTS` with its words in a file; the exit code.

        Raises Interrupted after `stop`.
        """
        with console.open("ab") as file:
            with self._lock:
                if self._stopped:
                    raise Interrupted
                process = subprocess.Popen(
                    [sys.executable, "-m", "detcli", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                    env={**os.environ, **environment},
                    pass_fds=self.inherited,
                )
                self._running.add(process)
            try:
                code = process.wait()
            finally:
                self._end(process)
        if self._stopped:
            raise Interrupted
        return code

    def stop(self) -> None:
        """End every process and start no more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()
            process.wait()
        with self._lock:
            self._running.discard(process)


def train_trial(trial: Trial, processes: Processes, environment: Mapping[str, str]) -> None:
    """Train, or go on training, and leave result.json; a failure is a result as well.

    Raises Interrupted, and leaves no result, when the processes are stopped.
    """
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / RESULT).unlink(missing_ok=True)
    write_atomically(trial.folder / RECIPE, trial.yaml)
    console = trial.folder / CONSOLE
    if (trial.run / "last.pt").is_file():
        start = ["--resume", str(trial.run)]
    else:
        shutil.rmtree(trial.run, ignore_errors=True)
        start = [str(trial.folder / RECIPE), "--out", str(trial.run)]
    console.unlink(missing_ok=True)
    code = processes.run(["train", *start, *_kept(trial, start), "--quiet"], console, environment)
    if code == 0 and _chose_an_epoch(trial):
        final = ["--checkpoint", str(trial.run / "last.pt"), "--out", str(trial.folder / FINAL)]
        code = processes.run(["eval", str(trial.run), *final, "--quiet"], console, environment)
    write_result(trial, None if code == 0 else why_failed(code, console))


def _kept(trial: Trial, start: Sequence[str]) -> list[str]:
    """A resumed run has its settings already."""
    resumes = start[0] == "--resume"
    return [option for option in trial.options if not (resumes and "=" in option)]


def _chose_an_epoch(trial: Trial) -> bool:
    """Whether the run's predictions can be those of another epoch than the last."""
    lines = (trial.run / "metrics.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    return kinds.count("eval") > 1


def why_failed(code: int, console: Path) -> str:
    """The last error line of a process, or what its exit code says."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"killed by {name}{hint}"
    lines = console.read_text(errors="replace").splitlines() if console.is_file() else []
    errors = [line.split("error: ", 1)[1] for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else f"exit code {code}; see {console}"
