"""
Which words of a question a student looks at
============================================

The student of a conditional profile makes one query of the question, a weighted mean over its tokens. The words that
weigh most come first, then those that draw most of the rest, then the most frequent; the dotted line is the weight of a
token where all weigh alike. After 96 prompts and 15 epochs the template still weighs something.
"""

import tempfile

import biaslab as bl
from biaslab.figures import WordWeightsDisplay
from biaslab.profiles.lookahead.learned import question_tokens, word_weights

vlm = bl.load("grounder")
scenes = bl.calibration(vlm, "scenes", n=96)
rows = {"queries": "last", "heads": "all", "features": True}  # with what enters the decoder
maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, out=tempfile.mkdtemp(), progress=False, **rows)
profile = bl.LookaheadProfile(epochs=15, batch_size=16).fit(maps)
spelled = dict(zip([maps.record(i).id for i in range(maps.n)], question_tokens(vlm, scenes.prompts), strict=True))

WordWeightsDisplay.from_words(word_weights(profile, maps, spelled), profile=profile).plot()
