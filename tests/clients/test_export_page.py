"""docs/guide/export.md, run: its programs load what `kastor export` writes."""

import os
import subprocess
import sys
from pathlib import Path

from kastor.dataset.formats.encode import encode_example
from kastor.domain.content import Example
from kastor.export.request import Format
from kastor.export.run import run_export
from support.export_requests import make_order
from support.guide_page import GUIDE, blocks
from support.tiny_models import tiny_adapter, tiny_base


def test_the_programs_load_what_is_exported(tmp_path: Path) -> None:
    (tmp_path / "dataset.jsonl").write_bytes(encode_example(Example.pair("one", "two")) + b"\n")
    tiny_base(tmp_path / "base")
    tiny_adapter(tmp_path / "adapter", seed=1)
    for kind, name in ((Format.PEFT, "numbers-adapter"), (Format.MERGED, "numbers")):
        order = make_order(tmp_path, tmp_path / name, format=kind)
        run_export(order, lambda _: None)
    programs = [b.code for b in blocks((GUIDE / "export.md").read_text("utf-8")) if b.language == "python"]
    code = "\n".join([*programs, "assert tokenizer('one')['input_ids'] and model.num_parameters() > 0"])
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(programs) == 2
