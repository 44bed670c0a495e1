"""Which heads matter: criteria that rate decoder heads on calibration images, and how far they agree.

`of_maps.py`: by what heads attend to (quality, localization, auroc). `ablation.py`: by what the model's own answer
loses without them; `projections.py`: by where a step of its gradient moves them; `own_answers.py` is that answer.
`ratings.py` is what each criterion gives, `agreement.py` compares, `summary.py` says it.
"""
