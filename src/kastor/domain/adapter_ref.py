"""Which adapter a request is for: the published one of a tuning job, or that of one of its checkpoints."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """The adapter that a job trained. Job ids are never reused, so a reference never changes its meaning.

    >>> str(AdapterRef("job1")), str(AdapterRef("job1", 19))
    ('job1', 'job1/step-000019')
    """

    job_id: str
    step: int | None = None  # of a checkpoint; None: the adapter that was published

    def __str__(self) -> str:
        return self.job_id if self.step is None else f"{self.job_id}/step-{self.step:06d}"
