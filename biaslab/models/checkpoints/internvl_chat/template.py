"""Chat templates of original checkpoints: those of InternVL's ``conversation.py``, default system message included.

Source: github.com/OpenGVLab/InternVL, internvl_chat/internvl/conversation.py (templates of style MPT) and
modeling_internvl_chat.py (``chat``: the system message always leads, the image precedes the question).
"""

from __future__ import annotations

import json
import re
from typing import Any

from biaslab.errors import ModelError

__all__ = ["END_OF_TURN", "IMAGE_TOKEN", "chat_template"]

IMAGE_TOKEN = "<IMG_CONTEXT>"
END_OF_TURN = "<|im_end|>"
_OLD = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
_NEW = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
_TEMPLATES = {  # name -> what ends a turn, default system message
    "internvl2_5": (f"{END_OF_TURN}\n", _NEW),
    "internlm2-chat": (END_OF_TURN, _OLD),
    "Hermes-2": (END_OF_TURN, _OLD),
}
_JINJA = """\
{%- set end = END -%}
{%- if not messages or messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\n' + SYSTEM + end -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- IMAGE -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- end -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def chat_template(config: dict[str, Any]) -> str:
    """Write the Jinja template of a checkpoint's conversation template (the ``template`` of its ``config.json``).

    A ``system_message`` in the config replaces the default one, and one in the messages replaces both.

    Raises
    ------
    ModelError
        For a template that is not known.
    """
    name = config.get("template")
    if name not in _TEMPLATES:
        raise ModelError(f"unknown conversation template {name!r} in config.json: known are {', '.join(_TEMPLATES)}")
    end, system = _TEMPLATES[name]
    system = system if config.get("system_message") is None else str(config["system_message"])
    values = {"END": end, "SYSTEM": system, "IMAGE": f"{IMAGE_TOKEN}\n"}
    return re.sub(r"\b(END|SYSTEM|IMAGE)\b", lambda m: json.dumps(values[m[1]], ensure_ascii=False), _JINJA)
