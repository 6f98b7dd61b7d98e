"""Checkpoints are whole or not there, plain PEFT directories, and refuse to resume from damage."""

import errno
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from kastor.domain.errors import DataLoss, FailedPrecondition
from kastor.domain.job import AdapterShape
from kastor.models.chat.families import LLAMA_LINEARS
from kastor.runtime import atomic
from kastor.store.blobs import checkpoint_folder as folder_module
from kastor.store.blobs.manifests import STATE_FILE
from kastor.training.checkpoints import Checkpoint, CheckpointWriter, restore
from kastor.training.lora import add_lora
from support.tiny_models import tiny_model

SHAPE = AdapterShape(rank=4, alpha=8.0, targets=LLAMA_LINEARS)
STATE = {"step": torch.tensor(3)}


@pytest.fixture(name="model")
def a_model() -> Any:
    return add_lora(tiny_model(), SHAPE, seed=1)


def save(root: Path, model: Any, step: int, *, ends_epoch: bool = True) -> Checkpoint:
    return CheckpointWriter(root).save(model, STATE, step=step, ends_epoch=ends_epoch, about={"job": "abc"})


def test_peft_opens_a_checkpoint_as_it_lies_there(tmp_path: Path, model: Any) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    ids = torch.arange(3, 20)[None]
    expected = model(ids).logits
    with warnings.catch_warnings():  # peft 0.21 reads an attribute that transformers 5.23 deprecates
        warnings.simplefilter("ignore", FutureWarning)
        opened = PeftModel.from_pretrained(tiny_model(), str(save(tmp_path, model, 3).folder))
    torch.testing.assert_close(opened(ids).logits, expected)


def test_the_manifest_names_every_file_and_no_path_of_this_machine(tmp_path: Path, model: Any) -> None:
    checkpoint = save(tmp_path, model, 3)
    manifest = checkpoint.manifest
    assert manifest["step"] == 3
    assert manifest["job"] == "abc"
    assert {*manifest["files"], "manifest.json"} == {file.name for file in checkpoint.folder.iterdir()}
    for file in checkpoint.folder.glob("*.json"):
        assert str(tmp_path) not in file.read_text()


def test_ends_of_epochs_are_kept_and_only_the_two_newest_can_be_resumed_from(tmp_path: Path, model: Any) -> None:
    for step, ends in ((2, True), (3, False), (4, True), (5, False)):
        save(tmp_path, model, step, ends_epoch=ends)
    kept = CheckpointWriter(tmp_path).all()
    assert [(c.step, c.is_resumable) for c in kept] == [(2, False), (4, True), (5, True)]
    latest = CheckpointWriter(tmp_path).latest()
    assert latest is not None
    assert latest.step == 5


def test_a_full_disk_leaves_the_checkpoint_before_it_and_nothing_half_written(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, model, 2)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, model, 3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-000002"]
    latest = CheckpointWriter(tmp_path).latest()
    assert latest is not None
    assert latest.step == 2


def test_what_a_killed_writer_left_is_neither_seen_nor_in_the_way(tmp_path: Path, model: Any) -> None:
    left = tmp_path / ".step-000003.partial"
    left.mkdir(parents=True)
    (left / "adapter_model.safetensors").write_bytes(b"half")
    assert CheckpointWriter(tmp_path).latest() is None
    assert save(tmp_path, model, 4).manifest["step"] == 4
    assert not left.exists()


@pytest.mark.parametrize("left", [(), ("adapter_model.safetensors",), (STATE_FILE, "adapter_config.json")])
def test_a_removal_that_was_cut_short_is_neither_seen_nor_in_the_way_of_the_next_save(
    tmp_path: Path, model: Any, left: tuple[str, ...]
) -> None:
    save(tmp_path, model, 2, ends_epoch=False)
    for file in (tmp_path / "step-000002").iterdir():  # as releases up to 0.1 removed, in any order
        if file.name not in left:
            file.unlink()
    assert CheckpointWriter(tmp_path).all() == []
    for step in (3, 4, 5):
        save(tmp_path, model, step, ends_epoch=False)
    assert [c.step for c in CheckpointWriter(tmp_path).all()] == [4, 5]


def test_a_checkpoint_goes_by_a_rename_so_that_a_kill_leaves_no_half_of_it(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, 3):
        save(tmp_path, model, step, ends_epoch=False)
    monkeypatch.setattr(folder_module.shutil, "rmtree", lambda *_, **__: None)  # killed before the first file went
    save(tmp_path, model, 4, ends_epoch=False)
    monkeypatch.undo()
    assert (tmp_path / ".step-000002.removed").is_dir()
    assert [c.step for c in CheckpointWriter(tmp_path).all()] == [3, 4]
    save(tmp_path, model, 5, ends_epoch=False)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-000004", "step-000005"]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", STATE_FILE, "manifest.json", "adapter_config.json"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, model: Any, name: str, harm: str
) -> None:
    for step in (2, 3):
        save(tmp_path, model, step, ends_epoch=False)
    harmed(tmp_path / "step-000003" / name, harm)
    damaged: list[int] = []
    found = CheckpointWriter(tmp_path).latest_intact(lambda checkpoint: damaged.append(checkpoint.step))
    assert found is not None and found.step == 2
    assert damaged == ([] if (name, harm) == ("manifest.json", "gone") else [3])
    again = save(tmp_path, model, 3)  # trained once more: what is damaged is replaced
    assert again.is_intact


def harmed(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
        return
    if how == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def test_where_every_checkpoint_is_damaged_there_is_none_to_resume_from(tmp_path: Path, model: Any) -> None:
    for step in (2, 3):
        harmed(save(tmp_path, model, step).folder / STATE_FILE, "flipped")
    damaged: list[int] = []
    assert CheckpointWriter(tmp_path).latest_intact(lambda checkpoint: damaged.append(checkpoint.step)) is None
    assert damaged == [3, 2]


def test_the_end_of_an_epoch_stays_one_when_its_step_is_saved_again_by_an_interrupt(tmp_path: Path, model: Any) -> None:
    save(tmp_path, model, 2, ends_epoch=True)
    again = save(tmp_path, model, 2, ends_epoch=False)
    assert again.manifest["endsEpoch"] is True
    for step in (3, 4):
        save(tmp_path, model, step, ends_epoch=False)
    assert [c.step for c in CheckpointWriter(tmp_path).all()] == [2, 3, 4]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", STATE_FILE])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, model: Any, name: str) -> None:
    checkpoint = save(tmp_path, model, 3)
    file = checkpoint.folder / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataLoss, match=f"{name} is damaged"):
        restore(checkpoint, model)


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path, model: Any) -> None:
    checkpoint = save(tmp_path, model, 3)
    fewer = add_lora(tiny_model(), AdapterShape(4, 8.0, ("q_proj",)), seed=1)
    with pytest.raises(FailedPrecondition, match=rf"^The adapter in {tmp_path.name}/step-\d+ does not fit this model"):
        restore(checkpoint, fewer)


def test_publishing_copies_the_adapter_without_the_training_state(tmp_path: Path, model: Any) -> None:
    checkpoint = save(tmp_path / "checkpoints", model, 3)
    target = tmp_path / "adapter"
    CheckpointWriter(tmp_path / "checkpoints").publish(checkpoint, target, lambda _: "{}")
    assert {file.name for file in target.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "certificate.json",
        "manifest.json",
    }
    assert Checkpoint(target, 3).manifest["job"] == "abc"
    # again, after a crash before the job's end
    CheckpointWriter(tmp_path / "checkpoints").publish(checkpoint, target, lambda _: "{}")


def test_what_cannot_be_proved_is_not_published(tmp_path: Path, model: Any) -> None:
    checkpoint = save(tmp_path / "checkpoints", model, 3)
    seen = []

    def prove(folder: Path) -> str:
        seen.extend(sorted(file.name for file in folder.iterdir()))
        raise FailedPrecondition("It is not so.")

    with pytest.raises(FailedPrecondition, match="It is not so"):
        CheckpointWriter(tmp_path / "checkpoints").publish(checkpoint, tmp_path / "adapter", prove)
    assert seen == ["adapter_config.json", "adapter_model.safetensors"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoints"]


def test_a_damaged_checkpoint_is_not_published(tmp_path: Path, model: Any) -> None:
    checkpoint = save(tmp_path / "checkpoints", model, 3)
    (checkpoint.folder / "adapter_config.json").write_text("{}")
    with pytest.raises(DataLoss, match=r"adapter_config.json is damaged"):
        CheckpointWriter(tmp_path / "checkpoints").publish(checkpoint, tmp_path / "adapter", lambda _: "{}")
    assert not (tmp_path / "adapter").exists()
