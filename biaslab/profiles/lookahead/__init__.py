"""The parts of the conditional profile (`biaslab/profiles/estimators/lookahead.py`).

`teacher.py` makes of the attention of heads that look at something (`biaslab/profiles/quality.py`) what is to be
predicted, `student.py` predicts it from visual features and the question, `training.py` fits one to the other.
`foresight.py` asks it about one image, `learned.py` finds what it has learned from many; `summary.py` is of its card.
"""
