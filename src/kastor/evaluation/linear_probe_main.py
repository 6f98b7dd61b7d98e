"""The process of a linear probe on pictures: `python -m kastor.evaluation.linear_probe_main`.

Features are read from and written to the cache that jobs and generation share. JSON on stdin and stdout:

    in   {"base": FOLDER, "cache": FOLDER, "family": NAME, "resolution": NAME, "threads": N,
          "known": [[PATH, LABEL], …], "asked": [PATH, …]}
    out  {"labels": [LABEL, …]}
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from kastor.domain.content import Resolution
from kastor.evaluation.linear_probe import Numbers, fit_linear_probe, pool_features
from kastor.media.cache import MediaCache
from kastor.media.decode import PictureDecoder
from kastor.models.chat.families import FAMILIES
from kastor.models.vision.encoder import FeatureStore, VisionEncoder, feature_key


def main() -> None:
    """Read the request, encode the pictures, print the labels."""
    request: dict[str, Any] = json.load(sys.stdin)
    known = [(Path(path), str(label)) for path, label in request["known"]]
    asked = [Path(path) for path in request["asked"]]
    rows = _rows(request, [path for path, _ in known] + asked)
    labels = fit_linear_probe(rows[: len(known)], [label for _, label in known], rows[len(known) :])
    sys.stdout.write(json.dumps({"labels": labels}) + "\n")


def _rows(request: dict[str, Any], paths: Sequence[Path]) -> Numbers:
    """Pooled features of each picture, (E, D)."""
    vision = FAMILIES[request["family"]].vision
    assert vision is not None  # noqa: S101  # the client asks for vision models only
    encoder = VisionEncoder.open(Path(request["base"]), vision, num_threads=int(request["threads"]))
    grid = vision.layout(Resolution(request["resolution"]), (1, 1))  # the same for every picture
    cache = MediaCache(Path(request["cache"]))
    rows = []
    with closing(cache.lease("probe")) as lease, closing(PictureDecoder()) as decoder:
        store = FeatureStore(cache, lease)
        for path in paths:
            key = feature_key(hashlib.sha256(path.read_bytes()).hexdigest(), (0,), [grid], encoder.hash)
            if not store.hold(key):
                pixels = decoder.picture(path, (grid.width, grid.height), resample=vision.resample)
                store.put(key, encoder.encode([pixels], [grid]))
            rows.append(pool_features(store.read(key, 0)))
    return np.stack(rows)


if __name__ == "__main__":
    main()
