"""``python -m kafka_async``."""

import sys

from kafka_async.cli import main

sys.exit(main())
