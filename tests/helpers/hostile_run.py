"""A small run of the grounder whose texts try to be markup, for tests of reports."""

from dataclasses import replace

import biaslab as bl
from biaslab.datasets.base import content_hash

HOSTILE = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
STAGED = "divprune@0.4@2+fastv@0.06@4"


class Hostile:
    """Scenes of which the first has an expression and an id that are markup."""

    name, split = "sc\"ene's <b>", "test"

    def __init__(self, n=4):
        samples = list(bl.load_dataset("scenes", n=n))
        samples[0] = replace(samples[0], id="a \"b\" 'c' <i>.jpg", expression=f"elephant {HOSTILE}")
        self.samples = samples

    @property
    def hash(self):
        return content_hash(self.samples)

    def __len__(self):
        return len(self.samples)

    def __iter__(self):
        return iter(self.samples)


def hostile_run(vlm, out, **changes):
    """Evaluate four configurations on the hostile scenes."""
    arguments = {"methods": ["none", "random", "fastv", STAGED], "keep": 0.05, "layer": 4, "progress": False}
    return bl.evaluate(vlm, Hostile(), out=out, **(arguments | changes))
