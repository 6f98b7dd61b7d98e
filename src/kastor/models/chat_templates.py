"""Chat templates, as transformers has them, for GGUFs that come without one: those of pretrained models."""

from collections.abc import Mapping

GEMMA3 = (
    "{{ bos_token }}"
    "{%- set system = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' -%}"
    "{%- for message in messages if message['role'] != 'system' -%}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{- (system if loop.first else '') + message['content'] + '<end_of_turn>\n' }}"
    "{%- endfor -%}"
    "{{ '<start_of_turn>model\n' if add_generation_prompt else '' }}"
)

CHAT_TEMPLATES: Mapping[str, str] = {"gemma3": GEMMA3}
"""By family: turns as `models.families` writes them. Text only, no functions."""
