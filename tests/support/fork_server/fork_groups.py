"""Which fork server serves which processes. Every Python that a test starts imports this: it imports nothing itself."""

GROUPS = {
    **dict.fromkeys(("kastor.worker", "kastor.engine", "kastor.export"), "torch"),
    **dict.fromkeys(("kastor.models.convert", "kastor.evaluation.linear_probe_main"), "torch"),
    "kastor.cli": "commands",
}
"""By module; the fork server of the commands has not imported torch."""
FORKED_CODE = "# forked, with torch imported\n"
"""How code begins that a test gives to `python -c` and that a fork shall run."""


def group_of(option: str, value: str) -> str | None:
    """The group that runs `python -m VALUE` or `python -c VALUE`, if any."""
    if option == "-m":
        return GROUPS.get(value)
    return "torch" if option == "-c" and value.startswith(FORKED_CODE) else None
