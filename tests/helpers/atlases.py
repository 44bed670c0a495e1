"""What an atlas is built from."""

import pandas as pd


def removal_table(gain=0.05, lo=0.02, hi=0.08, p=0.01, layers=(1, 4), intervals=True):
    rows = []
    for layer in layers:
        same = {"layer": layer, "head": "mean", "n": 50}
        for location, shift in (("all", 0.0), ("top", -0.3)):
            rows.append({"location": location, "debias": "raw", "auroc": 0.6 + shift, **same})
            more = {"gain": gain, "gain_lo": lo, "gain_hi": hi, "p_adjusted": p} if intervals else {}
            rows.append({"location": location, "debias": "ratio", "auroc": 0.6 + shift + gain, **same, **more})
    return pd.DataFrame(rows)
