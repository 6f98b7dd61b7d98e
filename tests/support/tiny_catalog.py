"""Writes a catalog file of tiny bases in local folders."""

import json
from collections.abc import Mapping
from pathlib import Path

BASE = """
[bases.{name}]
display_name = "Tiny"
description = "Random."
family = "{family}"
licence = "none"
input_token_limit = {input_tokens}
output_token_limit = {output_tokens}
num_parameters = 1000
source = {{ kind = "folder", path = {folder} }}
adapter = {{ rank = 4, alpha = 8 }}
"""


def tiny_catalog(
    file: Path,
    bases: Mapping[str, Path],
    *,
    input_token_limit: int = 400,
    output_token_limit: int = 112,
    family: str = "smollm2",
) -> Path:
    """The file, written: a base for each name, its weights in the folder."""
    limits = {"input_tokens": input_token_limit, "output_tokens": output_token_limit, "family": family}
    texts = [BASE.format(name=name, folder=json.dumps(str(folder)), **limits) for name, folder in bases.items()]
    file.write_text("\n".join(texts), "utf-8")
    return file
