"""Whether tests take their long form: more moments, more seconds (`make test-long`)."""

import os

LONG = os.environ.get("NYBBLE_LONG_TESTS") == "1"
