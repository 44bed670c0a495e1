"""A prompt that takes more positions than the model has is refused, by itself, before any work."""

from __future__ import annotations

import pytest
import tiny

from biaslab.errors import InputError
from biaslab.models.lengths import check_length, position_limit

LONG = " ".join(["the red circle"] * 400)


@pytest.fixture(params=tiny.FAMILIES, scope="module")
def vlm(request):
    return tiny.vlm(request.param, max_position_embeddings=700)


def test_too_long_a_text_is_refused_with_its_length(vlm):
    image, short = tiny.images(1)[0], "Where is it?"
    n = len(vlm.processor.tokenizer(LONG)["input_ids"])
    assert n > 700 and position_limit(vlm.model.config) == 700
    for run in (
        lambda: vlm.encode([image], [LONG]),
        lambda: vlm.encode_grounding([image], [LONG]),
        lambda: vlm.ask(image, LONG),
        lambda: vlm.locate(image, LONG),
        lambda: vlm.locate([image, image], [short, LONG]),
    ):
        with pytest.raises(InputError, match=r"takes \d+ positions .* the model has 700: shorten the text") as caught:
            run()
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="sample 'long' takes"):
        vlm.encode([image, image], [short, LONG], sample_ids=["short", "long"])
    vlm.encode([image], [short], sample_ids=["short"])  # by itself it is none


def test_the_limit_is_exact(vlm):
    encoded = tiny.encoded(vlm, 1)
    config = vlm.model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    spared = sum(x.placeholders - max(x.grid) for x in encoded.layouts) if "mrope_section" in rope else 0
    positions = encoded.last + 1 - spared
    for limit, fits in ((positions, True), (positions - 1, False)):
        before, config.max_position_embeddings = config.max_position_embeddings, limit
        try:
            if fits:
                check_length(encoded, vlm.model.config)
                vlm.forward(encoded)
            else:
                with pytest.raises(InputError, match=f"takes {positions} positions"):
                    check_length(encoded, vlm.model.config)
                with pytest.raises(InputError, match=f"takes {positions} positions"):
                    vlm.generate(encoded)  # prompts that were made elsewhere
        finally:
            config.max_position_embeddings = before


def test_mrope_positions_are_those_of_the_model():
    vlm = tiny.vlm("qwen2_5_vl")
    encoded, seen = tiny.encoded(vlm, 1), []
    hook = vlm.decoder.register_forward_pre_hook(
        lambda m, a, kw: seen.append(int(kw["position_ids"].max()) + 1), with_kwargs=True
    )
    vlm.forward(encoded)
    hook.remove()
    used = encoded.last + 1 + sum(max(x.grid) - x.placeholders for x in encoded.layouts)
    assert seen == [used] and used < encoded.last + 1


def test_a_stretched_rotary_embedding_has_more_positions():
    class Config:
        def __init__(self, **rope):
            self.max_position_embeddings, self.rope_parameters = 1000, rope

        def get_text_config(self):
            return self

    assert position_limit(Config(rope_type="default")) == 1000
    assert position_limit(Config(rope_type="dynamic", factor=2.0)) == 2000
    assert position_limit(Config(rope_type="yarn", factor=4.0, original_max_position_embeddings=500)) == 2000
    assert position_limit(Config(rope_type="llama3", factor=8.0, original_max_position_embeddings=100)) == 1000
