"""A conditional profile for tests: what stands out is relevant, and what the question points at a little."""

import pandas as pd
import torch


class Foresees:
    """As `biaslab.profiles.LookaheadProfile` foresees; it names and rates heads: beside maps, to serve every method."""

    heads_ = ((0, 1),)
    quality_ = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "quality": [0.0, 0.6, 1.0, 0.1]})

    def relevance(self, visual, text, layout, *, position=False):
        assert visual.shape[0] == layout.n and visual.shape[1] == text.shape[1]
        visual, text = visual.float(), text.float()
        return (visual - visual.mean(0)).norm(dim=1) + 0.01 * (visual * text.mean(0)).sum(1)


def said(n=7, width=16, seed=3):
    """Hidden states of a question."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
