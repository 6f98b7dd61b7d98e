"""Sampling records of tuned models, read from beside their adapters; the last few are cached."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import structlog

from kastor.dataset.media.sampling_record import SAMPLING_FILE, SamplingRecord, versions
from kastor.domain.adapter_ref import AdapterRef

MAX_CACHED = 8  # the plans of a thousand videos take some 10 MB


class SamplingRecordCache:
    """Reads the record by the id of the job that tuned the model. Safe to use from several threads at once."""

    def __init__(self, adapter_folder: Callable[[AdapterRef], Path]) -> None:
        self._folder = adapter_folder
        self._cached = lru_cache(MAX_CACHED)(self._read)

    def get(self, job_id: str) -> SamplingRecord | None:
        """How media were sampled for the model; `None` if it was tuned on text alone, or before records were kept.

        Raises:
            DataLoss: a file of the tuned model is damaged; names it.
            FailedPrecondition: this version of Kastor would sample other frames for it.

        """
        return self._cached(job_id)

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
