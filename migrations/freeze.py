"""`python -m howdah.migrations.freeze`: write the baseline anew from `sql/`. Only before the first release."""

from __future__ import annotations

from pathlib import Path

from howdah.migrations.frozen import freeze

BASELINE = Path(__file__).parent / "versions" / "0001_baseline.sql"

if __name__ == "__main__":
    BASELINE.write_text(freeze())
