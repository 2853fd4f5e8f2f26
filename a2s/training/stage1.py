"""Stage 1: train the activation network on unlabelled images (Sec. III-A).

The four blocks train. The encoder is frozen and its features are cached, unless
`parity.encoder_mode` says otherwise. The loop is the same for one rank and for many: every sum of
the loss is taken over all ranks before it is divided, so gradients do not depend on the number of
ranks. No step waits for the device: the host reads losses at log lines and before commits.

B images of one rank, G of the global batch, W 32-bit words of kept pixels, K maps.
"""

from __future__ import annotations

import math
from statistics import fmean

import torch

from a2s.config.commands import Stage1Config
from a2s.data.epoch_plan import lanes_per_rank
from a2s.data.index import Index
from a2s.data.loader import Images
from a2s.parallel import ranks
from a2s.training import pause
from a2s.training.features.file_cache import STRIDES
from a2s.training.loop import TrainingRun, open_run
from a2s.training.losses import adb_loss, map_terms
from a2s.training.setup import start_accelerator, start_features, start_stage1
from a2s.training.step import DeferredMetrics, compiled, stop_not_finite


def train(config: Stage1Config) -> bool:
    """Train from the last commit to the last epoch, or to `until_epoch`; all ranks call it.

    Returns whether the last epoch is done.
    """
    accelerator = start_accelerator(config)
    with ranks.fail_together():
        index = Index.load(config.data)
        lanes_per_rank(config.batch_size, ranks.world())
    inputs = {"data": index.fingerprint}
    with open_run(config, "stage1", accelerator, index, inputs=inputs) as run:
        _train(config, run)
    return bool(run.state["finished"])


def _train(config: Stage1Config, run: TrainingRun) -> None:
    index, device, size, world = run.index, run.device, config.image_size, ranks.world()

    # Weights come from the seed and the encoder's file, or from the last commit.
    with ranks.fail_together():
        model, parameters, optimizer = start_stage1(config, run.commit_before, device=device)
    loss_fn = map_terms
    if config.compile:
        with ranks.fail_together():
            model.blocks.forward = compiled(model.blocks.forward, device, replayed=True)  # type: ignore[method-assign]
            loss_fn = compiled(map_terms, device, replayed=True)
    prepare, autocast = run.accelerator.prepare, run.accelerator.autocast
    blocks = prepare(model.blocks)

    # A frozen encoder's features come from a cache; another encoder runs at every step.
    features = start_features(config, model, index, prepare=prepare, autocast=autocast)
    dataset = Images(
        index,
        image_size=size,
        seed=config.seed,
        needs_image=features.needs_image,
        keep_sides=[(size // s, size // s) for s in (1, *STRIDES)] if config.drop_pixels else (),
        resize_filter=config.parity.resize_filter,
    )
    loader = run.make_loader(dataset)
    weight_K = torch.tensor(config.map_weights, dtype=torch.float64, device=device)
    metrics, losses = DeferredMetrics(), list[float]()

    run.show_progress(images_per_epoch=len(index), note=features.describe())
    for epoch in range(run.state["epoch"] + 1, run.last_epoch + 1):
        run.set_learning_rate(optimizer, epoch=epoch)
        for step in run.steps(epoch, loader):
            # Features of each image, mirrored or not as (seed, epoch, key) decides.
            maps = blocks(*features.of(step.batch, dataset.image), size=(size, size))

            # The loss: distances of kept pixels from the boundary, summed over ranks, then divided.
            valid_B = step.batch.valid_B.to(device, non_blocking=True)
            keep_BW = step.batch.keep_BW
            keep_BW = None if keep_BW is None else keep_BW.to(device, non_blocking=True)
            terms = loss_fn(maps, valid_B, keep_BW, side=size, alpha=config.alpha)
            local_3K = torch.cat([terms.numerator_K, terms.num_kept_K, terms.mean_K])
            numerator_K, num_kept_K, mean_K = ranks.all_sum(local_3K).chunk(3)
            loss = adb_loss(numerator_K, num_kept_K, weight_K)

            # DDP averages gradients over ranks, so each rank's share is scaled by their number.
            share_K = world * terms.numerator_K
            optimizer.zero_grad(set_to_none=True)
            run.accelerator.backward(adb_loss(share_K, num_kept_K.float(), weight_K))

            # Nothing is updated, on any rank, from the first step on whose loss or gradient is
            # not finite. (A gradient may overflow where the loss does not.)
            loss = torch.where(optimizer.finite_gradients(), loss, math.nan)
            optimizer.step_if(loss.isfinite())
            metrics.add(step.number, torch.cat([loss[None], terms.finite_B.to(loss.dtype)]))

            # DB1 alone: its boundary is a running mean of theta over at most one epoch of steps.
            num_steps = min((epoch - 1) * run.plan.num_steps + step.number, run.plan.num_steps)
            model.blocks.update_running_mean(mean_K / step.num_images, share=1 / num_steps)

            run.meter.step_done(num_images=step.num_images)
            if step.reads_losses:
                run.check(features.check)
                losses += _read(metrics, run, epoch)
                last_loss = losses[-1]
            if step.logs:
                run.log(step, loss=round(fmean(losses), 6))
                losses.clear()
            if step.commits:
                run.commit(step, model, parameters, optimizer, loss=last_loss)
    run.wait_for_commits()
    # The cache of a paused run stays for the call that continues it.
    run.note(features.close(keep=run.last_epoch < config.epochs))
    if run.folder and run.last_epoch < config.epochs:
        pause.pause(run.folder, "stage1", {"epoch": run.last_epoch}, epochs=config.epochs)


def _read(metrics: DeferredMetrics, run: TrainingRun, epoch: int) -> list[float]:
    """Losses of the steps since the last reading; the run ends where one is not finite."""
    losses = []
    for number, (loss, *finite) in metrics.read():
        losses.append(float(loss))
        if not math.isfinite(losses[-1]):
            rows_G, where = run.plan.batch(number - 1), f"epoch {epoch} step {number}"
            finite_G = ranks.all_gather(torch.stack(finite)).flatten() > 0
            is_bad_G = (rows_G >= 0) & ~finite_G.numpy()
            bad, batch = (run.index.keys_for(rows_G[mask_G]) for mask_G in (is_bad_G, rows_G >= 0))
            stop_not_finite("stage1", run.config.out, where, bad=bad, batch=batch)
    return losses
