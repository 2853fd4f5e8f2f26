"""The frame that both training stages share: ranks, run folder, resume, sample order, log, commits.

A stage opens a `TrainingRun` and loops over epochs and `run.steps(…)`. Forward, loss, backward
and update stand in the stage's own file.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.data import DataLoader

from a2s.config.training import Stage1Config, Stage2Config
from a2s.data.batch import Batch
from a2s.data.epoch_plan import Plan, make_plan
from a2s.data.index import Index
from a2s.data.loader import Images, PlanSampler, batches, end_workers, make_loader
from a2s.models.activation_net import ActivationNet
from a2s.models.detector import Detector
from a2s.parallel import ranks, stop
from a2s.parallel.progress import Progress
from a2s.parallel.shared_folder import share_files
from a2s.parallel.trackers import start_trackers
from a2s.storage import checkpoints, run_folder
from a2s.storage.checkpoints import Commit
from a2s.training import pause
from a2s.training.async_checkpoint import AsyncCheckpointer
from a2s.training.learning_rate import learning_rate
from a2s.training.optimizer import GuardedSGD, pack_momentum
from a2s.training.preflight import start_lines
from a2s.training.step import Step
from a2s.training.throughput import Meter, peak_memory_mib

if TYPE_CHECKING:
    from a2s.labels.store.reader import Bools

NOTHING_DONE: dict[str, Any] = {"epoch": 0, "step": 0, "finished": False}
"""State of a run before its first commit."""


class TrainingRun:
    """One call of a training stage, on one rank. Made by `open_run`."""

    plan: Plan
    """Sample order of the current epoch."""

    def __init__(
        self,
        config: Stage1Config | Stage2Config,
        name: str,
        index: Index,
        accelerator: ranks.Accelerator,
        *,
        commit: Commit | None,
        folder: run_folder.RunDir | None,
        checkpointer: AsyncCheckpointer,
        stack: ExitStack,
    ) -> None:
        self.config = config
        self.name = name
        self.index = index
        self.accelerator = accelerator
        self.device = accelerator.device
        self.commit_before = commit
        self.number = commit.number if commit else 0
        """Number of the last commit."""
        self.state: dict[str, Any] = dict(commit.state) if commit else {**NOTHING_DONE}
        """State of the last commit."""
        self.folder = folder
        """The claimed run folder; None on every rank but the first."""
        self.meter = Meter()
        self._checkpointer = checkpointer
        self._stack = stack
        self._sampler = PlanSampler(rank=ranks.rank(), world=ranks.world())
        self._progress: Progress | None = None
        self._lr = config.lr

    @property
    def last_epoch(self) -> int:
        """The epoch after whose commit this call ends."""
        return pause.last_epoch(self.config.epochs, until_epoch=self.config.until_epoch)

    def show_progress(self, *, images_per_epoch: int, note: str) -> None:
        """Show progress on the first rank; trackers start, as all that may be wrong was tried."""
        if self.config.tracker != "none":
            settings = run_folder.identity(self.config)
            start_trackers(self.accelerator, f"a2s-{self.name}", settings)
        if not ranks.is_main():
            return
        epoch, step = self.state["epoch"], self.state["step"]
        total = self.config.epochs * images_per_epoch
        done = epoch * images_per_epoch + step * self.config.batch_size
        bar = Progress(total, unit="images", name=self.name, done=done)
        self._progress = self._stack.enter_context(bar)
        where = f"{ranks.world()} rank(s) on {self.device.type}, from epoch {epoch + 1}"
        self.note(f"{where}, step {step + 1}; {note}")
        for line in start_lines(self.config, num_images=images_per_epoch):
            self.note(line)

    def note(self, text: str) -> None:
        """Print a line above the progress bar, on the first rank."""
        if self._progress and text:
            self._progress.note(text)

    def make_loader(self, dataset: Images) -> DataLoader[Batch]:
        """Batches of this rank; `steps` says which."""
        on_gpu = self.device.type == "cuda"
        workers = self.config.loader_workers
        loader = make_loader(dataset, self._sampler, workers=workers, pin_memory=on_gpu)
        self._stack.callback(end_workers, loader)
        return loader

    def set_learning_rate(self, optimizer: GuardedSGD, *, epoch: int) -> None:
        """Give every parameter group the epoch's rate times its own `scale`."""
        assert self.config.milestones is not None, "resolved when the settings were read"
        self._lr = learning_rate(epoch, lr=self.config.lr, milestones=self.config.milestones)
        for group in optimizer.param_groups:
            group["lr"] = self._lr * group["scale"]

    def steps(
        self, epoch: int, loader: DataLoader[Batch], *, keep_N: Bools | None = None
    ) -> Iterator[Step]:
        """The steps of an epoch after the last commit, the same for any number of ranks.

        `keep_N` marks the rows of the index that take part; default: all.
        """
        config = self.config
        self.plan = make_plan(
            self.index.shard_sizes,
            batch_size=config.batch_size,
            seed=config.seed,
            epoch=epoch,
            window=config.window,
            keep=keep_N,
        )
        done = self.state["step"]
        self._sampler.set(self.plan, epoch=epoch, start_step=done)
        self.meter = Meter()
        stop.current().is_deferred = True
        for number, batch in enumerate(batches(loader), start=done + 1):
            self.meter.data_arrived()
            is_last = number == self.plan.num_steps
            commits = is_last or bool(config.commit_every and number % config.commit_every == 0)
            logs = is_last or number % config.log_every == 0
            stopping = ranks.stop_signal()
            step = Step(
                epoch,
                number,
                batch,
                self.plan.batch(number - 1),
                is_last=is_last,
                logs=logs,
                commits=commits or bool(stopping),
            )
            yield step
            if self._progress:
                self._progress.update(step.num_images)
            if stopping:
                self._stop(step, stopping)
            self.meter.wait_for_data()

    def _stop(self, step: Step, number: int) -> None:
        """End all ranks with the exit code of a signal, once the step's commit is durable."""
        stop.current().is_agreed = True
        self.wait_for_commits()
        if ranks.is_main():
            where = f"epoch {step.epoch}, step {step.number}"
            print(
                f"a2s: {self.name}: interrupted by {signal.Signals(number).name}; {where} is "
                "committed, the same command resumes",
                file=sys.stderr,
            )
        stop.end_by(number)

    def check(self, *checks: Callable[[], None]) -> None:
        """Raise on all ranks what an asynchronous commit, or one of `checks`, found wrong."""
        with ranks.fail_together():
            self._checkpointer.check()
            for check in checks:
                check()

    def log(self, step: Step, **measured: float) -> None:
        """Write a line of `metrics.jsonl`, on the first rank."""
        if self.folder is None or self._progress is None:
            return
        fields: dict[str, Any] = {"epoch": step.epoch, "step": step.number, **measured}
        fields |= {**self.meter.report(), "lr": self._lr, "peak_memory_mib": peak_memory_mib()}
        self.folder.log(**fields)
        total_step = (step.epoch - 1) * self.plan.num_steps + step.number
        self.accelerator.log(fields, step=total_step)
        self._progress.fields.update(fields)

    def commit(
        self,
        step: Step,
        model: ActivationNet | Detector,
        parameters: dict[str, nn.Parameter],
        optimizer: GuardedSGD,
        *,
        loss: float,
        labels: Mapping[str, Any] | None = None,
        list_stale: Callable[[], Callable[[], object]] | None = None,
    ) -> None:
        """Start to write a commit of everything that a resumed run needs, while training goes on.

        `labels` joins the commit's state; `list_stale` is that of `AsyncCheckpointer.begin`.
        """
        config, epoch = self.config, step.epoch
        self.number += 1
        self.state = {
            "epoch": epoch if step.is_last else epoch - 1,
            "step": 0 if step.is_last else step.number,
            "finished": step.is_last and epoch == config.epochs,
            **(labels or {}),
            "seed": config.seed,
            "world_size": ranks.world(),
            "loss": loss,
        }
        # What a user of the model must know to give it images as it saw them here.
        input_spec = {
            "image_size": str(config.image_size),
            "resize_filter": config.parity.resize_filter,
        }
        if isinstance(model, ActivationNet) and model.votes and self.state["finished"]:
            input_spec["kept_heads"] = ",".join(map(str, model.kept))
        with ranks.fail_together():
            if ranks.is_main():
                self._checkpointer.begin(
                    config.out,
                    self.number,
                    model=model.state_dict(),
                    metadata={**model.spec(), **input_spec},
                    optimizer=pack_momentum(optimizer, parameters),
                    state=self.state,
                    list_stale=list_stale,
                )

    def wait_for_commits(self) -> None:
        """Return when the last commit is durable."""
        with ranks.fail_together():
            self._checkpointer.wait()

    def end_steps(self) -> None:
        """Return when the last step's commit is durable; a signal no longer waits for a step."""
        self.wait_for_commits()
        stop.current().end_deferral()


@contextmanager
def open_run(
    config: Stage1Config | Stage2Config,
    name: str,
    accelerator: ranks.Accelerator,
    index: Index,
    *,
    inputs: Mapping[str, str],
) -> Iterator[TrainingRun]:
    """Claim the run folder on the first rank, and find the last commit on all of them.

    `inputs` are fingerprints of what the run reads, by name.

    Raises:
        ConfigError: the ranks see different inputs or commits, or the folder is in use or was made
            with other settings.
        CheckpointError: the last commit is damaged.
    """
    ranks.check_same(" and ".join(inputs), ", ".join(inputs.values()))
    checkpointer, folder = AsyncCheckpointer(), None
    with ExitStack() as stack:
        with ranks.fail_together():
            if ranks.is_main():
                # The others wait for this rank meanwhile, and must not take it for one that hangs.
                claim = partial(run_folder.claim, config.out, waiting=ranks.waiting)
                folder = stack.enter_context(claim(command=name, config=config, inputs=inputs))
                stack.enter_context(checkpointer)
        share_files()
        with ranks.fail_together():
            commit = checkpoints.last_commit(config.out)
        ranks.check_same("last commit in --out", str(commit.number if commit else 0))
        yield TrainingRun(
            config,
            name,
            index,
            accelerator,
            commit=commit,
            folder=folder,
            checkpointer=checkpointer,
            stack=stack,
        )
        for tracker in accelerator.trackers:
            # Not `end_training`, which also destroys the process group, while DDP still uses it.
            tracker.finish()
