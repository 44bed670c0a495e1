"""The files an original checkpoint folder must hold besides config and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["missing_files"]

_VOCABULARY = {
    "InternLM2ForCausalLM": ("tokenizer.model",),
    "Qwen2ForCausalLM": ("vocab.json", "merges.txt"),
    "Qwen3ForCausalLM": ("vocab.json", "merges.txt"),
    "LlamaForCausalLM": ("tokenizer.json",),
}


def missing_files(folder: Path, config: dict[str, Any]) -> list[str]:
    """List the tokenizer files a folder lacks; a ``tokenizer.json`` stands for the vocabulary of any decoder."""
    architecture = next(iter((config.get("llm_config") or {}).get("architectures") or []), "")
    names = [] if (folder / "tokenizer.json").is_file() else [*_VOCABULARY.get(architecture, ())]
    return [name for name in (*names, "tokenizer_config.json") if not (folder / name).is_file()]
