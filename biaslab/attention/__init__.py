"""Inside the forward: attention rows of unmodified models, scores, rotary embedding, debias operations."""
