"""The stock model's eager attention, the reference every captured row is compared with."""

from __future__ import annotations

from contextlib import contextmanager

from biaslab.models.encoded import text_after_image


@contextmanager
def eager(vlm):
    """The same model under transformers' eager attention, the only one that returns its weights."""
    vlm.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        vlm.model.set_attn_implementation("sdpa")


def eager_attention(vlm, enc):
    """(layers) of (B, H, N, N) from the stock model."""
    with eager(vlm):
        return vlm.forward(enc, output_attentions=True).attentions


def text_after(vlm, enc):
    """Positions (B, T) of the text after the image, and which are no fillers: the rows of ``queries="text"``."""
    return text_after_image(enc.inputs["input_ids"] == vlm.image_token_id, enc.inputs["attention_mask"])


def assert_rows_equal(rows, attention, query_rows, query_mask, columns, column_mask, tolerance=1e-4):
    """Sample by sample and query by query against the full matrix."""
    seen = 0
    for b in range(len(attention)):
        cols = columns[b][column_mask[b]]
        assert rows.mask[b].sum() == len(cols)
        for j in range(query_rows.shape[1]):
            assert bool(rows.query_mask[b, j]) == bool(query_mask[b, j])
            if query_mask[b, j]:
                expected = attention[b, :, query_rows[b, j]][:, cols]
                got = rows.values[b, :, j][:, rows.mask[b]]
                assert (got - expected).abs().max() <= tolerance
                seen += expected.sum().item()
            else:
                assert (rows.values[b, :, j] == 0).all()
        assert (rows.values[b][:, :, ~rows.mask[b]] == 0).all()
    assert seen > 1e-3, "the reference rows are not empty"
