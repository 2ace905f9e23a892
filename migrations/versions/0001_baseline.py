"""The whole schema, as it was when this revision was frozen."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from howdah.migrations.frozen import for_cell

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything, in the cell that keeps the version table."""
    cell = op.get_context().version_table_schema
    assert cell is not None
    script = for_cell(Path(__file__).with_suffix(".sql").read_text(), cell)
    # Without parameters it is sent as it is: many statements, and % means %.
    op.get_bind().execution_options(no_parameters=True).exec_driver_sql(script)
