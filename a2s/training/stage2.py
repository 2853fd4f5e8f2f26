"""Stage 2: train the detector on pseudo labels and rectify them online (Sec. III-B).

B images of one rank, G of the global batch, M of one forward pass; S side of the network's input;
F numbers that are measured per image. Labels live in image coordinates: a prediction of a mirrored
image is turned back before it is used. No step waits for the device: the host reads losses at log
lines and before commits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from a2s.config.training import Stage2Config
from a2s.data.epoch_plan import lanes_per_rank
from a2s.data.index import Index
from a2s.data.loader import Images
from a2s.data.transforms import flip_where, zoom
from a2s.errors import LabelError
from a2s.labels.store.fixed_point import to_u16_bits
from a2s.labels.store.reader import UNLABELLED
from a2s.labels.store.writer import NextGeneration, list_stale_labels, write_rectified
from a2s.models.encoders import set_batchnorm
from a2s.parallel import ranks
from a2s.parallel.shared_folder import share_files
from a2s.training import pause
from a2s.training.labelled import labelled_images
from a2s.training.loop import TrainingRun, open_run
from a2s.training.preflight import check_images, training_inputs
from a2s.training.setup import batchnorm_mode, start_accelerator, start_stage2
from a2s.training.stage2_loss import LOSS_OF, Outcome, loss_and_labels, means, micro_batches
from a2s.training.step import (
    DeferredMetrics,
    Step,
    accumulate_gradients,
    compiled,
    copy_to_host,
    stop_not_finite,
)


def train(config: Stage2Config) -> bool:
    """Train from the last commit as far as there are epochs and labels; all ranks call it.

    Returns whether the last epoch is done and the final labels are written.
    """
    accelerator = start_accelerator(config)
    with ranks.fail_together():
        index, labels = Index.load(config.data), Index.load(config.labels)
        images_per_rank = lanes_per_rank(config.batch_size, ranks.world())
        batchnorm = batchnorm_mode(config, images_per_rank=images_per_rank)
        inputs = training_inputs(config, index, labels)
        check_images(index, command="stage2")
    with open_run(config, "stage2", accelerator, index, inputs=inputs) as run:
        pending_label_command = _train(config, run, labels, batchnorm)
        finished = bool(run.state["finished"]) and pending_label_command is None
        if run.folder and not finished:
            then = pending_label_command or pause.GO_ON
            pause.pause(run.folder, "stage2", run.state, epochs=config.epochs, then=then)
    return finished


def _train(
    config: Stage2Config, run: TrainingRun, labels: Index, batchnorm: Literal["frozen", "train"]
) -> str | None:
    """Train; return the command that must make labels before training can go on, or None."""
    index, device, size, world = run.index, run.device, config.image_size, ranks.world()
    store, schedule = config.out / "labels", pause.schedule_of(config)
    images_per_rank = config.batch_size // world
    run.state = {"generation": 0, "part": None, **run.state}
    with ranks.fail_together():
        if ranks.is_main():
            store.mkdir(exist_ok=True)
            # Labels that no commit names were written by a run that was killed.
            list_stale_labels(config.out)()
    share_files()
    with ranks.fail_together():
        if (command := pause.pending_label_command(config, run.state)) is not None:
            number = schedule.generation_by_epoch[run.state["epoch"]]
            raise LabelError(f"stage2: {config.out} waits for label generation {number}; {command}")

    # The encoder starts from the weights that stage 1 starts from (M1), or the last commit's.
    with ranks.fail_together():
        model, parameters, optimizer = start_stage2(config, run.commit_before, device=device)
    loss = LOSS_OF[config.detector]
    loss_fn: Callable[..., Outcome] = partial(loss_and_labels, loss=loss.per_image)
    if config.compile:
        with ranks.fail_together():
            model.forward = compiled(model.forward, device)  # type: ignore[method-assign]
            loss_fn = compiled(loss_fn, device)
    network = run.accelerator.prepare(model)

    source, keep_N = labelled_images(
        config, run, labels, schedule.generation_by_epoch, min_quality=config.min_quality
    )
    num_labelled = int(keep_N.sum())
    pinned_N = None
    if source.pinned:
        pinned_N = torch.zeros(len(index), dtype=torch.bool)
        pinned_N[list(source.pinned)] = True
        pinned_N = pinned_N.to(device)
    assert config.crops is not None, "resolved when the settings were read"
    dataset = Images(
        index,
        image_size=size,
        seed=config.seed,
        read_label=source,
        resize_filter=config.parity.resize_filter,
        flip_once=config.parity.flip == "once",
        crops=config.crops,
        # While the rate is full. The last steps see images as they are in use.
        last_crop_epoch=min(config.milestones or (config.epochs,)),
    )
    loader = run.make_loader(dataset)
    metrics, measured = DeferredMetrics(), list[Tensor]()

    note = f"{num_labelled} images, {len(index) - num_labelled} left out ({UNLABELLED})"
    run.show_progress(images_per_epoch=num_labelled, note=note)
    last_epoch = schedule.last_epoch(run.state, at_most=run.last_epoch)
    for epoch in range(run.state["epoch"] + 1, last_epoch + 1):
        run.set_learning_rate(optimizer, epoch=epoch)
        network.train()
        set_batchnorm(model.encoder, config.batchnorm)
        lam = schedule.lam_by_epoch[epoch - 1]
        rectified = None
        if lam < 1:
            rectified = NextGeneration(
                store,
                number=schedule.generation_by_epoch[epoch],
                step=run.state["step"],
                part=run.state["part"],
                keep_N=keep_N,
                side=size,
            )
        for step in run.steps(epoch, loader, keep_N=keep_N):
            batch = step.batch.to(device)
            assert batch.label_B1SS is not None
            image_B3SS = flip_where(model.encoder.normalise(batch.image_B3SS), batch.flip_B)
            if (window_B4 := batch.window_B4) is not None:
                image_B3SS = zoom(image_B3SS, window_B4)

            # Mean loss over the valid images of all ranks, and from the same forward pass the
            # rectified labels (Eqn 12, 13). DDP divides gradients by the number of ranks, so each
            # rank multiplies by it.
            share_B = batch.valid_B * (world / step.num_images)
            optimizer.zero_grad(set_to_none=True)
            parts = micro_batches(images_per_rank, device=device, batchnorm=batchnorm)
            pinned_B = None if pinned_N is None else pinned_N[batch.row_B.clamp(min=0)]
            outcomes = []
            for part in accumulate_gradients(run.accelerator, network, parts):
                outcome = loss_fn(
                    network(image_B3SS[part]),
                    batch.label_B1SS[part],
                    batch.flip_B[part],
                    lam=lam,
                    hard=config.binarise,
                    pinned_M=None if pinned_B is None else pinned_B[part],
                    window_M4=None if window_B4 is None else window_B4[part],
                )
                with ranks.waiting():
                    run.accelerator.backward((outcome.loss_M * share_B[part]).sum())
                outcomes.append(outcome)

            # Nothing is updated, on any rank, from the first step on with a loss of an image or a
            # gradient that is not finite. DDP has given all ranks the same gradients.
            measured_BF = torch.cat([outcome.measured_MF for outcome in outcomes])
            measured_BF = torch.where(batch.valid_B[:, None], measured_BF, 0)
            measured_GF = ranks.all_gather(measured_BF).flatten(0, 1)
            finite = optimizer.finite_gradients()
            optimizer.step_if(measured_GF.isfinite().all() & finite)
            metrics.add(step.number, torch.cat([finite.float()[None], measured_GF.flatten()]))

            # Online label rectifying: the labels that the next epoch reads.
            if rectified is not None:
                labels_B1SS = torch.cat([outcome.rectified_M1SS for outcome in outcomes])
                bits_B1SS, wait = copy_to_host(to_u16_bits(labels_B1SS))
                rectified.add(step.batch.row_B.tolist(), bits_B1SS, wait)

            run.meter.step_done(num_images=step.num_images)
            if step.reads_losses:
                run.check()
                measured += _read(metrics, run, epoch)
                last_loss = means(measured[-1:], loss)["loss"]
            if step.logs:
                run.log(step, **means(measured, loss))
                measured.clear()
            if step.commits:
                # Model, optimizer and labels become durable together, by one commit file.
                run.commit(
                    step,
                    model,
                    parameters,
                    optimizer,
                    loss=last_loss,
                    labels=_commit_labels(rectified, step, schedule.generation_by_epoch),
                    list_stale=partial(list_stale_labels, config.out),
                )
    run.end_steps()

    # The final labels leave as ordinary label shards, at the images' own size.
    pending_label_command = pause.pending_label_command(config, run.state)
    if run.state["finished"] and pending_label_command is None:
        number, out = run.state["generation"], config.out / "rectified"
        write_rectified(out, number, source=source, index=index, keep_N=keep_N)
    return pending_label_command


def _read(metrics: DeferredMetrics, run: TrainingRun, epoch: int) -> list[Tensor]:
    """Numbers of the steps since the last reading; the run ends where one is not finite.

    Shape: [images, F] for each step
    """
    read = []
    for number, values in metrics.read():
        rows_G, where = run.plan.batch(number - 1), f"epoch {epoch} step {number}"
        gradients_are_finite, measured_GF = bool(values[0]), values[1:].view(len(rows_G), -1)
        measured_VF = measured_GF[torch.from_numpy(rows_G >= 0)].double()
        read.append(measured_VF)
        if not (gradients_are_finite and bool(measured_VF.isfinite().all())):
            batch = run.index.keys_for(rows_G[rows_G >= 0])
            finite_V = measured_VF.isfinite().all(1).tolist()
            bad = [key for key, ok in zip(batch, finite_V, strict=True) if not ok]
            stop_not_finite("stage2", run.config.out, where, bad=bad, batch=batch)
    return read


def _commit_labels(
    rectified: NextGeneration | None, step: Step, generation_by_epoch: Sequence[int]
) -> dict[str, Any]:
    """Make the labels of all steps so far durable; return what the commit's state says of them."""
    if rectified is None:
        return {"generation": generation_by_epoch[step.epoch - 1], "part": None}
    if step.is_last:
        rectified.publish()
        return {"generation": generation_by_epoch[step.epoch], "part": None}
    part = rectified.commit_part(step.number)
    return {"generation": generation_by_epoch[step.epoch - 1], "part": part}
