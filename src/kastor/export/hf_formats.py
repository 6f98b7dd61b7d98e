"""Exports in the libraries' own formats: a PEFT adapter folder, and a merged transformers model."""

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from kastor.domain.certificate import CERTIFICATE_FILE
from kastor.export.golden_features import family_of, projector_folder, projector_origin, tower_folder
from kastor.export.model_card import model_card
from kastor.export.request import ExportRequest
from kastor.models.chat.families import FAMILIES, rendering_of
from kastor.models.chat.jinja_templates import CHAT_TEMPLATES
from kastor.models.chat.tokenizer_files import TOKENIZER_FILE, tokenizer_file
from kastor.models.download import NOTICE_FILE, TERMS_FILE
from kastor.models.load import load_base
from kastor.models.vision.encoder import tower_hash
from kastor.models.vision.projector import PROJECTOR_FILE
from kastor.models.vision.specs import TOWER_FILE
from kastor.serving.builtin.picture_embeddings import MANIFEST_FILE

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CARD_FILE = "README.md"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    CHAT_TEMPLATE_FILE,
    "chat_template.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)


def write_adapter(order: ExportRequest, folder: Path) -> None:
    """Write the adapter with its tokenizer; its base is named by hub repository, or by path on this machine."""
    config = json.loads((order.adapter / ADAPTER_CONFIG).read_text("utf-8"))
    config["base_model_name_or_path"] = order.base_hub or str(order.base_folder.absolute())
    config["revision"] = order.base_revision if order.base_hub else None
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    shutil.copyfile(order.adapter / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    _copy((CERTIFICATE_FILE, PROJECTOR_FILE, TOWER_FILE), order.adapter, folder)
    write_tokenizer(order, folder)


def read_adapter(order: ExportRequest, folder: Path) -> Any:  # noqa: ANN401  # peft model
    """The exported adapter on its base, loaded by peft."""
    return load_peft(load_base(order.base_folder, dtype=torch.float32, whole=True), folder)


def load_peft(base: Any, adapter: Path) -> Any:  # noqa: ANN401  # transformers model -> peft model
    """The base with the adapter in a folder, loaded by peft."""
    with warnings.catch_warnings():
        # peft 0.21 reads an attribute that transformers 5.23 deprecates
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return PeftModel.from_pretrained(base, str(adapter)).eval()


def merge_adapter(order: ExportRequest) -> Any:  # noqa: ANN401  # transformers model
    """The base with the adapter added to its weights, in fp32; the writer rounds them."""
    base = load_base(order.base_folder, dtype=torch.float32, whole=True)
    return load_peft(base, order.adapter).merge_and_unload(safe_merge=True)


def write_merged(order: ExportRequest, folder: Path) -> None:
    """Write the merged model in the base's own dtype, with its tokenizer, model card, and vision files."""
    merge_adapter(order).to(stored_dtype(order.base_folder)).save_pretrained(folder, safe_serialization=True)
    write_tokenizer(order, folder)
    _copy((TOWER_FILE,), tower_folder(order), folder)
    vision, origin, source = family_of(order).vision, projector_origin(order), projector_folder(order)
    if vision is not None and vision.pretrained:
        # the configuration byte for byte: the keys of features are computed from its vision part
        _copy(("config.json",), order.base_folder, folder)
    elif origin is not None and source is not None:
        _copy((PROJECTOR_FILE,), source, folder)
        (folder / MANIFEST_FILE).write_text(json.dumps({"vision": origin}, indent=2) + "\n", "utf-8")
    tower = "" if vision is None else tower_hash(folder, vision)
    (folder / CARD_FILE).write_text(model_card(order, vision, tower, has_projector=source is not None), "utf-8")


def write_tokenizer(order: ExportRequest, folder: Path) -> None:
    """Write the tokenizer that the model was tuned with, under the names that transformers uses."""
    _copy(TOKENIZER_FILES, order.base_folder, folder)
    if (folder / TOKENIZER_FILE).is_file():
        shutil.copyfile(tokenizer_file(order.base_folder, order.rendering), folder / TOKENIZER_FILE)
    template, config = chat_template(order), folder / "tokenizer_config.json"
    if template is not None:
        (folder / CHAT_TEMPLATE_FILE).write_text(template, "utf-8")
        if config.is_file():  # where older versions of transformers look first
            document = json.loads(config.read_text("utf-8"))
            document.pop("chat_template", None)
            config.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


def chat_template(order: ExportRequest) -> str | None:
    """The chat template that the model was tuned with, if there is one."""
    family = rendering_of(FAMILIES[order.family], order.rendering)
    if family.name != order.family:
        return CHAT_TEMPLATES[family.name]
    file = order.base_folder / CHAT_TEMPLATE_FILE
    return file.read_text("utf-8") if file.is_file() else None


def write_notice(order: ExportRequest, folder: Path) -> None:
    """Write the licence's text and its notice for derived works, if the base has them."""
    _copy((TERMS_FILE,), order.base_folder, folder)
    if (order.base_folder / NOTICE_FILE).is_file():
        notice = (order.base_folder / NOTICE_FILE).read_text("utf-8").rstrip()
        changed = f"Modified: tuned with Kastor (job {order.job}) and exported as {order.format.value}."
        (folder / NOTICE_FILE).write_text(f"{notice}\n\n{changed}\n", "utf-8")


def read_merged(_: ExportRequest, folder: Path) -> Any:  # noqa: ANN401  # transformers model
    """The merged model, loaded by transformers."""
    return load_base(folder, dtype=torch.float32, whole=True)


def stored_dtype(base_folder: Path) -> torch.dtype:
    """The dtype of the base's files, by its configuration."""
    config = json.loads((base_folder / "config.json").read_text("utf-8"))
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name, torch.float32)


def _copy(names: Sequence[str], source: Path, folder: Path) -> None:
    """Copy the files that exist."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
