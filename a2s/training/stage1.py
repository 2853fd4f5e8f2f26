"""Stage 1: train the activation network on unlabelled images (Sec. III-A).

The heads' blocks train. The encoder is frozen and its features are cached, unless
`parity.encoder_mode` says otherwise. The loss is the paper's, which needs no labels (Eqn 4), or
with `labels` compares the maps with them. The loop is the same for one rank and for many. No step
waits for the device: the host reads losses at log lines and before commits.

B images of one rank, G of the global batch, H heads, W 32-bit words of kept pixels, K maps.
"""

from __future__ import annotations

import math
from functools import partial, reduce
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from a2s.config.training import Stage1Config
from a2s.data.batch import Batch
from a2s.data.epoch_plan import lanes_per_rank
from a2s.data.index import Index
from a2s.data.loader import Images
from a2s.data.transforms import crop_cells, draw_window, flip_where
from a2s.errors import A2SError
from a2s.labels.store.reader import UNLABELLED
from a2s.models.activation_net import ActivationNet
from a2s.models.heads import CELL_PX, ActivationBlocks, ActivationMaps
from a2s.models.vote import agreement, majority, probabilities
from a2s.parallel import ranks
from a2s.training import pause
from a2s.training.features.file_cache import STRIDES
from a2s.training.labelled import labelled_images
from a2s.training.loop import TrainingRun, open_run
from a2s.training.losses import map_terms
from a2s.training.preflight import check_images, training_inputs
from a2s.training.setup import start_accelerator, start_features, start_stage1
from a2s.training.stage1_loss import boundary_loss, label_loss, total
from a2s.training.step import DeferredMetrics, Step, compiled, stop_not_finite


def train(config: Stage1Config) -> bool:
    """Train from the last commit to the last epoch, or to `until_epoch`; all ranks call it.

    Returns whether the last epoch is done.
    """
    accelerator = start_accelerator(config)
    with ranks.fail_together():
        index = Index.load(config.data)
        labels = Index.load(config.labels) if config.labels else None
        lanes_per_rank(config.batch_size, ranks.world())
        inputs = training_inputs(config, index, labels)
        check_images(index, command="stage1")
    with open_run(config, "stage1", accelerator, index, inputs=inputs) as run:
        _train(config, run, labels)
    return bool(run.state["finished"])


def _train(config: Stage1Config, run: TrainingRun, labels: Index | None) -> None:
    index, device, size = run.index, run.device, config.image_size

    # Weights come from the seed and the encoder's file, or from the last commit.
    with ranks.fail_together():
        model, parameters, optimizer = start_stage1(config, run.commit_before, device=device)
    terms_fn = map_terms
    if config.compile:
        with ranks.fail_together():
            model.heads.forward = compiled(model.heads.forward, device, replayed=True)  # type: ignore[method-assign]
            terms_fn = compiled(map_terms, device, replayed=True)
    prepare, autocast = run.accelerator.prepare, run.accelerator.autocast
    heads = prepare(model.heads)

    # A frozen encoder's features come from a cache; another encoder runs at every step.
    features = start_features(config, model, index, prepare=prepare, autocast=autocast)
    source = keep_N = None
    if labels is not None:
        source, keep_N = labelled_images(config, run, labels, [0] * config.epochs)
    drops = config.drop_pixels and model.label_heads < len(model.heads)
    dataset = Images(
        index,
        image_size=size,
        seed=config.seed,
        read_label=source,
        needs_image=features.needs_image,
        keep_sides=[(size // s, size // s) for s in (1, *STRIDES)] if drops else (),
        resize_filter=config.parity.resize_filter,
    )
    loader = run.make_loader(dataset)
    weight_K = torch.tensor(config.map_weights, dtype=torch.float64, device=device)
    metrics, losses = DeferredMetrics(), list[float]()

    num_images = len(index) if keep_N is None else int(keep_N.sum())
    note = features.describe()
    if keep_N is not None:
        note += (
            f"; {num_images:,} labels, {len(index) - num_images:,} images without ({UNLABELLED})"
        )
    run.show_progress(images_per_epoch=num_images, note=note)
    for epoch in range(run.state["epoch"] + 1, run.last_epoch + 1):
        run.set_learning_rate(optimizer, epoch=epoch)
        for step in run.steps(epoch, loader, keep_N=keep_N):
            # Features of each image, mirrored or not as (seed, epoch, key) decides.
            taps = features.of(step.batch, dataset.image)
            valid_B = step.batch.valid_B.to(device, non_blocking=True)

            window = _window(config, step)
            maps_H = heads(*taps, size=(size, size), window=window)

            # Distances of kept pixels from the boundary, for the heads without labels, and labels
            # of the window, for the others.
            keep_BW = _sent(step.batch.keep_BW, device)
            terms_of = partial(
                terms_fn, valid_B=valid_B, keep_BW=keep_BW, side=size, alpha=config.alpha
            )
            split = len(maps_H) - model.label_heads
            losses_of = []
            if split:
                losses_of.append(boundary_loss(maps_H[:split], terms_of, weight_K))
            if model.label_heads:
                target_B1SS = _target(step.batch, window, device)
                count = step.num_images
                losses_of.append(
                    label_loss(maps_H[split:], target_B1SS, valid_B, weight_K, num_images=count)
                )
            loss = reduce(total, losses_of)
            optimizer.zero_grad(set_to_none=True)
            with ranks.waiting():
                run.accelerator.backward(loss.backward)

            # Nothing is updated, on any rank, from the first step on whose loss or gradient is
            # not finite. (A gradient may overflow where the loss does not.)
            value = torch.where(optimizer.finite_gradients(), loss.value, math.nan)
            optimizer.step_if(value.isfinite())
            metrics.add(step.number, torch.cat([value[None], loss.finite_B.to(value.dtype)]))

            # DB1 alone: its boundary is a running mean of theta over at most one epoch of steps.
            num_steps = min((epoch - 1) * run.plan.num_steps + step.number, run.plan.num_steps)
            for head, mean_K in zip(model.heads, loss.mean_HK or (), strict=False):
                assert isinstance(head, ActivationBlocks)
                head.update_running_mean(mean_K / step.num_images, share=1 / num_steps)
            if epoch == config.epochs:
                _compare_heads(model, maps_H, valid_B, step)

            run.meter.step_done(num_images=step.num_images)
            if step.reads_losses:
                run.check(features.check)
                losses += _read(metrics, run, epoch)
                last_loss = losses[-1]
            if step.logs:
                run.log(step, loss=round(fmean(losses), 6))
                losses.clear()
            if epoch == config.epochs and step.is_last:
                _keep_majority(config, run, model)
            if step.commits:
                run.commit(step, model, parameters, optimizer, loss=last_loss)
    run.end_steps()
    # The cache of a paused run stays for the call that continues it.
    run.note(features.close(keep=run.last_epoch < config.epochs))
    if run.folder and run.last_epoch < config.epochs:
        pause.pause(run.folder, "stage1", {"epoch": run.last_epoch}, epochs=config.epochs)


def _sent(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)


def _target(batch: Batch, window: tuple[slice, slice] | None, device: torch.device) -> Tensor:
    """Labels of a batch, mirrored like their images; the window of them."""
    label_B1SS, flip_B = _sent(batch.label_B1SS, device), _sent(batch.flip_B, device)
    assert label_B1SS is not None
    assert flip_B is not None
    target_B1SS = flip_where(label_B1SS, flip_B)
    return target_B1SS if window is None else crop_cells(target_B1SS, window, cell=CELL_PX)


def _window(config: Stage1Config, step: Step) -> tuple[slice, slice] | None:
    """The part of the images that heads with labels see in a step; all in the last epoch."""
    if config.labels is None or config.crops == 0 or step.epoch == config.epochs:
        return None
    cells = config.image_size // CELL_PX
    return draw_window(
        seed=config.seed,
        epoch=step.epoch,
        step=step.number,
        cells=(cells, cells),
        share=config.crops,
    )


@torch.no_grad()
def _compare_heads(
    model: ActivationNet, maps_H: list[ActivationMaps], valid_B: Tensor, step: Step
) -> None:
    """Add to the sums how far the heads' maps of these images agree."""
    if model.agreement_2KK is None:
        return
    if step.number == 1:
        model.agreement_2KK.zero_()
    probability_HB1hw = torch.stack(
        [
            probabilities(maps.theta, sign_tie=model.sign_tie_of(head))
            for head, maps in enumerate(maps_H)
        ]
    )
    model.agreement_2KK += ranks.all_sum(agreement(probability_HB1hw[:, :, 0], valid_B))


def _keep_majority(config: Stage1Config, run: TrainingRun, model: ActivationNet) -> None:
    """Keep the heads that agree.

    Raises:
        A2SError: no majority of them does, on all ranks.
    """
    if model.agreement_2KK is None:
        return
    sum_KK, count_KK = model.agreement_2KK.cpu()
    mean_KK = sum_KK / count_KK.clamp(min=1)
    count = len(model.heads)
    with_labels = range(count - model.label_heads, count)
    model.kept = majority(mean_KK, at_least=config.min_agreement, anchored=with_labels)
    pairs: dict[str, Any] = {
        f"{a} and {b}": round(float(mean_KK[a, b]), 3) for a in range(count) for b in range(a)
    }
    if run.folder:
        run.folder.log(event="heads", agreement=pairs, kept=list(model.kept))
    shown = ", ".join(f"{heads}: {iou:.2f}" for heads, iou in pairs.items())
    with ranks.fail_together():
        if not model.kept:
            seeds = "" if config.labels else "--labels (from a2s label --model rbd), "
            if config.encoder.weights == "none":
                seeds = f"pretrained --encoder.weights, {seeds}"
            raise A2SError(
                f"stage1: no majority of the {count} heads agrees (mean IoU of heads {shown}; at "
                f"least {config.min_agreement:g} is asked for), so nobody knows which one found "
                f"objects; try {seeds}more images or epochs, or another --seed"
            )
    dropped = [str(head) for head in range(count) if head not in model.kept]
    says = f"dropped head {', '.join(dropped)}, which disagrees" if dropped else "all agree"
    run.note(f"{count} heads, mean IoU of {shown}: {says}")


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
