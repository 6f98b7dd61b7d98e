"""Chat templates, as transformers has them, where a base has none (it is pretrained) or tuned models have another."""

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

SMOLLM2_PLAIN = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt else '' }}"
)

CHAT_TEMPLATES: Mapping[str, str] = {"gemma3": GEMMA3, "smollm2-plain": SMOLLM2_PLAIN}
"""By family: turns as `models.families` writes them. Text only, no functions."""
