"""Between training and success: nothing is published that is not served as it was trained, whatever happens then."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kastor.domain.errors import ResourceExhausted
from kastor.domain.job import State, TuningJob
from kastor.models.chat.families import SMOLLM2
from kastor.models.chat.render import Renderer
from kastor.training.loss import use_packed_attention
from kastor.worker.certify import certify_adapter
from kastor.worker.outcome import run_job
from kastor.worker.run import JobRunner
from kastor.worker.sql_lease import SqlJobLease
from support.tiny_models import tiny_base
from support.training_examples import examples, tuned_model
from support.worker_environment import Place, adapter


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.database.close()


class Meddled(SqlJobLease):
    """Lets something happen the first time that the certificate looks for requests."""

    happening: Callable[[], object] | None = None

    def raise_if_cancelled(self) -> None:
        happening, self.happening = self.happening, None
        if happening is not None:
            happening()
        super().raise_if_cancelled()


def work_while(place: Place, job: TuningJob, happening: Callable[[], object]) -> int:
    ownership = Meddled(place.jobs, job, beat_every_s=1)
    ownership.happening = happening
    return run_job(
        JobRunner(place.settings, job, place.blobs.workspace(job.id), ownership).run, ownership, place.settings.data_dir
    )


def unfinished(place: Place) -> Path:
    """Where the adapter lies while it is certified."""
    return place.blobs.job_dir("job1") / ".adapter.partial"


def certificate(place: Place, job_id: str = "job1") -> dict[str, Any]:
    return dict(json.loads(place.blobs.certificate(job_id).read_text()))


def test_a_success_has_a_certificate_beside_its_adapter(place: Place) -> None:
    place.add()
    assert place.work(place.claim()) == 0
    proof = certificate(place)
    assert (proof["verdict"], proof["baseModel"], proof["numTensors"]) == ("passed", "tiny", 28)
    assert len({row["example"] for row in proof["rows"]}) == 8
    assert proof["effect"] > 0.1 > proof["largestDifference"]
    manifest = json.loads((place.blobs.adapter("job1") / "manifest.json").read_text())
    assert "certificate.json" in manifest["files"]
    assert any("served as trained" in event.message for event in place.jobs.events("job1"))


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("adapter_model.safetensors", "other numbers", "differ from the trained ones"),
        ("adapter_model.safetensors", "cut short", "cannot be read"),
        ("adapter_config.json", "other scale", "differ from the trained ones"),
    ],
)
def test_an_adapter_that_changes_on_disk_fails_the_job_and_is_not_published(
    place: Place, name: str, harm: str, said: str
) -> None:
    def happen() -> None:
        file = unfinished(place) / name
        if harm == "cut short":
            file.write_bytes(file.read_bytes()[:-4])
        elif harm == "other scale":
            file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 16.0}))
        else:
            tensors = load_file(file)
            next(iter(tensors.values()))[0, 0] += 1
            save_file(tensors, file)

    place.add()
    assert work_while(place, place.claim(), happen) == 0
    job = place.jobs.get("job1")
    assert job.state is State.FAILED
    assert job.error is not None and said in job.error.message and "\n" not in job.error.message
    assert not place.blobs.adapter("job1").exists() and not unfinished(place).exists()


def test_a_job_that_learnt_exactly_nothing_succeeds_and_says_so(place: Place) -> None:
    place.add(learning_rate=1e-60, num_epochs=1)  # too small for the adapter's numbers
    assert place.work(place.claim()) == 0
    assert place.jobs.get("job1").state is State.SUCCEEDED
    assert certificate(place)["effect"] == 0
    assert any("nothing was learnt" in event.message for event in place.jobs.events("job1"))


def test_a_job_that_learnt_next_to_nothing_succeeds(place: Place) -> None:
    place.add(learning_rate=1e-12, num_epochs=1)
    assert place.work(place.claim()) == 0
    assert place.jobs.get("job1").state is State.SUCCEEDED


def test_a_job_that_is_cancelled_while_it_is_certified_ends_cancelled(place: Place) -> None:
    place.add()
    assert work_while(place, place.claim(), lambda: place.jobs.request_cancel("job1", at=datetime.now(UTC))) == 0
    job = place.jobs.get("job1")
    assert job.state is State.CANCELLED
    assert job.completed_steps == job.spec.total_steps
    assert not place.blobs.adapter("job1").exists()


def test_a_worker_that_died_in_the_certificate_makes_it_again(place: Place) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    place.add("through")
    assert place.work(place.claim()) == 0
    place.add("job1")
    with pytest.raises(Killed):
        work_while(place, place.claim(), die)
    unfinished(place).mkdir()  # as SIGKILL leaves it
    (unfinished(place) / "adapter_config.json").write_text("{")
    place.jobs.move(place.jobs.get("job1"), State.QUEUED, at=datetime.now(UTC))
    assert place.work(place.claim()) == 0
    assert place.jobs.get("job1").state is State.SUCCEEDED
    assert certificate(place) == certificate(place, "through")
    one, other = adapter(place, "through"), adapter(place, "job1")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_full_memory_is_said_with_the_length_of_the_examples(tmp_path: Path) -> None:
    renderer = Renderer.open(tiny_base(tmp_path / "base"), SMOLLM2)
    model = tuned_model()
    use_packed_attention(model)

    def refuse(_: object, __: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model.get_decoder().register_forward_pre_hook(refuse)
    with pytest.raises(ResourceExhausted, match="trained, on examples of up to 20 tokens: close other programs"):
        certify_adapter(
            model, examples((7, 20)), None, renderer, tmp_path, base_model="tiny", seed=1, check_cancelled=lambda: None
        )
