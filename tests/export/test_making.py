"""What is exported is read by the libraries it is for, and gives what the tuned model gives; else nothing is left."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from kastor.dataset.formats.encode import encode_example
from kastor.domain.content import Example
from kastor.domain.errors import DataLoss, FailedPrecondition, Internal, Unimplemented
from kastor.domain.job import Rendering
from kastor.export.comparison import reference_logprobs
from kastor.export.gguf import FILE, write_gguf
from kastor.export.gguf_tokenizer import pre_tokenizer
from kastor.export.golden_features import GoldenFeatures
from kastor.export.request import ExportRequest, Format, Weights
from kastor.export.run import MANIFEST_FILE, run_export
from kastor.models.chat.families import FAMILIES, SMOLLM2
from kastor.models.chat.jinja_templates import CHAT_TEMPLATES
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.chat.tokenizer_files import repair_tokenizer, tokenizer_file
from kastor.models.load import load_base
from kastor.serving.builtin.parity import ServedAdapter
from kastor.store.blobs.manifests import write_manifest
from support.export_requests import files_in, make_order
from support.tiny_models import tiny_adapter, tiny_base, tiny_gemma_base

PAIRS = [("one", "two"), ("twelve", "thirteen"), ("a longer question", "and a longer answer")]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter on it, and the examples it was tuned on."""
    folder = tmp_path_factory.mktemp("given")
    tiny_base(folder / "base")
    tiny_adapter(folder / "adapter", seed=1)
    (folder / "dataset.jsonl").write_bytes(b"".join(encode_example(Example.pair(*pair)) + b"\n" for pair in PAIRS))
    return folder


@pytest.fixture
def order(given: Path, tmp_path: Path) -> ExportRequest:
    return make_order(given, tmp_path / "out")


@pytest.fixture(scope="module")
def examples(given: Path) -> list[RenderedExample]:
    return GoldenFeatures(None).rendered(
        files_in(given).golden(given / "adapter"), Renderer.open(given / "base", SMOLLM2)
    )


@pytest.fixture(scope="module")
def served(given: Path, examples: list[RenderedExample]) -> list[torch.Tensor]:
    """Log-probabilities in fp32, by the serving engine."""
    base = load_base(given / "base", dtype=torch.float32)
    return ServedAdapter.open(base, Renderer.open(given / "base", SMOLLM2), given / "adapter").logprobs(examples)


def farthest(served: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(served, found, strict=True))


def stages(order: ExportRequest) -> list[str]:
    told: list[str] = []
    run_export(order, told.append)
    return told


def by_transformers(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, **options).eval()


def test_the_adapter_is_loaded_by_stock_peft_and_names_its_base(
    order: ExportRequest, examples: list[RenderedExample], served: list[torch.Tensor]
) -> None:
    run_export(order, lambda _: None)
    config = json.loads((order.out / "adapter_config.json").read_text())
    base = by_transformers(Path(config["base_model_name_or_path"]))
    with warnings.catch_warnings():  # peft 0.21 reads an attribute that transformers 5.23 deprecates
        warnings.simplefilter("ignore", FutureWarning)
        model = PeftModel.from_pretrained(base, str(order.out)).eval()
    assert farthest(served, reference_logprobs(model, examples)) < 1e-3
    assert (order.out / "adapter_model.safetensors").read_bytes() == (
        order.adapter / "adapter_model.safetensors"
    ).read_bytes()


def test_the_adapters_folder_has_the_tokenizer_as_transformers_reads_it(given: Path, order: ExportRequest) -> None:
    config = {"tokenizer_class": "TokenizersBackend", "eos_token": "<|im_end|>"}
    template = "{% for turn in messages %}<|im_start|>{{ turn.content }}<|im_end|>{% endfor %}"
    (order.base_folder / "tokenizer_config.json").write_text(json.dumps(config))
    (order.base_folder / "chat_template.jinja").write_text(template)
    try:
        run_export(order, lambda _: None)
    finally:
        (order.base_folder / "tokenizer_config.json").unlink()
        (order.base_folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(str(order.out))
    own = Renderer.open(given / "base", SMOLLM2).tokenizer
    text = "forty one, 日本 <|im_end|>"
    assert tokenizer(text)["input_ids"] == own.encode(text, add_special_tokens=False).ids
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == (
        "<|im_start|>a<|im_end|>"
    )
    manifest = json.loads((order.out / "kastor-export.json").read_text())
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= set(manifest["files"])


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "certificate.json"])
def test_a_damaged_file_is_named_and_nothing_is_exported(order: ExportRequest, tmp_path: Path, name: str) -> None:
    adapter = shutil.copytree(order.adapter, tmp_path / "adapter")
    (adapter / "certificate.json").write_text('{"rows": [{"example": 0}]}')
    write_manifest(adapter, {})
    (adapter / name).write_bytes((adapter / name).read_bytes()[:-9])
    with pytest.raises(DataLoss, match=f"{name} is damaged"):
        run_export(replace(order, adapter=adapter), lambda _: None)
    assert not order.out.exists()


def test_a_certificate_that_names_no_examples_is_refused_by_name(given: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(given / "adapter", tmp_path / "adapter")
    for text in ('{"rows": [', '{"rows": 3}', "[]"):
        (adapter / "certificate.json").write_text(text)
        with pytest.raises(DataLoss, match=r"certificate\.json of .* is damaged"):
            files_in(given).golden(adapter)


def test_an_adapter_on_a_base_of_the_hub_names_it_there(order: ExportRequest) -> None:
    run_export(replace(order, base_hub="maker/model", base_revision="abc"), lambda _: None)
    config = json.loads((order.out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("maker/model", "abc")


def test_the_merged_model_is_loaded_by_transformers_alone(
    order: ExportRequest, examples: list[RenderedExample], served: list[torch.Tensor]
) -> None:
    run_export(replace(order, format=Format.MERGED), lambda _: None)
    assert farthest(served, reference_logprobs(by_transformers(order.out), examples)) < 1e-3
    assert (order.out / "tokenizer.json").read_bytes() == (order.base_folder / "tokenizer.json").read_bytes()
    assert not (order.out / "adapter_config.json").exists()


@pytest.mark.parametrize("kind", list(Format))
def test_the_terms_of_the_base_and_the_notice_they_want_go_along(given: Path, tmp_path: Path, kind: Format) -> None:
    shutil.copytree(given, tmp_path / "given")
    (tmp_path / "given" / "base" / "NOTICE").write_text("Provided under the terms.\n\nModified: converted.\n")
    (tmp_path / "given" / "base" / "TERMS.html").write_text("the terms")
    order = make_order(tmp_path / "given", tmp_path / "out", format=kind)
    assert {"NOTICE", "TERMS.html"} <= run_export(order, lambda _: None)["files"].keys()
    assert (order.out / "TERMS.html").read_text() == "the terms"
    said = (order.out / "NOTICE").read_text()
    assert said.startswith("Provided under the terms.")
    assert f"tuned with Kastor (job job1) and exported as {kind.value}" in said


@pytest.mark.parametrize("rendering", [Rendering.FIRST, Rendering.TUNED])
def test_an_export_has_the_chat_template_that_the_model_was_tuned_with(
    given: Path, tmp_path: Path, rendering: Rendering
) -> None:
    shutil.copytree(given, tmp_path / "given")
    base = tmp_path / "given" / "base"
    (base / "chat_template.jinja").write_text("the base's own")
    (base / "tokenizer_config.json").write_text('{"chat_template": "the base\'s own", "eos_token": "<|im_end|>"}')
    order = make_order(tmp_path / "given", tmp_path / "merged", format=Format.MERGED, rendering=rendering)
    run_export(order, lambda _: None)
    expected = "the base's own" if rendering is Rendering.FIRST else CHAT_TEMPLATES["smollm2-plain"]
    assert (order.out / "chat_template.jinja").read_text() == expected
    assert json.loads((order.out / "tokenizer_config.json").read_text()) == {"eos_token": "<|im_end|>"}
    run_export(replace(order, format=Format.GGUF, out=tmp_path / "gguf"), lambda _: None)
    assert GGUFReader(tmp_path / "gguf" / FILE).get_field("tokenizer.chat_template").contents() == expected


@pytest.mark.parametrize("rendering", list(Rendering))
def test_an_export_has_the_tokenizer_that_the_model_was_tuned_with(
    given: Path, tmp_path: Path, rendering: Rendering
) -> None:
    shutil.copytree(given, tmp_path / "given")
    base = tmp_path / "given" / "base"
    repair_tokenizer(base, "smollm")
    order = make_order(tmp_path / "given", tmp_path / "merged", format=Format.MERGED, rendering=rendering)
    run_export(order, lambda _: None)
    assert (order.out / "tokenizer.json").read_bytes() == tokenizer_file(base, rendering).read_bytes()
    run_export(replace(order, format=Format.GGUF, out=tmp_path / "gguf"), lambda _: None)
    field = GGUFReader(tmp_path / "gguf" / FILE).get_field("tokenizer.ggml.pre")
    assert field.contents() == ("gpt-2" if rendering is Rendering.FIRST else "smollm")


@pytest.mark.parametrize(("weights", "near"), [(Weights.F16, 0.02), (Weights.BF16, 0.1), (Weights.Q8_0, 0.2)])
def test_a_gguf_file_is_loaded_by_transformers_with_its_tokens(
    order: ExportRequest, examples: list[RenderedExample], served: list[torch.Tensor], weights: Weights, near: float
) -> None:
    manifest = run_export(replace(order, format=Format.GGUF, weights=weights), lambda _: None)
    assert manifest["weights"] == weights.value
    model = by_transformers(order.out, gguf_file=FILE)
    assert farthest(served, reference_logprobs(model, examples)) < near
    tokenizer = AutoTokenizer.from_pretrained(str(order.out), gguf_file=FILE)
    own = Renderer.open(order.base_folder, SMOLLM2)
    text = "<|im_start|>user\nThe twenty-one inns, there: 1234.<|im_end|>"
    assert tokenizer(text)["input_ids"] == own.tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", list(Format))
def test_the_manifest_says_how_near_it_came_and_lists_the_files(order: ExportRequest, kind: Format) -> None:
    manifest = run_export(replace(order, format=kind), lambda _: None)
    assert json.loads((order.out / MANIFEST_FILE).read_text()) == manifest
    assert (manifest["format"], manifest["model"], manifest["job"]) == (kind.value, "tunedModels/numbers", "job1")
    near = manifest["comparison"]
    assert near["rows"] == 3 and near["tokens"] > 10
    assert near["largestDifference"] <= near["tolerance"]["largest"]
    on_disk = {file.name for file in order.out.iterdir()} - {MANIFEST_FILE}
    assert manifest["files"].keys() == on_disk
    assert [entry.name for entry in order.out.parent.iterdir()] == ["out"]


def test_it_tells_what_it_is_at(order: ExportRequest) -> None:
    told = stages(replace(order, format=Format.MERGED))
    assert told == [
        "scoring golden rows as they are served",
        "writing merged",
        "reading it back by transformers and comparing",
    ]


def test_an_empty_folder_is_taken_and_a_full_one_refused(order: ExportRequest) -> None:
    order.out.mkdir()
    run_export(order, lambda _: None)
    with pytest.raises(FailedPrecondition, match="not an empty folder"):
        run_export(order, lambda _: None)


def test_what_gives_other_numbers_is_not_kept(order: ExportRequest, given: Path, tmp_path: Path) -> None:
    """While it is written, the adapter on disk becomes another one."""
    adapter = shutil.copytree(given / "adapter", tmp_path / "changing")

    def meddle(stage: str) -> None:
        if stage.startswith("writing"):
            file = adapter / "adapter_model.safetensors"
            save_file({name: -3 * tensor for name, tensor in load_file(file).items()}, file)
            config = json.loads((adapter / "adapter_config.json").read_text())
            (adapter / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 900}))

    with pytest.raises(Internal, match="The merged export gives other log-probabilities than the tuned model"):
        run_export(replace(order, format=Format.MERGED, adapter=adapter), meddle)
    assert [entry.name for entry in tmp_path.iterdir()] == ["changing"]


def test_the_certified_rows_are_the_ones_compared(given: Path, tmp_path: Path, order: ExportRequest) -> None:
    adapter = shutil.copytree(given / "adapter", tmp_path / "certified")
    (adapter / "certificate.json").write_text(json.dumps({"rows": [{"example": 2}]}))
    manifest = run_export(replace(order, adapter=adapter), lambda _: None)
    assert manifest["comparison"]["rows"] == 1
    assert "certificate.json" in manifest["files"]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 3 with a tokenizer over characters, an adapter on it, and the examples it was tuned on."""
    folder = tmp_path_factory.mktemp("gemma")
    tiny_gemma_base(folder / "base")
    tiny_adapter(folder / "adapter", seed=1, base=load_base(folder / "base", dtype=torch.float32))
    (folder / "dataset.jsonl").write_bytes(b"".join(encode_example(Example.pair(*pair)) + b"\n" for pair in PAIRS))
    return folder


@pytest.mark.parametrize(("weights", "near"), [(Weights.F16, 0.02), (Weights.Q8_0, 0.2)])
def test_a_gemma_as_gguf_is_loaded_by_transformers_with_its_tokens(
    gemma: Path, tmp_path: Path, weights: Weights, near: float
) -> None:
    order = make_order(gemma, tmp_path / "out", family="gemma3", format=Format.GGUF, weights=weights)
    manifest = run_export(order, lambda _: None)
    assert manifest["comparison"]["largestDifference"] < near
    own = Renderer.open(order.base_folder, FAMILIES["gemma3"]).tokenizer
    tokenizer = AutoTokenizer.from_pretrained(str(order.out), gguf_file=FILE)
    for text in ("the two tones, there: 1234.", "<start_of_turn>user\nthe two<end_of_turn>\n", "日本 — ü", "  a  b"):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == own.encode(text, add_special_tokens=False).ids
    reader = GGUFReader(order.out / FILE)
    assert reader.get_field("tokenizer.ggml.add_bos_token").contents() is True
    norm = next(tensor for tensor in reader.tensors if tensor.name == "output_norm.weight")
    plain = load_file(gemma / "base" / "model.safetensors")["model.norm.weight"]
    assert torch.equal(torch.from_numpy(norm.data.copy()), plain + 1)  # llama.cpp adds nothing to it


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["full_attention"] * 7},
        {"query_pre_attn_scalar": 99},
        {"final_logit_softcapping": 30.0},
        {"hidden_activation": "silu"},
    ],
)
def test_a_gemma_that_llama_cpp_would_compute_otherwise_is_refused_by_what_it_has(
    gemma: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    base = shutil.copytree(gemma / "base", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changes))
    order = make_order(gemma, tmp_path / "out", family="gemma3", format=Format.GGUF, base_folder=base)
    with pytest.raises(Unimplemented, match=rf"A gemma3 with {next(iter(changes))} .* cannot be written as GGUF here"):
        run_export(order, lambda _: None)


def test_merges_that_scores_cannot_say_are_refused(gemma: Path, tmp_path: Path) -> None:
    base = shutil.copytree(gemma / "base", tmp_path / "base")
    document = json.loads((base / "tokenizer.json").read_text())
    document["model"]["merges"] += [["t", "h"], ["on", "e"], ["o", "ne"], ["h", "e"], ["o", "n"]]
    document["model"]["vocab"] |= {"ne": len(document["model"]["vocab"])}
    (base / "tokenizer.json").write_text(json.dumps(document))
    order = make_order(gemma, tmp_path / "out", family="gemma3", format=Format.GGUF, base_folder=base)
    with pytest.raises(Unimplemented, match="normalizer or merges cannot be written"):
        write_gguf(order, tmp_path)


def test_a_base_of_another_form_is_refused_as_gguf_before_anything_is_computed(
    order: ExportRequest, tmp_path: Path
) -> None:
    base = shutil.copytree(order.base_folder, tmp_path / "qwen")
    Qwen3Config(architectures=["Qwen3ForCausalLM"]).save_pretrained(base)
    stages: list[str] = []
    with pytest.raises(Unimplemented, match=r"Qwen3ForCausalLM cannot be written as GGUF here.*Export it as merged"):
        run_export(replace(order, format=Format.GGUF, base_folder=base), stages.append)
    assert stages == []


def test_how_text_is_cut_into_words_is_named_by_what_the_tokenizer_does() -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    assert pre_tokenizer(byte_level) == "gpt-2"
    assert pre_tokenizer({"type": "Sequence", "pretokenizers": [digits, byte_level]}) == "smollm"
    with pytest.raises(Unimplemented, match="convert_hf_to_gguf"):
        pre_tokenizer({"type": "Sequence", "pretokenizers": [{"type": "Split"}, byte_level]})
    with pytest.raises(Unimplemented):
        pre_tokenizer(None)


def test_an_order_survives_the_pipe(order: ExportRequest) -> None:
    assert ExportRequest.decode(order.encode()) == order
    assert ExportRequest.decode(replace(order, format=Format.GGUF, num_threads=2).encode()).num_threads == 2
