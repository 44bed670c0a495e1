import pytest
from planted_maps import ONE, planted, u_shape


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """24 images of 2 heads and 2 layers whose rows are U-shaped."""
    return planted(tmp_path_factory.mktemp("maps"), [(ONE, 24)], u_shape, heads=2, layers=(1, 4))
