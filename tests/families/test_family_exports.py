"""Pretrained models that see, exported: whole models that transformers and peft read, compared with their pictures."""

import hashlib
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from kastor.dataset.formats.encode import encode_example
from kastor.dataset.media.plan_codec import encode_medium
from kastor.domain.content import Content, Example, Role, Text
from kastor.domain.errors import Unimplemented
from kastor.domain.media import MediaKind
from kastor.domain.vision import MediumPlan
from kastor.export.request import ExportRequest, Format
from kastor.export.run import run_export
from kastor.media.cache import MediaCache
from kastor.models.vision.encoder import FeatureStore, tower_hash
from kastor.models.vision.media_frames import medium_feature_key
from kastor.store.blobs.manifests import write_manifest
from support.export_requests import files_in, make_order
from support.vision_models import STILL, TinyVisionModel

NAMES = ("gemma3", "gemma4-e", "gemma4-moe", "qwen3-vl", "smolvlm", "llava")


def ordered(seer: TinyVisionModel, folder: Path) -> ExportRequest:
    """A tuned model of the family on two examples, one of them with a picture, whose features are stored."""
    vision = seer.family.vision
    assert vision is not None
    planned = MediumPlan(hashlib.sha256(b"still").hexdigest(), MediaKind.IMAGE, seer.views[STILL], None)
    examples = [
        Example((Content(Role.USER, (STILL, Text("what?"))), Content(Role.MODEL, (Text("a thing"),)))),
        Example((Content(Role.USER, (Text("only text"),)), Content(Role.MODEL, (Text("yes"),)))),
    ]
    media = ([encode_medium(planned)], [])
    plans = [{"line": n + 1, "tokens": 0, "supervised": 0, "media": shown} for n, shown in enumerate(media)]
    files = files_in(folder)
    files.dataset.write_bytes(b"".join(encode_example(example) + b"\n" for example in examples))
    files.plan.write_bytes(b"".join(orjson.dumps(plan) + b"\n" for plan in plans))
    cache = MediaCache(folder / "features")
    with closing(cache.lease("test")) as lease:
        key = medium_feature_key(planned, tower_hash(seer.folder, vision))
        FeatureStore(cache, lease).put(key, seer.features[STILL.uri])
    seer.tuned().save_pretrained(folder / "adapter")
    write_manifest(folder / "adapter", {})
    return make_order(folder, folder / "out", family=seer.family.name, base_folder=seer.folder)


@pytest.mark.parametrize("name", NAMES)
def test_adapter_and_merged_model_are_whole_models_that_see(name: str, tmp_path: Path) -> None:
    seer = TinyVisionModel.make(name, tmp_path / "base")
    order = ordered(seer, tmp_path)
    near = run_export(order, lambda _: None)["comparison"]
    assert near["rows"] == 2 and near["largestDifference"] < 1e-3
    merged = replace(order, format=Format.MERGED, out=tmp_path / "merged")
    run_export(merged, lambda _: None)
    inputs = seer.whole_inputs(seer.example(STILL, Text("what?"), answer="a thing"))
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    base = AutoModelForImageTextToText.from_pretrained(seer.folder, dtype=torch.float32).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 reads an attribute that transformers 5.23 deprecates
        plain = base(**inputs).logits
        found, adapted = (
            whole(**inputs).logits,
            PeftModel.from_pretrained(base, tmp_path / "out").eval()(**inputs).logits,
        )
    torch.testing.assert_close(found, adapted, rtol=0, atol=1e-3)
    assert (found - plain).abs().max() > 0.05
    assert "AutoProcessor" in (tmp_path / "merged" / "README.md").read_text()


def test_it_is_no_gguf_file(tmp_path: Path) -> None:
    order = ordered(TinyVisionModel.make("gemma3", tmp_path / "base"), tmp_path)
    with pytest.raises(Unimplemented, match="vision tower as a separate file"):
        run_export(replace(order, format=Format.GGUF), lambda _: None)
