"""The demo app: one model in memory, a page for each visitor, served by Solara (docs/decisions/0006-serve.md)."""

import os
import tempfile

# Solara reads this when it is imported. Nothing is reported to anybody, and nothing is kept in the user's home.
os.environ.update(
    SOLARA_TELEMETRY_MIXPANEL_ENABLE="false",
    SOLARA_TELEMETRY_SERVER_USER_ID="none",
    SOLARA_HOME=tempfile.gettempdir(),
)
