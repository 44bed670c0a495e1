"""Vision towers and their projectors, one file each; every module here registers itself."""

from biaslab._util.registry import import_all

import_all(__name__)
