"""The workers of a board on a cluster: jobs that submitit queues, each of which gives the plain command of the suite.

Nothing here decides which run is made: the workers share the board as any commands do, and its records say what is
done.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import gin

from benchmark.annotations import Count, Positive, Range
from benchmark.errors import ConfigError, Interrupted, MissingError
from benchmark.storage.claim import LOG

TIMES = 3  # that a command which was killed begins
REQUEUES = 1000  # that submitit may put a job back when its time is up: a board may take weeks
LEAST_MINUTES = 10  # of a job beside its warning: Slurm warns up to a minute early, and a start takes minutes


@gin.register("cluster")
@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What each worker asks the cluster for; `gin/cluster/example.gin` says what each value means."""

    minutes: Count = 240
    warning_seconds: Count = 180
    gpus: Annotated[int, Range(0)] = 1
    cores: Count = 8
    memory_gb: Positive | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    additional: dict[str, int | float | str | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = LEAST_MINUTES + self.warning_seconds // 60
        if self.minutes < least:
            raise ConfigError(
                f"cluster.minutes = {self.minutes}: a job is warned {self.warning_seconds} s before its end "
                f"(cluster.warning_seconds), and would hardly begin. Give {least} or more."
            )

    def here(self, workers: int, gpus: int) -> "Cluster":
        """Return the settings for workers on this machine, which has so many GPUs and whose jobs may last a year."""
        if gpus and workers > gpus:
            raise ConfigError(f"--workers {workers}: each has a GPU of its own, and this machine has {gpus}.")
        return replace(self, gpus=gpus // workers, minutes=365 * 24 * 60)

    def parameters(self, name: str, workers: int) -> dict[str, Any]:
        """Return what submitit is told for a board of this name."""
        sites = {key: getattr(self, key) for key in ("partition", "account", "qos", "constraint")}
        return {
            "name": name,
            "timeout_min": self.minutes,
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cores,
            "mem_gb": self.memory_gb,
            "stderr_to_stdout": True,
            **{f"slurm_{key}": value for key, value in sites.items()},
            "slurm_array_parallelism": workers,
            "slurm_signal_delay_s": self.warning_seconds,
            "slurm_setup": list(self.setup),
            "slurm_additional_parameters": {"requeue": True, **self.additional},
        }


@dataclass
class Worker:
    """Gives a command and waits for it. Stopped, it has the command save its state, and asks for the job again."""

    command: Sequence[str]
    gpus: int
    patience: float  # seconds in which the command may save its state
    pid: int | None = field(default=None, init=False)

    def __call__(self, number: int) -> None:
        import submitit

        environment = submitit.JobEnvironment()
        log = str(environment.paths.stdout)
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), LOG: log}
        if environment.cluster == "local":  # submitit would give each worker the first
            first = number * self.gpus
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(first, first + self.gpus)))
        if threads := os.environ.get("SLURM_CPUS_PER_TASK"):
            variables.setdefault("OMP_NUM_THREADS", threads)
        signal.signal(signal.SIGTERM, self._stop)  # some sites send nothing else, and submitit only notes it
        for _ in range(TIMES):
            code = self._give(variables)
            if code >= 0:
                break
            print(f"The command was ended by {signal.Signals(-code).name}.", flush=True)
        if code == Interrupted.exit_code and environment.cluster == "slurm" and _is_running():
            signal.raise_signal(signal.SIGUSR2)  # submitit calls `checkpoint` and puts the job back
        if code:
            print(f"This job ends with {code}. Its log is {log}.", flush=True)
            sys.exit(code if code > 0 else 1)

    def checkpoint(self, number: int) -> Any:
        """Return what the job is to do when it begins again; submitit calls this before the time is up."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        deadline = time.monotonic() + self.patience
        while self.pid and not _has_ended(self.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        return DelayedSubmission(Worker(self.command, self.gpus, self.patience), number)

    def _give(self, variables: dict[str, str]) -> int:
        # in a session of its own: a signal to this job's group would reach it twice, and a second one ends it at once
        child = subprocess.Popen(self.command, env=variables, start_new_session=True)
        self.pid = child.pid
        while not _has_ended(child.pid):  # not child.wait(), whose lock a handler of signals would wait for
            time.sleep(0.2)
        self.pid = None
        return child.wait()

    def _stop(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Have the command save its state; it then ends with 75."""
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _is_running() -> bool:
    """Return whether Slurm goes on with this job, which it does not where the user has cancelled it."""
    asked = ["squeue", "--noheader", "--format=%T", "--jobs", os.environ["SLURM_JOB_ID"]]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() not in ("CANCELLED", "COMPLETING", "PREEMPTED")


def prepare(cluster: str, settings: Cluster, name: str, workers: int, folder: Path) -> Any:
    """Return submitit's executor. Raises MissingError without submitit or Slurm, ConfigError for what it refuses."""
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise MissingError("--cluster needs submitit: pip install 'ssl-benchmark[slurm]'.") from error
    try:
        executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster, slurm_max_num_timeout=REQUEUES)
        executor.update_parameters(**settings.parameters(name, workers))
    except RuntimeError as error:
        raise MissingError(f"There is no Slurm here ({error}). Give the command where sbatch and srun are.") from error
    except (NameError, ValueError, AssertionError) as error:
        raise ConfigError(f"submitit refuses the settings of the cluster: {error}") from error
    return executor


def script(executor: Any, workers: int) -> str:
    """Return the script that sbatch is given; for workers on this machine, their command."""
    inner = executor._executor  # submitit has no public way to show it
    if workers > 1:
        inner.parameters["map_count"] = workers
    text: str = inner._make_submission_file_text(inner._submitit_command_str, "")
    return text or inner._submitit_command_str


def submit(executor: Any, command: Sequence[str], settings: Cluster, workers: int) -> list[str]:
    """Queue the workers; return a line for each, with its number and its log. Nothing is waited for."""
    worker = Worker(command, settings.gpus, max(10.0, settings.warning_seconds - 30.0))
    try:
        jobs = executor.map_array(worker, range(workers))
    except Exception as error:
        raise ConfigError(f"The workers could not be queued: {error}") from error
    return [f"job {job.job_id}: {job.paths.stdout}" for job in jobs]
