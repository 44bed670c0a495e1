"""The tokenizers of the embedded models: special tokens, InternVL's chat format, a small byte-level BPE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>",
           "<ref>", "</ref>", "<box>", "</box>")  # fmt: skip
# InternVL's own template, as its -hf checkpoints carry it: no default system message.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ENGLISH = """Please describe the provided image. What is in this picture? Where is the cat? How many objects are there?
Describe the scene in detail. Is there a dog in the image? What colour is the car? \
Which animal stands next to the house?
Find the red apple and give its box. Look at the photo and answer the question with a single word or phrase.
Locate the person who wears a hat. Can you see any food here? Who is holding the umbrella? Why do they look at it?
The quick brown fox jumps over the lazy dog. There are two of them on the table, one in front of the other, between
the man and the woman. Point to the object behind the chair, near the window, under the tree, over the water, inside
the room. List everything that you see, from left to right and from top to bottom. Yes or no? Explain your answer."""


def byte_level_bpe(corpus: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a lower-casing byte-level BPE on a corpus: any text has tokens.

    Parameters
    ----------
    corpus : iterable of str
    vocab_size : int
        At most; a small corpus has no more pairs to merge before.

    Returns
    -------
    PreTrainedTokenizerFast
        With the special tokens and the chat template of InternVL.

    Examples
    --------
    >>> from biaslab.grounder.tokens import byte_level_bpe
    >>> tokenizer = byte_level_bpe(["a cat", "the cat"] * 9, vocab_size=300)
    >>> tokenizer.decode(tokenizer("The CAT?")["input_ids"]).strip()
    'the cat?'
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    # Every piece of text between special tokens starts with one space: "<ref>cat" and "the cat" share a token.
    core.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Strip(left=True, right=False), normalizers.Prepend(" ")]
    )
    pieces = Regex(r"\[\[|\]\]|, | ?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+|\s+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=1024,
        extra_special_tokens={
            "start_image_token": "<img>", "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
        },
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
