"""The tokenizer of an original checkpoint, from its vocabulary files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from biaslab.errors import ModelError
from biaslab.models.checkpoints.internvl_chat.config import architecture
from biaslab.models.checkpoints.internvl_chat.template import END_OF_TURN, IMAGE_TOKEN

__all__ = ["load_tokenizer"]

_NAMES: dict[str, Any] = {  # attributes transformers' InternVLProcessor reads
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": IMAGE_TOKEN,
    "video_token": "<video>",
}
_REQUIRED = ("<img>", "</img>", IMAGE_TOKEN, "<|im_start|>", END_OF_TURN)
_INTERNLM2 = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


def load_tokenizer(folder: Path, config: dict[str, Any]) -> Any:
    """Make a tokenizer of transformers, without remote code, that has the published token ids.

    InternLM2's SentencePiece model is read by the generic class: it puts the chat tokens where the checkpoint has them,
    on unused pieces of the vocabulary. `LlamaTokenizer` would append them, with ids the model never saw.

    Raises
    ------
    ModelError
        For a token that is missing or has another id than the checkpoint's files say.
    """
    import transformers

    settings = _json(folder / "tokenizer_config.json")
    decoder = architecture(config)
    cls = transformers.Qwen2Tokenizer if decoder.startswith("Qwen") else transformers.PreTrainedTokenizerFast
    kw: dict[str, Any] = {}
    if decoder == "InternLM2ForCausalLM":
        kw = {key: settings.get(key) or value for key, value in _INTERNLM2.items()}
        if not (folder / "tokenizer.json").is_file():  # which has its own
            kw["add_bos_token"] = settings.get("add_bos_token", True)
            kw["add_eos_token"] = settings.get("add_eos_token", False)
    tokenizer = cls.from_pretrained(str(folder), local_files_only=True, padding_side="left", **kw, **_NAMES)
    tokenizer.init_kwargs.pop("auto_map", None)  # a saved copy must not ask for remote code
    _check_ids(folder, settings, tokenizer.get_vocab())
    return tokenizer


def _check_ids(folder: Path, settings: dict[str, Any], vocabulary: dict[str, int]) -> None:
    published = {t["content"]: int(i) for i, t in settings.get("added_tokens_decoder", {}).items()}
    if (path := folder / "added_tokens.json").is_file():
        published.update(_json(path))
    for token, index in published.items():
        if vocabulary.get(token) != index:
            actual = vocabulary.get(token, "absent")
            raise ModelError(f"{folder}: token {token} should have the id {index} and is {actual}: its tokenizer files "
                             "do not belong together, copy them all again")  # fmt: skip
    if absent := [token for token in _REQUIRED if token not in vocabulary]:
        raise ModelError(f"{folder}: its tokenizer has no {', '.join(absent)}: copy its tokenizer files again")


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
