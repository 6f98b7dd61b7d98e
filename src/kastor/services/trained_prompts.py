"""Which kinds of prompt tuned models were trained on, beyond text: read from their jobs' datasets, then cached."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from kastor.dataset.validation.prompt_kinds import PromptKinds, prompt_kinds
from kastor.domain.errors import InvalidArgument, NotFound
from kastor.domain.tuned_model import TunedModel
from kastor.store.blobs.job_files import reading_errors, unreadable
from kastor.store.models import ModelStore

MAX_CACHED = 10_000


class TrainedPromptKinds:
    """The prompt kinds of a model. Safe to use from several threads at once."""

    def __init__(self, models: ModelStore, dataset: Callable[[str], Path]) -> None:
        """`dataset` gives the path of a job's examples by the job's id."""
        self._models = models
        self._dataset = dataset
        self._cached = lru_cache(MAX_CACHED)(self._read)

    def get(self, model: TunedModel) -> PromptKinds:
        """The kinds that the model was tuned on, with those of the models below it that still exist.

        Raises:
            DataLoss: a dataset cannot be read, or is damaged.

        """
        found, source = self._of_job(model.job_id), model.source
        while source is not None:
            try:
                earlier = self._models.get(source)
            except NotFound:
                break
            found, source = found | self._of_job(earlier.job_id), earlier.source
        return found

    def _of_job(self, job_id: str) -> PromptKinds:
        try:
            return self._cached(job_id)
        except FileNotFoundError:  # not cached: the dataset may come back with a restored data folder
            return PromptKinds()
        except InvalidArgument as error:  # a fault of the dataset, not of the caller
            raise unreadable("dataset", job_id, "a line of it is no example") from error

    def _read(self, job_id: str) -> PromptKinds:
        with reading_errors("dataset", job_id):
            return prompt_kinds(self._dataset(job_id))  # takes a second for each GB of text
