"""How much a medium may ask of this machine before it is refused. What a *service* allows is in `domain.limits`."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Bounds that no honest file meets. Sizes in pixels, processor and wall time in seconds."""

    max_video_pixels: int = 4096 * 2304
    max_image_pixels: int = 50_000_000
    max_side: int = 32_768
    max_packets: int = 400_000
    max_duration_s: float = 12 * 3600.0
    max_moments: int = 50_000  # 20 minutes at 24 a second are 28,800
    max_pages: int = 1_000
    address_space_bytes: int = 1536 * MIB  # 1080p was seen to decode in 350 MB
    max_decoders: int | None = None  # at work at a time; by the machine's memory if absent
    slots_folder: str | None = None  # where they are counted; one for the user if absent
    slot_wait_s: float = 600.0  # for another to end
    probe_cpu_s: int = 10  # a file; headers take milliseconds, the packet table of 360 MB half a second
    probe_wall_s: float = 40.0
    decode_cpu_s: int = 20  # at least
    decode_cpu_per_s: float = 1.2  # for a second of 1080p, 4 times what H.264 takes
    decode_stall_s: float = 60.0  # of waiting for frames in all, beside the processor time allowed

    def decode_cpu(self, duration_s: float, num_pixels: int) -> int:
        """Processor seconds that decoding may take.

        >>> DecodeLimits().decode_cpu(10, 1920 * 1080), DecodeLimits().decode_cpu(300, 1920 * 1080)
        (20, 360)
        """
        return max(self.decode_cpu_s, round(self.decode_cpu_per_s * duration_s * max(0.25, num_pixels / (1920 * 1080))))
