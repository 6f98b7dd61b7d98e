"""How tuned models were shown media when they were tuned: read from beside their adapters, a few remembered."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import structlog

from kastor.dataset.media.sampling_record import SAMPLING_FILE, SamplingRecord, versions
from kastor.domain.adapter_ref import AdapterRef

MAX_REMEMBERED = 8  # the plans of a thousand videos are some ten MB


class SamplingRecordCache:
    """Tells by the id of the job that tuned a model; safe to use from several threads at once."""

    def __init__(self, adapter_folder: Callable[[AdapterRef], Path]) -> None:
        self._folder = adapter_folder
        self._lock = threading.Lock()
        self._lately: OrderedDict[str, SamplingRecord | None] = OrderedDict()

    def get(self, job_id: str) -> SamplingRecord | None:
        """How the model was shown media; `None` where it was tuned on text alone, or before this was written down.

        Raises:
            DataLoss: a file of the tuned model is damaged; names it.
            FailedPrecondition: another version of this program would show it other pictures.

        """
        with self._lock:
            if job_id not in self._lately:
                self._lately[job_id] = self._read(job_id)
                while len(self._lately) > MAX_REMEMBERED:
                    self._lately.popitem(last=False)
            self._lately.move_to_end(job_id)
            return self._lately[job_id]

    def _read(self, job_id: str) -> SamplingRecord | None:
        file = self._folder(AdapterRef(job_id)) / SAMPLING_FILE
        try:
            text = file.read_bytes()
        except FileNotFoundError:
            return None
        found = SamplingRecord.decoded(text, str(file))
        if found.made_with.get("av") != versions()["av"]:  # its pixels may differ in the last bit
            structlog.get_logger().warning(
                "decoder_changed", job_id=job_id, tuned_with=found.made_with.get("av"), now=versions()["av"]
            )
        return found
