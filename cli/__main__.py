"""`python -m cli` is `kvstore`."""

import sys

from cli.main import main

sys.exit(main())
