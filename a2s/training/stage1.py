"""Stage 1: train the activation network on unlabelled images (Sec. III-A).

The four blocks train. The encoder is frozen and its features are cached, unless `encoder_mode` says
otherwise. The loop is the same for one rank and for many: every sum of the loss is taken over all
ranks before it is divided, so gradients do not depend on the number of ranks. No step waits for the
device: the host reads losses at log lines and before commits.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from statistics import fmean

from a2s.config.commands import Stage1Config
from a2s.data.epoch_plan import lanes_per_rank, make_plan
from a2s.data.index import Index
from a2s.parallel import ranks
from a2s.parallel.progress import Progress
from a2s.storage import checkpoints, run_folder
from a2s.training import pause
from a2s.training.learning_rate import learning_rate
from a2s.training.optimizer import pack_momentum
from a2s.training.throughput import Meter, peak_memory_mib


def _train(config: Stage1Config) -> int:
    import torch

    from a2s.data.loader import Columns, Images, batches, make_loader
    from a2s.training.async_checkpoint import AsyncCheckpointer
    from a2s.training.features.file_cache import STRIDES
    from a2s.training.losses import adb_loss, map_terms
    from a2s.training.setup import start_features, start_stage1
    from a2s.training.step import DeferredMetrics, compiled, stop_not_finite

    accelerator = ranks.start(
        precision=config.precision,
        trackers=() if config.tracker == "none" else (config.tracker,),
        tracker_dir=config.out / "tracker",
    )
    world, device, seed = ranks.world(), accelerator.device, config.seed
    size = config.image_size
    durable = AsyncCheckpointer()
    with ExitStack() as stack:
        # All ranks read the same data and the same commit; one of them owns the folder.
        with ranks.fail_together():
            index = Index.load(config.data)
            lanes_per_rank(config.batch_size, world)
        ranks.check_same("data", index.fingerprint)
        run_dir = None
        with ranks.fail_together():
            if ranks.is_main():
                inputs = {"data": index.fingerprint}
                claim = run_folder.claim(config.out, command="stage1", config=config, inputs=inputs)
                run_dir = stack.enter_context(claim)
                stack.enter_context(durable)
        with ranks.fail_together():
            commit = checkpoints.last_commit(config.out)
        ranks.check_same("last commit in --out", str(commit.number if commit else 0))

        # Weights come from the seed and the encoder's file, or from the last commit.
        with ranks.fail_together():
            model, parameters, optimizer = start_stage1(config, commit, device=device)
        loss_fn = map_terms
        if config.compile:
            with ranks.fail_together():
                model.blocks.forward = compiled(model.blocks.forward, device, replayed=True)  # type: ignore[method-assign]
                loss_fn = compiled(map_terms, device, replayed=True)
        blocks = accelerator.prepare(model.blocks)
        if config.tracker != "none":
            accelerator.init_trackers("stage1")

        # A frozen encoder's features come from a cache; another encoder runs at every step.
        prepare, autocast = accelerator.prepare, accelerator.autocast
        features = start_features(config, model, index, prepare=prepare, autocast=autocast)
        input_spec = {"image_size": str(size), "resize_filter": config.resize_filter}
        sides = [(size // stride, size // stride) for stride in (1, *STRIDES)]
        dataset = Images(
            index,
            image_size=size,
            seed=seed,
            needs_image=features.needs_image,
            keep_sides=sides if config.drop_pixels else (),
            resize_filter=config.resize_filter,
        )
        weight_K = torch.tensor(config.map_weights, dtype=torch.float64, device=device)
        columns = Columns(rank=ranks.rank(), world=world)
        loader = make_loader(
            dataset, columns, workers=config.loader_workers, pin_memory=device.type == "cuda"
        )
        number, state = (commit.number, commit.state) if commit else (0, {"epoch": 0, "step": 0})
        progress = None
        if ranks.is_main():
            done = state["epoch"] * len(index) + state["step"] * config.batch_size
            bar = Progress(config.epochs * len(index), unit="images", name="stage1", done=done)
            progress = stack.enter_context(bar)
            start = f"from epoch {state['epoch'] + 1}, step {state['step'] + 1}"
            progress.note(f"{world} rank(s) on {device.type}, {start}; {features.describe()}")

        # Epochs of steps from the last commit on, and a commit after each epoch.
        assert config.milestones is not None, "resolved when the settings were read"
        last = pause.last_epoch(config.epochs, until_epoch=config.until_epoch)
        for epoch in range(state["epoch"] + 1, last + 1):
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
            meter, readings = Meter(), DeferredMetrics()
            losses: list[float] = []
            for step, cpu_batch in enumerate(batches(loader), start=start_step + 1):
                meter.data_arrived()

                # Features of each image, mirrored or not as (seed, epoch, key) decides.
                maps = blocks(*features.of(cpu_batch, dataset.image), size=(size, size))

                # The loss: kept pixels' distance from the boundary, summed over ranks, divided.
                valid_B = cpu_batch.valid_B.to(device, non_blocking=True)
                keep_BW = cpu_batch.keep_BW
                keep_BW = None if keep_BW is None else keep_BW.to(device, non_blocking=True)
                terms = loss_fn(maps, valid_B, keep_BW, side=size, alpha=config.alpha)
                sums = ranks.all_sum(torch.cat([*terms[:2], terms.mean_K]))
                numerator_K, num_kept_K, mean_K = sums.chunk(3)
                loss = adb_loss(numerator_K, num_kept_K, weight_K)

                # DDP averages gradients over ranks, so each rank's share is scaled by their number.
                share_K = world * terms.numerator_K
                optimizer.zero_grad(set_to_none=True)
                accelerator.backward(adb_loss(share_K, num_kept_K.float(), weight_K))

                # Nothing is updated, on any rank, when the loss is not finite or was not before. A
                # gradient that overflowed, as that of an encoder at a high rate may, counts as one.
                loss = torch.where(optimizer.finite_gradients(), loss, math.nan)
                optimizer.step_if(loss.isfinite())
                readings.add(step, torch.cat([loss[None], terms.finite_B.to(loss.dtype)]))

                # A boundary at the training set's mean keeps a running one over an epoch of steps.
                num_images = int((plan.batch(step - 1) >= 0).sum())
                num_steps = min((epoch - 1) * plan.num_steps + step, plan.num_steps)
                model.blocks.update_running_mean(mean_K / num_images, share=1 / num_steps)

                meter.step_done(num_images=num_images)
                at_end = step == plan.num_steps
                commits = at_end or bool(config.commit_every and step % config.commit_every == 0)
                if commits or step % config.log_every == 0:
                    with ranks.fail_together():
                        durable.check()
                        features.check()
                    for at, (value, *finite) in readings.read():
                        last_loss = float(value)
                        losses += [last_loss] if run_dir else []
                        if not math.isfinite(last_loss):
                            rows_G, where = plan.batch(at - 1), f"epoch {epoch} step {at}"
                            finite_G = ranks.all_gather(torch.stack(finite)).flatten() > 0
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
                    with ranks.fail_together():
                        if ranks.is_main():
                            durable.begin(
                                config.out,
                                number,
                                model=model.state_dict(),
                                metadata={**model.spec(), **input_spec},
                                optimizer=pack_momentum(optimizer, parameters),
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
        with ranks.fail_together():
            durable.wait()
        # What a call that goes on will need again stays.
        rest = features.close(keep=last < config.epochs)
        if progress and rest:
            progress.note(rest)
        if run_dir and last < config.epochs:
            pause.pause(run_dir, "stage1", {"epoch": last}, epochs=config.epochs)
    if config.tracker != "none":
        accelerator.end_training()
    if last < config.epochs:
        return 0
    if ranks.is_main():
        print(f"stage1: wrote {config.out}/checkpoints/{number:05d}. {_next(config)}")
    return 0


def _next(config: Stage1Config) -> str:
    return (
        f"Next: a2s label --model {config.out} --data {config.data} --out labels/{config.out.name}"
    )
