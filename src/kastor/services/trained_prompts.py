"""What tuned models were tuned on, beyond text: read from the datasets of their jobs, and remembered."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from kastor.dataset.validation.prompt_kinds import PromptKinds, prompt_kinds
from kastor.domain.errors import InvalidArgument, NotFound
from kastor.domain.tuned_model import TUNED, TunedModel
from kastor.store.blobs.job_files import reading_errors, unreadable
from kastor.store.models import ModelStore

MAX_REMEMBERED = 10_000


class TrainedPromptKinds:
    """Tells by the model; safe to use from several threads at once."""

    def __init__(self, models: ModelStore, dataset: Callable[[str], Path]) -> None:
        """`dataset` is where a job keeps its examples, by the job's id."""
        self._models = models
        self._dataset = dataset
        self._lock = threading.Lock()
        self._known: OrderedDict[str, PromptKinds] = OrderedDict()

    def get(self, model: TunedModel) -> PromptKinds:
        """What the model was tuned on, and those that it was tuned on top of, as far as they are still there.

        Raises:
            DataLoss: a dataset cannot be read, or is damaged.

        """
        found, source = self._of_job(model.job_id), model.source
        while source is not None:
            try:
                earlier = self._models.get(source.removeprefix(TUNED))
            except NotFound:
                break
            found, source = found | self._of_job(earlier.job_id), earlier.source
        return found

    def _of_job(self, job_id: str) -> PromptKinds:
        with self._lock:
            known = self._known.get(job_id)
        if known is None:
            try:
                with reading_errors("dataset", job_id):
                    known = prompt_kinds(self._dataset(job_id))  # a second for each GB of text, once
            except FileNotFoundError:
                return PromptKinds()
            except InvalidArgument as error:  # of the dataset, not of who asks
                raise unreadable("dataset", job_id, "a line of it is no example") from error
            with self._lock:
                self._known[job_id] = known
                while len(self._known) > MAX_REMEMBERED:
                    self._known.popitem(last=False)
        return known
