"""Templates that bases and exports are given say what Kastor's own renderer says."""

from pathlib import Path

import pytest
from jinja2 import Environment

from kastor.domain.content import Content, Prompt, Role, Text
from kastor.domain.job import Rendering
from kastor.models.chat.families import FAMILIES, SMOLLM2, rendering_of
from kastor.models.chat.jinja_templates import CHAT_TEMPLATES
from kastor.models.chat.render import Renderer
from support.family_bases import family_renderer
from support.tiny_models import tiny_tokenizer

TALKS = [["Hi"], ["Hi", "Hello", "Bye"]]


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_a_template_writes_what_the_renderer_writes(name: str, talk: list[str], system: str | None) -> None:
    renderer = family_renderer(FAMILIES[name])
    turns = tuple(Content(Role.MODEL if i % 2 else Role.USER, (Text(text),)) for i, text in enumerate(talk))
    prompt = Prompt(turns, None if system is None else (Text(system),))
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(talk)]
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATES[name])  # noqa: S701  # no HTML
    written = template.render(messages=messages, bos_token="<bos>", add_generation_prompt=True)
    assert written == renderer.tokenizer.decode(renderer.prompt(prompt), skip_special_tokens=False)


def test_what_is_tuned_on_smollm2_is_written_no_instruction_that_nobody_gave(tmp_path: Path) -> None:
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    prompts = {
        rendering: (one := Renderer.open(tmp_path, SMOLLM2, rendering=rendering)).tokenizer.decode(
            one.prompt(Prompt.of("12")), skip_special_tokens=False
        )
        for rendering in Rendering
    }
    assert prompts[Rendering.TUNED] == "<|im_start|>user\n12<|im_end|>\n<|im_start|>assistant\n"
    assert "named SmolLM" in prompts[Rendering.FIRST]
    assert prompts[Rendering.FIRST] == prompts[Rendering.PUBLISHED]


def test_other_families_are_talked_to_alike_in_every_rendering() -> None:
    for family in FAMILIES.values():
        assert rendering_of(family, Rendering.PUBLISHED) is family
        assert rendering_of(family, Rendering.TUNED) is family or family.name == "smollm2"
