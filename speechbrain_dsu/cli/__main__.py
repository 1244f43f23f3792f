"""``python -m speechbrain_dsu.cli``."""

import sys

from speechbrain_dsu.cli.main import main

sys.exit(main())
