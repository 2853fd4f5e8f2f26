"""Votes of heads: mean maps, agreement of pairs, majorities."""

from __future__ import annotations

import pytest
import torch

from a2s.models.activation_net import ActivationNet
from a2s.models.build import build_from_spec
from a2s.models.encoders import build_encoder, calibrate_batchnorm
from a2s.models.vote import agreement, majority, mean_vote, probabilities


def test_the_vote_averages_probabilities_over_kinds_not_log_odds() -> None:
    a, b, c = (torch.tensor([[[[p, 0.2]]]]) for p in (0.9, 0.5, 0.1))
    torch.testing.assert_close(mean_vote([[a, b, c]]).sigmoid(), torch.tensor([[[[0.5, 0.2]]]]))
    # Two of one kind count as much as one of the other.
    found = mean_vote([[a], [b, c]]).sigmoid()
    torch.testing.assert_close(found, torch.tensor([[[[0.6, 0.2]]]]))
    assert torch.equal(mean_vote([[], [a]]), mean_vote([[a]]))


def test_heads_whose_sign_is_not_known_are_aligned_before_they_vote() -> None:
    """Both maps mean the small side; one of them has it negative."""
    theta = torch.tensor([3.0, -1, -1, -1]).view(1, 1, 2, 2)
    for one in (theta, -theta):
        torch.testing.assert_close(probabilities(one, sign_tie=1), theta.sigmoid())
    torch.testing.assert_close(probabilities(-theta, sign_tie=None), (-theta).sigmoid())


def test_a_certain_vote_is_finite() -> None:
    certain = torch.tensor([[[[1.0, 0.0]]]])
    assert mean_vote([[certain]]).isfinite().all()


def test_agreement_is_the_iou_of_every_pair_summed_over_valid_images() -> None:
    a = torch.tensor([[[1.0, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 1, 1, 1]]])
    b = torch.tensor([[[1.0, 0, 1, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]])
    valid = torch.tensor([True, True, False])
    found_2KK = agreement(torch.stack([a, b]), valid)
    # Above 1.5 times the image's mean: one of three pixels shared; both empty, which does not
    # count; the last image is padding.
    sums, counts = [[1, 1 / 3], [1 / 3, 1]], [[1.0, 1], [1, 1]]
    torch.testing.assert_close(found_2KK, torch.tensor([sums, counts], dtype=torch.float64))


@pytest.mark.parametrize(
    ("pairs", "kept"),
    [
        ({(0, 1): 0.9, (0, 2): 0.8, (1, 2): 0.7}, (0, 1, 2)),
        ({(0, 1): 0.9, (0, 2): 0.1, (1, 2): 0.2}, (0, 1)),
        ({(0, 1): 0.1, (0, 2): 0.6, (1, 2): 0.7}, (1, 2)),
        ({(0, 1): 0.1, (0, 2): 0.2, (1, 2): 0.4}, ()),
    ],
)
def test_a_majority_keeps_the_heads_that_all_agree(
    pairs: dict[tuple[int, int], float], kept: tuple[int, ...]
) -> None:
    agreement_KK = torch.eye(3)
    for (a, b), iou in pairs.items():
        agreement_KK[a, b] = agreement_KK[b, a] = iou
    assert majority(agreement_KK, at_least=0.5) == kept


def test_half_of_the_heads_is_no_majority() -> None:
    agreement_KK = torch.eye(4)
    agreement_KK[0, 1] = agreement_KK[1, 0] = agreement_KK[2, 3] = agreement_KK[3, 2] = 0.9
    assert majority(agreement_KK, at_least=0.5) == ()
    assert majority(torch.eye(1), at_least=0.5) == (0,)
    # But for those that learned from labels, which know what an object is.
    assert majority(agreement_KK, at_least=0.5, anchored=range(2, 4)) == (2, 3)
    assert majority(agreement_KK, at_least=0.5, anchored=range(1, 4)) == ()
    assert majority(agreement_KK, at_least=0.95, anchored=range(2, 4)) == ()
    agreement_KK[:2, 2] = agreement_KK[2, :2] = 0.6
    assert majority(agreement_KK, at_least=0.5, anchored=range(2, 4)) == (0, 1, 2)


@pytest.fixture(scope="module")
def voters() -> ActivationNet:
    torch.manual_seed(0)
    encoder = build_encoder("mobilenet_v2")
    calibrate_batchnorm(encoder)
    net = ActivationNet(encoder, fusion_stride=8, heads=3, label_heads=2, frame=32)
    net.eval()
    for head in net.heads[1:]:
        torch.nn.init.normal_(head.origin_K)
    return net


@pytest.mark.parametrize("kept", [[0, 1, 2], [0, 2], [1, 2]])
def test_the_kept_heads_vote_over_both_flips_and_kinds(
    voters: ActivationNet, kept: list[int]
) -> None:
    image = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        voters.kept = kept
        found = voters.saliency(image)
        kinds: list[list[torch.Tensor]] = [[], []]
        for number in kept:
            # The first head sees no frame, those with labels do.
            view = ActivationNet(voters.encoder, fusion_stride=8, boundary_frame=32 * (number > 0))
            for flipped in (False, True):
                taps = view.eval().encode(image.flip(-1) if flipped else image)
                theta = voters.heads[number](*taps, size=(96, 128)).theta
                # The first head learned without labels: its smaller side is foreground.
                p = probabilities(theta, sign_tie=None if number else 1)
                kinds[number > 0].append(p.flip(-1) if flipped else p)
    assert not torch.allclose(kinds[1][0], kinds[1][-1])
    mean = torch.stack([torch.stack(kind).mean(0) for kind in kinds if kind]).mean(0)
    torch.testing.assert_close(found.sigmoid(), mean, atol=1e-5, rtol=1e-5)


def test_a_file_says_which_heads_vote(voters: ActivationNet) -> None:
    again = build_from_spec({**voters.spec(), "kept_heads": "0,2"})
    assert isinstance(again, ActivationNet)
    assert list(again.kept) == [0, 2]
    assert (again.frames, again.heads.view_of_head) == ((0, 32), [0, 1, 1])


def test_one_frame_is_one_view(voters: ActivationNet) -> None:
    """As in files of version 0.2 and before, which name one frame."""
    old = {key: text for key, text in voters.spec().items() if key != "boundary_frame"}
    again = build_from_spec(old)
    assert isinstance(again, ActivationNet)
    assert (again.boundary_frame, again.frames, again.heads.view_of_head) == (32, (32,), [0, 0, 0])
    again.load_state_dict(voters.state_dict())
    image = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        both, one = voters.encode(image), again.eval().encode(image)
        for tap, part in zip(both, one, strict=True):
            assert torch.equal(tap.chunk(2, dim=1)[1], part)
        ours, theirs = (net.heads(*taps, size=(96, 64)) for net, taps in
                        ((voters, both), (again, one)))  # fmt: skip
    for number in (1, 2):
        torch.testing.assert_close(ours[number].theta, theirs[number].theta)
    assert not torch.allclose(ours[0].theta, theirs[0].theta)


@pytest.mark.parametrize("size", [(96, 128), (65, 33), (40, 32), (20, 200)])
def test_a_frame_changes_features_but_not_their_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("mobilenet_v2")
    calibrate_batchnorm(encoder)
    framed = ActivationNet(encoder, fusion_stride=8, boundary_frame=64).eval()
    bare = ActivationNet(encoder, fusion_stride=8).eval()
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        for ours, theirs in zip(framed.encode(image), bare.encode(image), strict=True):
            assert ours.shape == theirs.shape
            same = torch.allclose(ours, theirs)
            # A reflection needs more pixels than it is wide.
            assert same == (min(size) <= 32)


def test_a_frame_hides_where_the_image_ends(voters: ActivationNet) -> None:
    """In a grey image only the encoder's padding makes a cell differ from the one in the middle."""

    def spread(net: ActivationNet) -> list[float]:
        with torch.no_grad():
            taps = net.encode(torch.ones(1, 3, 128, 128))
        return [float(tap.std((2, 3)).mean() / tap.abs().mean()) for tap in taps]

    bare = ActivationNet(voters.encoder, fusion_stride=8).eval()
    wide = ActivationNet(voters.encoder, fusion_stride=8, boundary_frame=96).eval()
    for without, framed in zip(spread(bare), spread(wide), strict=True):
        assert framed < 0.5 * without
