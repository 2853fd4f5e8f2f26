"""What can be known about training before anything runs: are the weights there, and trained?

Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from a2s.config.training import Stage1Config, Stage2Config, Stage2Options, TrainOptions
from a2s.data.content import check_content
from a2s.data.index import Index
from a2s.data.origin import refuse_other_images
from a2s.errors import A2SError, ConfigError
from a2s.labels import review
from a2s.models.bundled import find_start
from a2s.parallel import ranks
from a2s.parallel.progress import say
from a2s.storage import checkpoints, run_folder

UNTRAINED = (
    "the encoder is UNTRAINED (no pretrained weights were given), so this shows that the "
    "machinery works, not what the method can do"
)
HOW_TO_TRAIN = "a file or a name such as resnet50/moco_v2_800ep"


def is_untrained(config: TrainOptions) -> bool:
    """Whether training starts from an encoder without pretrained weights."""
    starts_trained = isinstance(config, Stage2Options) and config.init is not None
    return config.encoder.weights == "none" and not starts_trained


def untrained_lines(config: TrainOptions) -> Iterator[str]:
    """Say that the encoder is untrained, if it is."""
    if is_untrained(config):
        yield f"{UNTRAINED}; give --encoder.weights {HOW_TO_TRAIN}"


def start_lines(config: Stage1Config | Stage2Config, *, num_images: int) -> Iterator[str]:
    """Say what is missing: pretrained weights, or images for a batch or for the heads to agree."""
    yield from untrained_lines(config)
    if num_images < config.batch_size:
        size = config.batch_size
        yield f"only {num_images} images, for batches of {size}: each step sees them all"
    if isinstance(config, Stage1Config) and config.heads and num_images < config.heads:
        yield (
            f"only {num_images} images for {config.heads} heads, whose agreement on so few tells "
            "little about them"
        )


def check_images(index: Index, *, command: str) -> None:
    """Say on rank 0 how many images are copies of others.

    Raises:
        DataError: there is nothing to learn from.
    """
    if ranks.is_main() and (num_copies := check_content(index, command=command)):
        say(f"{command}: {num_copies:,} of {len(index):,} images are copies of others")


def training_inputs(
    config: Stage1Config | Stage2Config, index: Index, labels: Index | None
) -> dict[str, str]:
    """What identifies the inputs: images, labels, decisions about them, and the first detector.

    Raises:
        CheckpointError: the detector cannot be read.
        ConfigError: the run began with other decisions.
        DataError: the decisions are damaged, or the labels were made of other images.
    """
    command = "stage1" if isinstance(config, Stage1Config) else "stage2"
    inputs = {"data": index.fingerprint}
    if labels is not None:
        refuse_other_images(labels, index, command=command)
        inputs["labels"] = labels.fingerprint
        if decisions := review.read_decisions(labels.folder, labels):
            inputs["review"] = review.fingerprint(decisions)
        began = run_folder.recorded(config.out, "inputs")
        if (
            isinstance(began, dict)
            and began.get("labels") == labels.fingerprint
            and began.get("review") != inputs.get("review")
        ):
            raise ConfigError(
                f"the decisions in {labels.folder / review.FILE_NAME} have changed since "
                f"{config.out} was begun; use another --out, or undo the changes in a2s review"
            )
    if isinstance(config, Stage2Config) and config.init is not None:
        start = find_start(config.init).identity()
        inputs["init"] = " ".join(start[key] for key in sorted(start) if key.endswith("_sha256"))
    return inputs


def check_encoders(configs: Iterable[Stage1Config | Stage2Config]) -> None:
    """Build every encoder that training will need, with its weights; finished runs need none.

    Raises:
        ConfigError: there is no such encoder, or it takes no images of this size.
        WeightsError: the weights are not available, are damaged, or do not fit the encoder.
    """
    from a2s.models.encoder_weights import load_encoder
    from a2s.models.encoders import build_encoder
    from a2s.training.setup import load_init

    seen = set()
    for config in configs:
        commit = checkpoints.last_commit(config.out)
        if isinstance(config, Stage2Config) and config.init is not None and commit is None:
            load_init(config.init, config).encoder.check_side(config.image_size)
            continue
        key = (config.encoder.name, config.encoder.weights, config.image_size)
        if key in seen or (commit is not None and commit.state["finished"]):
            continue
        seen.add(key)
        stage = "stage1" if isinstance(config, Stage1Config) else "stage2"
        try:
            untrained = is_untrained(config)
            encoder = build_encoder(key[0]) if untrained else load_encoder(key[0], key[1])
            encoder.check_side(config.image_size)
        except A2SError as error:
            raise type(error)(f"{stage}.encoder: {error}") from None
