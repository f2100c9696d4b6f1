"""``python -m prov4ml``."""

import sys

from prov4ml.cli import main

sys.exit(main())
