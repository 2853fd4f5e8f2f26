"""Published weights of encoders: where they are, their checksums and licences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedWeights:
    """A published weight file: URL, checksum, licence and training data."""

    encoder: str
    url: str
    algorithm: str
    digest_prefix: str
    licence: str
    trained_on: str

    @property
    def file_name(self) -> str:
        """File name in the cache; it contains the digest."""
        return self.url.rsplit("/", 1)[1]


_TORCHVISION = "https://download.pytorch.org/models"
_BSD = "torchvision, BSD-3-Clause; trained on ImageNet, whose images have terms of their own"
REGISTRY = {
    "resnet50/moco_v2_800ep": PublishedWeights(
        encoder="resnet50",
        url="https://dl.fbaipublicfiles.com/moco/moco_checkpoints/"
        "moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        algorithm="md5",
        digest_prefix="a04e12f8",
        licence="unclear: facebookresearch/moco says CC-BY-NC 4.0 in its README and MIT in its "
        "LICENSE file; take it as non-commercial unless you have cleared it",
        trained_on="ImageNet images without labels",
    ),
    "resnet50/imagenet": PublishedWeights(
        encoder="resnet50",
        url=f"{_TORCHVISION}/resnet50-0676ba61.pth",
        algorithm="sha256",
        digest_prefix="0676ba61",
        licence=_BSD,
        trained_on="ImageNet labels",
    ),
    "efficientnet_lite2/imagenet": PublishedWeights(
        encoder="efficientnet_lite2",
        url="https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"
        "tf_efficientnet_lite2-dcccb7df.pth",
        algorithm="sha256",
        digest_prefix="dcccb7df",
        licence="timm, Apache-2.0; trained on ImageNet, whose images have terms of their own",
        trained_on="ImageNet labels",
    ),
    "mobilenet_v2/imagenet": PublishedWeights(
        encoder="mobilenet_v2",
        url=f"{_TORCHVISION}/mobilenet_v2-b0353104.pth",
        algorithm="sha256",
        digest_prefix="b0353104",
        licence=_BSD,
        trained_on="ImageNet labels",
    ),
}
