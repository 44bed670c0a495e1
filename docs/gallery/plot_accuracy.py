"""
Accuracy against the share of tokens kept
=========================================

A run over 24 expressions: no pruning and three methods at three budgets. With so few expressions the intervals
overlap, and that is what the figure is for: to show it.
"""

import biaslab as bl

vlm = bl.load("grounder")
results = bl.evaluate(
    vlm,
    bl.load_dataset("scenes", split="test", n=24),
    methods=["none", "random", "fastv", "divprune"],
    keep=[0.2, 0.1, 0.05],
    layer=4,
    batch_size=24,
    progress=False,
)

bl.AccuracyDisplay.from_results(results).plot()

# %%
# The same numbers as a table: accuracy with its interval over images, and the share of the unpruned accuracy that is
# kept.

shown = ["method", "keep", "n", "acc50", "acc50_lo", "acc50_hi", "retention"]
results.table.query("expression_type == 'all'")[shown].round(3)
