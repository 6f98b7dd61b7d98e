"""Addresses that people give for a medium's and that lead to no file."""

from urllib.parse import urlsplit

from kastor.domain.excerpt import excerpt
from kastor.domain.media import MediumError

PAGES = {
    "YouTube": ("youtube.com", "youtu.be", "youtube-nocookie.com", "music.youtube.com"),
    "Vimeo": ("vimeo.com",),
    "Google Drive": ("drive.google.com", "docs.google.com"),
    "Google Photos": ("photos.google.com", "photos.app.goo.gl"),
    "OneDrive": ("1drv.ms", "onedrive.live.com"),
}
"""Sites that answer the address of a medium with a page; by the hosts without `www.` and `m.`."""


def check_names_a_file(uri: str) -> None:
    """Nothing, unless the address holds the medium itself, or is known to be that of a page about one.

    Raises:
        MediumError: it does, or is; says what to do instead.

    """
    if uri[:5].lower() == "data:":
        raise MediumError.of(
            "media_uri_unsupported",
            f"{excerpt(uri)} is a data: URI, which fileUri cannot hold.",
            'Put what follows its comma into the part as {"inlineData": {"mimeType": …, "data": …}}.',
        )
    try:
        host = (urlsplit(uri).hostname or "").removeprefix("www.").removeprefix("m.")
    except ValueError:
        return  # whoever fetches it says what is wrong with it
    site = next((name for name, hosts in PAGES.items() if host in hosts), None)
    if site is not None:
        raise MediumError.of(
            "media_is_a_page",
            f"{excerpt(uri)} is a page of {site}, not a file.",
            "Download what it shows, if you may, and name that file.",
        )
