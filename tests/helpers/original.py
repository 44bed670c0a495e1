"""Tiny checkpoint folders in InternVL's original layout, as published: nothing of biaslab or transformers writes them.

Kinds: "internlm2" (2B, 8B, 26B: SentencePiece, fused projections), "qwen2" (1B, 4B), "qwen3" (3.5), "llama".
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

TILE, PATCH = 56, 14
CHAT = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
VISUAL = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<tool_call>"]
PYTHON = ("configuration_internvl_chat", "modeling_internvl_chat", "tokenization_internlm2", "conversation")
_CORPUS = [
    "Please provide the bounding box coordinate of the region this sentence describes: the red cat",
    "Where is the  small green square on the left? [[123, 45, 678, 90]]",
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室联合开发的多模态大语言模型。",
    "system user assistant\nsystem\nuser\nassistant\n",
]


# ------------------------------------------------------------------------------------------ vocabularies
@cache
def sentencepiece_model() -> bytes:
    """BPE with byte fallback, no dummy prefix and unused pieces at the end, as InternLM2's tokenizer.model."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_CORPUS * 20), model_writer=written, vocab_size=480, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False, split_digits=True,
        remove_extra_whitespaces=False, user_defined_symbols=[f"[UNUSED_TOKEN_{i}]" for i in range(141, 147)],
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    model = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())
    pieces = sorted((sentencepiece_model_pb2.ModelProto.SentencePiece.FromString(p.SerializeToString())
                     for p in model.pieces), key=lambda p: p.type == 4)  # fmt: skip
    del model.pieces[:]
    model.pieces.extend(pieces)
    return model.SerializeToString()


@cache
def _bpe():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        _CORPUS * 20, trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters, show_progress=False)
    )
    return core


def added_tokens(kind: str) -> dict[str, int]:
    """Token -> id of all added tokens, at their published places."""
    if kind == "internlm2":
        import sentencepiece

        size = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model()).get_piece_size()
        chat = {token: size - 6 + i for i, token in enumerate(CHAT)}
        return {"<unk>": 0, "<s>": 1, "</s>": 2, **chat, **{token: size + i for i, token in enumerate(VISUAL)}}
    size = _bpe().get_vocab_size()
    return {token: size + i for i, token in enumerate(QWEN + VISUAL)}


def write_tokenizer(folder: Path, kind: str) -> None:
    ids = added_tokens(kind)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    settings = {
        "added_tokens_decoder": {
            str(i): {"content": t, **flags, "special": t != "<tool_call>"} for t, i in ids.items()
        },
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    if kind == "internlm2":
        (folder / "tokenizer.model").write_bytes(sentencepiece_model())
        module = "tokenization_internlm2"
        ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
        settings |= {"auto_map": {"AutoTokenizer": [f"{module}.InternLM2Tokenizer", None]}, **ends}
        settings |= {"tokenizer_class": "InternLM2Tokenizer", "additional_special_tokens": CHAT + VISUAL}
        added = {token: ids[token] for token in VISUAL}
    else:
        if kind == "llama":
            core = type(_bpe()).from_str(_bpe().to_str())
            core.add_special_tokens(QWEN + VISUAL)
            core.save(str(folder / "tokenizer.json"))
        else:
            _bpe().model.save(str(folder))  # vocab.json and merges.txt
        ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        settings |= {**ends, "add_bos_token": False, "add_prefix_space": False, "chat_template": "{{ 'not this one' }}"}
        settings |= {"tokenizer_class": "Qwen2Tokenizer", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
        added = ids
    special = {**ends, "additional_special_tokens": settings["additional_special_tokens"]}
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "added_tokens.json", added)


# ------------------------------------------------------------------------------------------ config
def config(kind: str, dtype: torch.dtype = torch.float32, vision: dict | None = None, llm: dict | None = None, **top):
    """A ``config.json`` with the fields published ones have; dictionaries and keywords replace fields."""
    names = {"internlm2": "InternLM2ForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
             "llama": "LlamaForCausalLM"}  # fmt: skip
    decoder = {
        "architectures": [names[kind]], "model_type": kind, "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 96, "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 3,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "rope_theta": 1000000, "torch_dtype": "bfloat16",
        "tie_word_embeddings": False, "vocab_size": max(added_tokens(kind).values()) + 1, "use_cache": True,
    }  # fmt: skip
    if kind == "internlm2":
        decoder |= {"bias": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "pretraining_tp": 1,
                    "attn_implementation": "eager", "rope_scaling": {"factor": 2.0, "type": "dynamic"}}  # fmt: skip
        decoder["auto_map"] = {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"}
    if kind in ("qwen2", "qwen3"):
        decoder |= {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 2, "rope_scaling": None}
        ids = added_tokens(kind)
        decoder |= {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}
    if kind == "qwen3":
        decoder |= {"head_dim": 24, "attention_bias": False}
    tower = {
        "architectures": ["InternVisionModel"], "attention_dropout": 0.0, "drop_path_rate": 0.0, "dropout": 0.0,
        "hidden_act": "gelu", "hidden_size": 32, "image_size": TILE, "initializer_factor": 1.0,
        "initializer_range": 0.02, "intermediate_size": 48, "layer_norm_eps": 1e-06, "model_type": "intern_vit_6b",
        "norm_type": "layer_norm", "num_attention_heads": 4, "num_channels": 3, "num_hidden_layers": 2,
        "patch_size": PATCH, "qk_normalization": False, "qkv_bias": True, "use_flash_attn": True,
    }  # fmt: skip
    chat = "internvl_chat"
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {
            "AutoConfig": f"configuration_{chat}.InternVLChatConfig",
            "AutoModel": f"modeling_{chat}.InternVLChatModel",
            "AutoModelForCausalLM": f"modeling_{chat}.InternVLChatModel",
        },
        "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": TILE, "hidden_size": 64,
        "llm_config": decoder | (llm or {}), "max_dynamic_patch": 12, "min_dynamic_patch": 1, "model_type": chat,
        "pad2square": False, "ps_version": "v2", "select_layer": -1, "template": "internvl2_5",
        "torch_dtype": str(dtype).removeprefix("torch."), "use_backbone_lora": 0, "use_llm_lora": 0,
        "use_thumbnail": True, "vision_config": tower | (vision or {}), **top,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------ weights
def shapes(cfg: dict) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight, as the published model classes register them."""
    vit, llm = cfg["vision_config"], cfg["llm_config"]
    d, ffn, kind = vit["hidden_size"], vit["intermediate_size"], llm["architectures"][0]
    positions = (vit["image_size"] // vit["patch_size"]) ** 2 + 1
    out = {
        "vision_model.embeddings.class_embedding": (1, 1, d),
        "vision_model.embeddings.position_embedding": (1, positions, d),
        "vision_model.embeddings.patch_embedding.weight": (d, 3, vit["patch_size"], vit["patch_size"]),
        "vision_model.embeddings.patch_embedding.bias": (d,),
    }
    for i in range(vit["num_hidden_layers"]):
        block = {"attn.qkv.weight": (3 * d, d), "attn.proj.weight": (d, d), "attn.proj.bias": (d,), "ls1": (d,),
                 "ls2": (d,), "mlp.fc1.weight": (ffn, d), "mlp.fc1.bias": (ffn,), "mlp.fc2.weight": (d, ffn),
                 "mlp.fc2.bias": (d,), "norm1.weight": (d,), "norm2.weight": (d,)}  # fmt: skip
        if vit["qkv_bias"]:
            block["attn.qkv.bias"] = (3 * d,)
        if vit["qk_normalization"]:
            block |= {"attn.q_norm.weight": (d,), "attn.k_norm.weight": (d,)}
        if vit["norm_type"] == "layer_norm":
            block |= {"norm1.bias": (d,), "norm2.bias": (d,)}
        out |= {f"vision_model.encoder.layers.{i}.{name}": shape for name, shape in block.items()}
    wide, h = d * int(1 / cfg["downsample_ratio"]) ** 2, llm["hidden_size"]
    out |= {"mlp1.0.weight": (wide,), "mlp1.0.bias": (wide,), "mlp1.1.weight": (h, wide), "mlp1.1.bias": (h,),
            "mlp1.3.weight": (h, h), "mlp1.3.bias": (h,)}  # fmt: skip
    heads, kv, m = llm["num_attention_heads"], llm["num_key_value_heads"], llm["intermediate_size"]
    v, dim = llm["vocab_size"], llm.get("head_dim") or h // heads
    if kind == "InternLM2ForCausalLM":
        block = {"attention.wqkv.weight": ((heads + 2 * kv) * dim, h), "attention.wo.weight": (h, heads * dim),
                 "feed_forward.w1.weight": (m, h), "feed_forward.w2.weight": (h, m), "feed_forward.w3.weight": (m, h),
                 "attention_norm.weight": (h,), "ffn_norm.weight": (h,)}  # fmt: skip
        if llm["bias"]:
            block |= {"attention.wqkv.bias": ((heads + 2 * kv) * dim,), "attention.wo.bias": (h,)}
        ends = {"model.tok_embeddings.weight": (v, h), "model.norm.weight": (h,), "output.weight": (v, h)}
    else:
        block = {"self_attn.q_proj.weight": (heads * dim, h), "self_attn.k_proj.weight": (kv * dim, h),
                 "self_attn.v_proj.weight": (kv * dim, h), "self_attn.o_proj.weight": (h, heads * dim),
                 "mlp.gate_proj.weight": (m, h), "mlp.up_proj.weight": (m, h), "mlp.down_proj.weight": (h, m),
                 "input_layernorm.weight": (h,), "post_attention_layernorm.weight": (h,)}  # fmt: skip
        if kind == "Qwen2ForCausalLM":
            block |= {f"self_attn.{x}_proj.bias": ((heads if x == "q" else kv) * dim,) for x in "qkv"}
        if kind == "Qwen3ForCausalLM":
            block |= {"self_attn.q_norm.weight": (dim,), "self_attn.k_norm.weight": (dim,)}
        ends = {"model.embed_tokens.weight": (v, h), "model.norm.weight": (h,), "lm_head.weight": (v, h)}
    text = {f"model.layers.{i}.{name}": s for i in range(llm["num_hidden_layers"]) for name, s in block.items()}
    return out | {f"language_model.{name}": shape for name, shape in (text | ends).items()}


def weights(cfg: dict, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Random weights: projections sharp enough that a wrong head or row shows, norms near one."""
    g = torch.Generator().manual_seed(0)
    out = {}
    for name, shape in shapes(cfg).items():
        noise = torch.randn(shape, generator=g)
        norm = len(shape) == 1 and not name.endswith("bias")
        out[name] = (1 + 0.2 * noise if norm else 0.1 * noise).to(dtype)
    return out


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    table = {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: tensors[key] for key in list(tensors)[i::shards]}  # every layer lies in several shards
        save_file(part, folder / name, metadata={"format": "pt"})
        table |= dict.fromkeys(part, name)
    total = sum(t.nbytes for t in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": table})


def write(folder: Path, kind: str, shards: int = 1, dtype: torch.dtype = torch.float32, **changes) -> Path:
    """A whole checkpoint folder; ``changes`` go to `config`."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = config(kind, dtype, **changes)
    write_json(folder / "config.json", cfg)
    write_weights(folder, weights(cfg, dtype), shards)
    write_tokenizer(folder, kind)
    ends = {"internlm2": ["<|im_end|>", "<|im_start|>"]}.get(kind, ["<|im_end|>"])
    ids = [added_tokens(kind)[token] for token in ends]
    write_json(folder / "generation_config.json", {"_from_model_config": True, "eos_token_id": ids})
    for name in PYTHON:  # whoever runs them fails
        (folder / f"{name}.py").write_text("raise RuntimeError('remote code was run')\n")
    return folder


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")
