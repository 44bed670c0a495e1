"""
One image, before and after division by the profile
===================================================

The attention of the prompt's last token over the image, as it is and divided by what the profile expects of each
place. The target is outlined.
"""

import biaslab as bl

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=32)
profile = bl.MeanProfile().fit(bl.collect(vlm, scenes.images, prompt=scenes.prompts, layers=[4], progress=False))

samples = list(bl.load_dataset("scenes", split="test", n=2))
images = [sample.image() for sample in samples]
encoded = vlm.encode_grounding(images, [sample.expression for sample in samples])
with bl.capture(vlm, layers=[4], queries="last") as rows:
    vlm.forward(encoded)

bl.AttentionDisplay.from_attention(
    images,
    encoded.layouts,
    list(rows[4].values.mean((1, 2))),  # (batch, heads, queries, visual tokens), over heads and queries
    profile=profile,
    layer=4,
    targets=[sample.box for sample in samples],
    titles=[sample.expression for sample in samples],
).plot()
