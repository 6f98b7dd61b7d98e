"""A job's media as pictures: those that are kept, or fetched and decoded now."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

from kastor.domain.content import Media
from kastor.domain.errors import FailedPrecondition
from kastor.domain.job import TuningJob
from kastor.domain.media import MediumError
from kastor.domain.vision import MediumPlan, VisionSpec
from kastor.media import decode
from kastor.media.fetch import Fetcher
from kastor.media.frame_store import FrameStore, StoredFrames
from kastor.models.vision.encoder import Pixels
from kastor.models.vision.media_frames import load_frames, medium_frames_key
from kastor.settings import Settings
from kastor.worker.media_config import allowed_media_sources, frame_cache, media_cache, upload_resolver, url_guard


class FrameSource:
    """Where one job's pictures come from; what is kept of them stays for as long as `stack` is open."""

    def __init__(
        self,
        settings: Settings,
        job: TuningJob,
        vision: VisionSpec,
        stack: ExitStack,
        refused: Callable[[str], None],
        on_damage: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`refused` is told once if pictures cannot be kept, `on_damage` what was kept and is damaged."""
        self._settings = settings
        self._job = job
        self._vision = vision
        self._on_damage = on_damage
        cache = frame_cache(settings, on_damage)
        self._frames = FrameStore(cache, stack.enter_context(closing(cache.lease(job.id))), refused)

    def open(self, heed: Callable[[], None]) -> "FrameReader":
        """What gives them to one thread; `heed` is called before each, and may raise."""
        return FrameReader(self._settings, self._job, self._vision, self._frames, heed, self._on_damage)

    def has(self, key: str) -> bool:
        """Whether pictures are kept now; they may go."""
        return self._frames.has(key)

    def hold(self, key: str) -> StoredFrames | None:
        """Kept pictures, which stay; `None` if they are not here."""
        return self._frames.hold(key)

    def let_go(self, planned: MediumPlan) -> None:
        """Let the pictures of a medium be evicted, once for each time they were given out of the store."""
        self._frames.release(medium_frames_key(planned, self._vision))


class FrameReader:
    """Gives pictures of one job's media; for one thread at a time. Close it."""

    def __init__(
        self,
        settings: Settings,
        job: TuningJob,
        vision: VisionSpec,
        frames: FrameStore,
        heed: Callable[[], None],
        on_damage: Callable[[str], None],
    ) -> None:
        file = job.spec.file
        if file is None:
            raise FailedPrecondition("Only jobs on a dataset file can have media.")
        self._vision = vision
        self._frames = frames
        self._heed = heed
        self._stack = ExitStack()
        cache = media_cache(settings, on_damage)
        lease = self._stack.enter_context(closing(cache.lease(job.id)))
        self._pictures = self._stack.enter_context(closing(decode.PictureDecoder()))
        allowed, guard = allowed_media_sources(settings, file), url_guard(settings)
        self._fetcher = Fetcher(cache, lease, allowed, guard=guard, uploads=upload_resolver(settings, job))

    def close(self) -> None:
        """End what decodes."""
        self._stack.close()

    def pictures(self, media: Media, planned: MediumPlan) -> Sequence[Pixels]:
        """The planned pictures, scaled for the tower; held in the store unless they are a list.

        Raises:
            MediumError: it cannot be had, or is damaged.
            ResourceExhausted: there is no room to fetch it.

        """
        kept = self._frames.hold(medium_frames_key(planned, self._vision))
        if kept is not None:
            return kept
        fetched = self._fetcher.fetch_bytes(media.data) if media.data else self._fetcher.fetch(media.uri)
        try:
            if fetched.sha256 != planned.sha256:
                raise MediumError.of("media_changed", f"{media.name} is another file now than when it was checked.")
            return load_frames(self._frames, fetched.path, planned, self._vision, self._pictures, self._heed)
        finally:
            self._fetcher.release(fetched)
