import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other, and xdist runs several processes


@pytest.fixture(scope="session")
def grounder():
    """The embedded grounder, loaded once per process."""
    import biaslab as bl

    return bl.load("grounder")
