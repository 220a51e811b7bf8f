"""`python -m diptych`: the command line."""

from __future__ import annotations

import sys

from diptych.app.main import main

sys.exit(main())
