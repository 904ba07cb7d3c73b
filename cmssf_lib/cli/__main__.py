"""``python -m cmssf_lib.cli`` is ``cmssf``."""

import sys

from cmssf_lib.cli import main

sys.exit(main())
