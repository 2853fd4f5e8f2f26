"""Stage 1: train the activation network on unlabelled images (Sec. III-A).

The encoder is frozen, and its features go through a cache; only the four blocks train. The loop is
the same for one rank and for many: every sum of the loss is taken over all ranks before it is
divided, so the gradients do not depend on their number. No step waits for the device: what the host
must know of it is read at log lines and before commits.
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from statistics import fmean
from typing import TYPE_CHECKING

from a2s import checkpoint, distributed, rundir
from a2s.config import Stage1Config
from a2s.data.plan import lanes_per_rank, make_plan
from a2s.data.tar_index import Index
from a2s.meter import Meter, peak_memory_mib
from a2s.progress import Progress
from a2s.schedule import learning_rate

if TYPE_CHECKING:
    from torch import Tensor


def run(config: Stage1Config) -> int:
    """Train, or continue, or say that nothing is left to do."""
    distributed.check_launch(os.environ)
    commit = checkpoint.last_commit(config.out)
    if commit is None or not commit.state["finished"]:
        return distributed.recorded(_train)(config)
    # Known without torch, and by every rank on its own.
    if distributed.launched_rank(os.environ) == 0:
        inputs = {"data": Index.load(config.data).fingerprint}
        with rundir.claim(config.out, command="stage1", config=config, inputs=inputs):
            print(f"stage1: {config.out} is done ({config.epochs} epochs). {_next(config)}")
    return 0


def _train(config: Stage1Config) -> int:
    import torch

    from a2s.data.device_features import open_cache
    from a2s.data.feature_cache import STRIDES, fingerprint_tensors
    from a2s.data.loader import Columns, Images, batches, make_loader
    from a2s.data.transforms import normalise
    from a2s.losses import adb_loss, map_terms
    from a2s.starting import start_stage1
    from a2s.stepping import Readings, compiled, stop_not_finite

    accelerator = distributed.start(
        precision=config.precision,
        trackers=() if config.tracker == "none" else (config.tracker,),
        tracker_dir=config.out / "tracker",
    )
    world, device, seed = distributed.world(), accelerator.device, config.seed
    size = config.image_size
    with ExitStack() as stack:
        # All ranks read the same data and the same commit; one of them owns the folder.
        with distributed.together():
            index = Index.load(config.data)
            lanes_per_rank(config.batch_size, world)
        distributed.check_same("data", index.fingerprint)
        run_dir = None
        with distributed.together():
            if distributed.is_main():
                inputs = {"data": index.fingerprint}
                claim = rundir.claim(config.out, command="stage1", config=config, inputs=inputs)
                run_dir = stack.enter_context(claim)
        with distributed.together():
            commit = checkpoint.last_commit(config.out)
        distributed.check_same("last commit in --out", str(commit.number if commit else 0))

        # Weights come from the seed and the encoder's file, or from the last commit.
        with distributed.together():
            model, parameters, optimizer = start_stage1(config, commit, device=device)
        judge = map_terms
        if config.compile:
            with distributed.together():
                model.blocks.forward = compiled(model.blocks.forward, device)  # type: ignore[method-assign]
                judge = compiled(map_terms, device)
        blocks = accelerator.prepare(model.blocks)
        if config.tracker != "none":
            accelerator.init_trackers("stage1")

        # Encoder features come from a cache; only what it lacks is decoded and encoded.
        weights = fingerprint_tensors(model.encoder)
        distributed.check_same("encoder weights", weights)
        with distributed.together():
            cache = open_cache(
                device,
                config.cache_dir,
                made_from={
                    "data": index.fingerprint,
                    "encoder": weights,
                    "arithmetic": f"{config.precision} on {device.type}",
                },
                num_images=len(index),
                image_size=size,
                channels=model.encoder.channels[2:],
                dtype=getattr(torch, config.cache_dtype),
                budget_bytes=int(config.cache_gib * 2**30),
            )

        @torch.no_grad()
        def encode(image_B3SS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with accelerator.autocast():
                image_B3SS = image_B3SS.contiguous(memory_format=torch.channels_last)
                e3, e4, e5 = model.encode(normalise(image_B3SS))
            return e3.float(), e4.float(), e5.float()

        def lacks_features(row: int, mirrored: bool) -> bool:
            return not cache.has(row, mirrored=mirrored)

        sides = [(size // stride, size // stride) for stride in (1, *STRIDES)]
        dataset = Images(
            index,
            image_size=size,
            seed=seed,
            needs_image=lacks_features,
            keep_sides=sides if config.drop_pixels else (),
        )
        weight_K = torch.tensor(config.map_weights, dtype=torch.float64, device=device)
        columns = Columns(rank=distributed.rank(), world=world)
        loader = make_loader(
            dataset, columns, workers=config.loader_workers, pin_memory=device.type == "cuda"
        )
        number, state = (commit.number, commit.state) if commit else (0, {"epoch": 0, "step": 0})
        progress = None
        if distributed.is_main():
            done = state["epoch"] * len(index) + state["step"] * config.batch_size
            bar = Progress(config.epochs * len(index), unit="images", name="stage1", done=done)
            progress = stack.enter_context(bar)
            start = f"from epoch {state['epoch'] + 1}, step {state['step'] + 1}"
            progress.note(f"{world} rank(s) on {device.type}, {start}; {cache.describe()}")

        # Epochs of steps from the last commit on, and a commit after each epoch.
        assert config.milestones is not None, "resolved when the settings were read"
        for epoch in range(state["epoch"] + 1, config.epochs + 1):
            plan = make_plan(
                index.shard_sizes,
                batch_size=config.batch_size,
                seed=seed,
                epoch=epoch,
                window=config.window,
            )
            start_step = state["step"] if epoch == state["epoch"] + 1 else 0
            columns.set(plan, epoch=epoch, start_step=start_step)
            lr = learning_rate(epoch, lr=config.lr, milestones=config.milestones)
            for group in optimizer.param_groups:
                group["lr"] = lr
            meter, readings = Meter(), Readings()
            losses: list[float] = []
            for step, cpu_batch in enumerate(batches(loader), start=start_step + 1):
                meter.data_arrived()

                # Frozen features of each image, mirrored or not as (seed, epoch, key) decides.
                features = cache.fetch(
                    cpu_batch.image_B3SS,
                    rows=cpu_batch.row_B.tolist(),
                    mirrored=cpu_batch.flip_B.tolist(),
                    encode=encode,
                    read_image=dataset.image,
                )
                maps = blocks(*features, size=(size, size))

                # The loss: kept pixels' distance from the boundary, summed over ranks, divided.
                valid_B = cpu_batch.valid_B.to(device, non_blocking=True)
                keep_BW = cpu_batch.keep_BW
                keep_BW = None if keep_BW is None else keep_BW.to(device, non_blocking=True)
                terms = judge(maps, valid_B, keep_BW, side=size, alpha=config.alpha)
                sums = distributed.all_sum(torch.cat([terms.numerator_K, terms.num_kept_K]))
                numerator_K, num_kept_K = sums.chunk(2)
                loss = adb_loss(numerator_K, num_kept_K, weight_K)

                # DDP averages gradients over ranks, so each rank's share is scaled by their number.
                share_K = world * terms.numerator_K
                optimizer.zero_grad(set_to_none=True)
                accelerator.backward(adb_loss(share_K, num_kept_K.float(), weight_K))

                # Nothing is updated, on any rank, when the loss is not finite or was not before.
                optimizer.step_if(loss.isfinite())
                readings.add(step, torch.cat([loss[None], terms.finite_B.to(loss.dtype)]))

                num_images = int((plan.batch(step - 1) >= 0).sum())
                meter.step_done(num_images=num_images)
                at_end = step == plan.num_steps
                commits = at_end or bool(config.commit_every and step % config.commit_every == 0)
                if commits or step % config.log_every == 0:
                    with distributed.together():
                        cache.check()
                    for at, (value, *finite) in readings.read():
                        last_loss = float(value)
                        losses += [last_loss] if run_dir else []
                        if not math.isfinite(last_loss):
                            rows_G, where = plan.batch(at - 1), f"epoch {epoch} step {at}"
                            finite_G = distributed.all_gather(torch.stack(finite)).flatten() > 0
                            is_bad_G = (rows_G >= 0) & ~finite_G.numpy()
                            bad, keys = (
                                index.keys_for(rows_G[chosen_G])
                                for chosen_G in (is_bad_G, rows_G >= 0)
                            )
                            stop_not_finite("stage1", config.out, where, bad=bad, batch=keys)
                if run_dir and progress and (at_end or step % config.log_every == 0):
                    fields = {"epoch": epoch, "step": step, "loss": round(fmean(losses), 6)}
                    fields |= {**meter.report(), "lr": lr, "peak_memory_mib": peak_memory_mib()}
                    run_dir.log(**fields)
                    accelerator.log(fields, step=(epoch - 1) * plan.num_steps + step)
                    progress.fields.update(fields)
                    losses.clear()
                if progress:
                    progress.update(num_images)
                if commits:
                    number += 1
                    with distributed.together():
                        if distributed.is_main():
                            checkpoint.save(
                                config.out,
                                number,
                                model=model.state_dict(),
                                metadata={**model.spec(), "image_size": str(size)},
                                optimizer=checkpoint.pack_momentum(optimizer, parameters),
                                state={
                                    "epoch": epoch if at_end else epoch - 1,
                                    "step": 0 if at_end else step,
                                    "finished": at_end and epoch == config.epochs,
                                    "seed": seed,
                                    "world_size": world,
                                    "loss": last_loss,
                                },
                            )
                meter.wait_for_data()
        if progress and cache.full:
            progress.note("the cache's disk is full; what did not fit was recomputed")
    if cache.temporary:
        cache.remove()
    if config.tracker != "none":
        accelerator.end_training()
    if distributed.is_main():
        print(f"stage1: wrote {config.out}/checkpoints/{number:05d}. {_next(config)}")
    return 0


def _next(config: Stage1Config) -> str:
    return (
        f"Next: a2s label --model {config.out} --data {config.data} --out labels/{config.out.name}"
    )
