"""The projector: standardised in, of the embeddings' size out, aligned with answers, kept to the bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kastor.domain.errors import FailedPrecondition
from kastor.models.vision.projector import PROJECTOR_FILE, ChannelStats, Projector

RANDOM = np.random.default_rng(0)
FEATURES = [(RANDOM.standard_normal((64, 12)) * np.arange(1, 13) + 5).astype(np.float16) for _ in range(4)]


def fresh(seed: int = 1) -> Projector:
    return Projector.fresh(ChannelStats.of(FEATURES), 64, scale=0.1, seed=seed)


def aligned() -> Projector:
    projector = fresh()
    projector.align(RANDOM.standard_normal((12, 64)), RANDOM.standard_normal(64))
    return projector


def test_the_spread_is_that_of_all_features_together() -> None:
    spread, whole = ChannelStats.of(FEATURES), np.concatenate(FEATURES).astype(np.float64)
    np.testing.assert_allclose(spread.mean_C, whole.mean(axis=0))
    np.testing.assert_allclose(spread.deviation_C, whole.std(axis=0))


def test_a_fresh_one_gives_numbers_of_the_embeddings_size_whatever_the_channels_are_like() -> None:
    projector = Projector.fresh(ChannelStats.of(FEATURES), 512, scale=0.1, seed=1)
    out = projector(torch.from_numpy(np.concatenate(FEATURES)), [64] * 4)
    assert out.shape == (256, 512)
    assert out.dtype == torch.float32
    assert 0.07 < out.std() < 0.125  # of pictures less alike than these, more
    assert out.std(dim=0).min() > 0.02  # pictures are told apart


def test_a_channel_that_never_changes_does_no_harm() -> None:
    flat = [np.ones((64, 12), np.float16)]
    projector = Projector.fresh(ChannelStats.of(flat), 64, scale=0.1, seed=1)
    assert projector(torch.ones(3, 12) + 1e-3, [3]).abs().max() < 5


def test_the_seed_decides_and_no_random_state_is_touched() -> None:
    before = torch.get_rng_state()
    one, same, other = fresh(), fresh(), fresh(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.inner.weight, same.inner.weight)
    assert not torch.equal(one.inner.weight, other.inner.weight)


@pytest.mark.parametrize("made", [fresh, aligned])
def test_saved_and_loaded_it_is_the_same_to_the_bit(made: Callable[[], Projector], tmp_path: Path) -> None:
    projector = made()
    projector.save(tmp_path)
    loaded = Projector.load(tmp_path)
    assert loaded is not None
    features = torch.from_numpy(FEATURES[0])
    assert torch.equal(loaded(features, [64]), projector(features, [64]))
    assert loaded.state_dict().keys() == projector.state_dict().keys()


def test_a_fresh_token_knows_its_own_place_alone() -> None:
    projector, first = fresh(), torch.from_numpy(FEATURES[0])
    changed = first.clone()
    changed[5:] += 3
    torch.testing.assert_close(projector(changed, [64])[:5], projector(first, [64])[:5])


def test_aligned_to_each_token_is_added_what_its_own_picture_tells_and_no_other() -> None:
    projector, plain = aligned(), fresh()
    first, other = (torch.from_numpy(features) for features in FEATURES[:2])
    together = projector(torch.cat([other[:16], first]), [16, 64]) - plain(torch.cat([other[:16], first]), [16, 64])
    for part, picture in ((together[:16], other[:16]), (together[16:], first)):
        told = picture.float().mean(dim=0) @ projector.aligned_CW + projector.aligned_W
        torch.testing.assert_close(part, told.expand_as(part), rtol=1e-3, atol=1e-3)


def test_what_it_is_aligned_with_is_not_trained() -> None:
    assert {name for name, _ in aligned().named_parameters()} == {
        f"{layer}.{kind}" for layer in ("inner", "outer") for kind in ("weight", "bias")
    }


def test_one_of_before_projectors_were_aligned_is_read_as_it_was_trained(tmp_path: Path) -> None:
    projector = fresh()
    old = {name: tensor for name, tensor in projector.state_dict().items() if not name.startswith("aligned")}
    save_file(old, tmp_path / PROJECTOR_FILE)
    loaded = Projector.load(tmp_path)
    assert loaded is not None
    features = torch.from_numpy(FEATURES[0])
    assert torch.equal(loaded(features, [64]), projector(features, [64]))


def test_an_adapter_trained_on_text_has_none(tmp_path: Path) -> None:
    assert Projector.load(tmp_path) is None


def test_a_damaged_one_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / PROJECTOR_FILE).write_bytes(b"x" * 100)
    with pytest.raises(FailedPrecondition, match=PROJECTOR_FILE):
        Projector.load(tmp_path)
    projector = fresh()
    with torch.no_grad():
        projector.outer.bias[0] = float("nan")
    projector.save(tmp_path)
    with pytest.raises(FailedPrecondition, match="not finite"):
        Projector.load(tmp_path)
