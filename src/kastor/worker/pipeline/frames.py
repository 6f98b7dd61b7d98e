"""A job's media as pictures: those that are kept, or fetched and decoded now."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

from kastor.domain.content import Media
from kastor.domain.media import MediumError
from kastor.domain.vision import MediumPlan, VisionSpec
from kastor.media import decode
from kastor.media.fetch import Fetcher
from kastor.media.frame_store import FrameStore, StoredFrames
from kastor.models.vision.encoder import Pixels
from kastor.models.vision.media_frames import load_frames, medium_frames_key
from kastor.worker.pipeline.inputs import MediaAccess


class FrameSource:
    """Where one job's pictures come from; what is kept of them stays for as long as `stack` is open."""

    def __init__(
        self,
        access: MediaAccess,
        job_id: str,
        vision: VisionSpec,
        stack: ExitStack,
        on_refusal: Callable[[str], None],
    ) -> None:
        """`on_refusal` is called once, with the reason, if pictures cannot be kept."""
        self._access = access
        self._job_id = job_id
        self._vision = vision
        cache = access.open_frame_cache()
        self._frames = FrameStore(cache, stack.enter_context(closing(cache.lease(job_id))), on_refusal)

    def open(self, heed: Callable[[], None]) -> "FrameReader":
        """What gives them to one thread; `heed` is called before each, and may raise."""
        return FrameReader(self._access, self._job_id, self._vision, self._frames, heed)

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
        access: MediaAccess,
        job_id: str,
        vision: VisionSpec,
        frames: FrameStore,
        heed: Callable[[], None],
    ) -> None:
        self._vision = vision
        self._frames = frames
        self._heed = heed
        self._stack = ExitStack()
        cache = access.open_media_cache()
        lease = self._stack.enter_context(closing(cache.lease(job_id)))
        self._pictures = self._stack.enter_context(closing(decode.PictureDecoder()))
        self._fetcher = Fetcher(cache, lease, access.sources, guard=access.guard, uploads=access.uploads)

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
