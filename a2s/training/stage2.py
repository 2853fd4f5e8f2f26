"""Stage 2: train the detector on pseudo labels and rectify them online (Sec. III-B).

B images of one rank, G of the global batch, M of one forward pass; S side of the network's input.
Labels live in image coordinates: a prediction of a mirrored image is turned back before it is used.
No step waits for the device: the host reads losses at log lines and before commits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from a2s.config.commands import Stage2Config
from a2s.data.epoch_plan import lanes_per_rank, make_plan
from a2s.data.index import Index
from a2s.parallel import ranks
from a2s.parallel.progress import Progress
from a2s.storage import checkpoints, run_folder
from a2s.training import pause, turns
from a2s.training.learning_rate import learning_rate
from a2s.training.optimizer import pack_momentum
from a2s.training.throughput import Meter, peak_memory_mib

if TYPE_CHECKING:
    from torch import Tensor

    from a2s.training.stage2_loss import Outcome


NOTHING_DONE: dict[str, Any] = {"epoch": 0, "step": 0, "generation": 0, "part": None}


def _train(config: Stage2Config) -> int:
    import torch

    from a2s.data.loader import Columns, Images, batches, make_loader
    from a2s.data.transforms import flip_where, normalise
    from a2s.labels.store import reader
    from a2s.labels.store.fixed_point import to_u16_bits
    from a2s.labels.store.writer import NextGeneration, cleaning, write_rectified
    from a2s.models.encoders import set_batchnorm
    from a2s.training.async_checkpoint import AsyncCheckpointer
    from a2s.training.setup import batch_statistics, start_stage2
    from a2s.training.stage2_loss import LOSS_OF, compare, means, micro_batches
    from a2s.training.step import DeferredMetrics, compiled, copy_to_host, stop_not_finite

    accelerator = ranks.start(
        precision=config.precision,
        trackers=() if config.tracker == "none" else (config.tracker,),
        tracker_dir=config.out / "tracker",
    )
    world, device, seed = ranks.world(), accelerator.device, config.seed
    size, store = config.image_size, config.out / "labels"
    input_spec = {"image_size": str(size), "resize_filter": config.resize_filter}
    durable = AsyncCheckpointer()
    with ExitStack() as stack:
        # All ranks read the same data, labels and commit; one of them owns the folder.
        with ranks.fail_together():
            index, labels = Index.load(config.data), Index.load(config.labels)
            images_per_rank = lanes_per_rank(config.batch_size, world)
            batchnorm = batch_statistics(config, images_per_rank=images_per_rank)
        inputs = {"data": index.fingerprint, "labels": labels.fingerprint}
        ranks.check_same("data and labels", str(inputs))
        run_dir = None
        with ranks.fail_together():
            if ranks.is_main():
                claim = run_folder.claim(config.out, command="stage2", config=config, inputs=inputs)
                run_dir = stack.enter_context(claim)
                stack.enter_context(durable)
                store.mkdir(exist_ok=True)
                # What no commit names was written by a run that was killed.
                cleaning(config.out)()
        with ranks.fail_together():
            commit = checkpoints.last_commit(config.out)
            state = dict(commit.state) if commit else dict(NOTHING_DONE)
            number = commit.number if commit else 0
            # Epoch e reads generation generation_by_epoch[e - 1]; 0 is the label shards.
            lam_by_epoch, generation_by_epoch = turns.schedule(config)
            turns.check_labels(config, state)
        ranks.check_same("last commit in --out", str(number))

        # The encoder starts from the weights that stage 1 starts from (M1), or the last commit's.
        with ranks.fail_together():
            model, parameters, optimizer = start_stage2(config, commit, device=device)
        loss = LOSS_OF[config.detector]
        loss_fn: Callable[..., Outcome] = partial(compare, loss=loss.per_image)
        if config.compile:
            with ranks.fail_together():
                model.forward = compiled(model.forward, device)  # type: ignore[method-assign]
                loss_fn = compiled(loss_fn, device)
        network = accelerator.prepare(model)
        if config.tracker != "none":
            accelerator.init_trackers("stage2")

        # Images without a usable label are found once, left out of every plan, and listed.
        label_row_N = labels.rows_of(index.keys)
        keep_N = reader.labelled_rows(config.out, index, labels, label_row_N)
        num_labelled = int(keep_N.sum())

        source = reader.LabelSource(
            labels,
            label_row_N,
            store,
            size,
            generation_by_epoch,
            resize_filter=config.resize_filter,
        )
        dataset = Images(
            index,
            image_size=size,
            seed=seed,
            read_label=source,
            resize_filter=config.resize_filter,
            flip_once=config.flip == "once",
        )
        columns = Columns(rank=ranks.rank(), world=world)
        loader = make_loader(
            dataset, columns, workers=config.loader_workers, pin_memory=device.type == "cuda"
        )
        progress = None
        if ranks.is_main():
            done = state["epoch"] * num_labelled + state["step"] * config.batch_size
            bar = Progress(config.epochs * num_labelled, unit="images", name="stage2", done=done)
            progress = stack.enter_context(bar)
            counts = f"{num_labelled} images, {len(index) - num_labelled} without a label left out"
            start = f"from epoch {state['epoch'] + 1}, step {state['step'] + 1}"
            progress.note(f"{world} rank(s) on {device.type}, {start}; {counts}")

        assert config.milestones is not None, "resolved when the settings were read"
        last = pause.last_epoch(config.epochs, until_epoch=config.until_epoch)
        for epoch in range(state["epoch"] + 1, last + 1):
            if turns.lacks_labels(config, state):
                break
            # One order of the labelled images for any number of ranks.
            plan = make_plan(
                index.shard_sizes,
                batch_size=config.batch_size,
                seed=seed,
                epoch=epoch,
                window=config.window,
                keep=keep_N,
            )
            columns.set(plan, epoch=epoch, start_step=state["step"])
            lr = learning_rate(epoch, lr=config.lr, milestones=config.milestones)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["scale"]
            network.train()
            set_batchnorm(model.encoder, config.batchnorm)

            # While lambda is 1 nothing is written; below it the epoch writes the next generation.
            lam, written = lam_by_epoch[epoch - 1], None
            if lam < 1:
                written = NextGeneration(
                    store,
                    number=generation_by_epoch[epoch],
                    step=state["step"],
                    part=state["part"],
                    keep_N=keep_N,
                    side=size,
                )
            meter, readings = Meter(), DeferredMetrics()
            window: list[Tensor] = []
            for step, cpu_batch in enumerate(batches(loader), start=state["step"] + 1):
                meter.data_arrived()
                rows_G = plan.batch(step - 1)
                num_valid = int((rows_G >= 0).sum())
                batch = cpu_batch.to(device)
                assert batch.label_B1SS is not None
                image_B3SS = flip_where(normalise(batch.image_B3SS), batch.flip_B)

                # Mean loss over the valid images of all ranks (DDP divides by their number), and
                # from the same forward pass the corrected labels (Eqn 12, 13).
                share_B = batch.valid_B * (world / num_valid)
                optimizer.zero_grad(set_to_none=True)
                outcomes = []
                for part in micro_batches(images_per_rank, device=device, batchnorm=batchnorm):
                    is_last = part.stop == images_per_rank
                    with nullcontext() if is_last else accelerator.no_sync(network):
                        outcome = loss_fn(
                            network(image_B3SS[part]),
                            batch.label_B1SS[part],
                            batch.flip_B[part],
                            lam=lam,
                            hard=config.binarise,
                        )
                        accelerator.backward((outcome.loss_M * share_B[part]).sum())
                    outcomes.append(outcome)

                # Nothing is updated, on any rank, when the loss of any image is not finite.
                measured_BF = torch.cat([outcome.measured_MF for outcome in outcomes])
                measured_BF = torch.where(batch.valid_B[:, None], measured_BF, 0)
                measured_GF = ranks.all_gather(measured_BF).flatten(0, 1)
                optimizer.step_if(measured_GF.isfinite().all())
                readings.add(step, measured_GF)
                if written is not None:
                    labels_B1SS = torch.cat([outcome.rectified_M1SS for outcome in outcomes])
                    bits_B1SS, wait = copy_to_host(to_u16_bits(labels_B1SS))
                    written.add(cpu_batch.row_B.tolist(), bits_B1SS, wait)

                meter.step_done(num_images=num_valid)
                at_end = step == plan.num_steps
                commits = at_end or bool(config.commit_every and step % config.commit_every == 0)
                if commits or step % config.log_every == 0:
                    with ranks.fail_together():
                        durable.check()
                    for at, measured_GF in readings.read():
                        rows_G, where = plan.batch(at - 1), f"epoch {epoch} step {at}"
                        measured_VF = measured_GF[torch.from_numpy(rows_G >= 0)].double()
                        window += [measured_VF] if run_dir else []
                        if not bool(measured_VF.isfinite().all()):
                            keys = index.keys_for(rows_G[rows_G >= 0])
                            finite_V = measured_VF.isfinite().all(1).tolist()
                            bad = [key for key, ok in zip(keys, finite_V, strict=True) if not ok]
                            stop_not_finite("stage2", config.out, where, bad=bad, batch=keys)
                if run_dir and progress and (at_end or step % config.log_every == 0):
                    fields = {"epoch": epoch, "step": step, **means(window, loss), **meter.report()}
                    fields |= {"lr": lr, "peak_memory_mib": peak_memory_mib()}
                    run_dir.log(**fields)
                    accelerator.log(fields, step=(epoch - 1) * plan.num_steps + step)
                    progress.fields.update(fields)
                    window.clear()
                if progress:
                    progress.update(num_valid)

                # Model, optimizer and labels become durable together, by one commit file, which
                # is written while the next steps run.
                if commits:
                    number += 1
                    read_next = epoch if at_end and written is not None else epoch - 1
                    state = {
                        "epoch": epoch if at_end else epoch - 1,
                        "step": 0 if at_end else step,
                        "finished": at_end and epoch == config.epochs,
                        "generation": generation_by_epoch[read_next],
                        "part": None,
                        "seed": seed,
                        "world_size": world,
                        "loss": means([measured_VF], loss)["loss"],
                    }
                    if written is not None and at_end:
                        written.publish()
                    elif written is not None:
                        state["part"] = written.commit_part(step)
                    with ranks.fail_together():
                        if ranks.is_main():
                            durable.begin(
                                config.out,
                                number,
                                model=model.state_dict(),
                                metadata={**model.spec(), **input_spec},
                                optimizer=pack_momentum(optimizer, parameters),
                                state=state,
                                cleaning=partial(cleaning, config.out),
                            )
                meter.wait_for_data()

        with ranks.fail_together():
            durable.wait()

        # The final labels leave as ordinary label shards, at the images' own size.
        paused = state["epoch"] < config.epochs or turns.lacks_labels(config, state)
        generation = generation_by_epoch[config.epochs]
        if not paused:
            rectified = config.out / "rectified"
            write_rectified(rectified, generation, source=source, index=index, keep_N=keep_N)
        elif run_dir:
            turns.pause(config, run_dir, state)
    if config.tracker != "none":
        accelerator.end_training()
    if ranks.is_main() and not paused:
        wrote = f"{config.out}/checkpoints/{number:05d} and {config.out}/rectified"
        print(f"stage2: wrote {wrote} (label generation {generation}). {_next(config)}")
    return 0


def _next(config: Stage2Config) -> str:
    return f"Next: a2s predict --model {config.out} IMAGES --out preds/{config.out.name}"
