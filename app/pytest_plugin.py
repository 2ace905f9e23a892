"""pytest fixtures for testing an app's workflows; who installs Howdah has them.

`howdah` is the kit, see `howdah.jobs.testing`. It needs to know the app: say ``howdah_app = tasks:app`` in pytest's
configuration, or give a fixture `howdah_app` of your own. A fixture `howdah_resources` of your own gives workflows what
they ask for with `run.resource`.

Every test run that has Howdah installed loads this module: what costs anything is imported by the fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from howdah.app.fresh_databases import FreshDatabases
    from howdah.jobs.app import App
    from howdah.jobs.testing import Kit

APP = "howdah_app"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(APP, "The app whose workflows the fixture `howdah` runs, as package.module:name.")


@pytest.fixture(scope="session")
def howdah_databases() -> Iterator[FreshDatabases]:
    """Databases on the server of DATABASE_URL, or on an embedded one that ends with the tests."""
    from howdah.app.fresh_databases import fresh_databases

    with fresh_databases() as databases:
        yield databases


@pytest.fixture
def howdah_app(pytestconfig: pytest.Config) -> App:
    """The app under test."""
    path = pytestconfig.getini(APP)
    if not path:
        raise pytest.UsageError(
            f"which app? Say `{APP} = package.module:name` in pytest's configuration, or give a fixture `{APP}`"
        )
    from howdah.app.worker_process import load_app

    return load_app(path)


@pytest.fixture
def howdah_resources() -> dict[type, Any]:
    """What workflows ask for with `run.resource`: nothing, unless it is overridden."""
    return {}


@pytest.fixture
def howdah_database_url(howdah_databases: FreshDatabases, howdah_app: App) -> Iterator[str]:
    """A database of this test's own, with the app's cell in it."""
    with howdah_databases.database(howdah_app.cell) as url:
        yield url


@pytest.fixture
def howdah(howdah_app: App, howdah_database_url: str, howdah_resources: dict[type, Any]) -> Iterator[Kit]:
    """The testing kit for the app."""
    from howdah.jobs.testing import Kit

    with Kit(howdah_app, howdah_database_url, resources=howdah_resources) as kit:
        yield kit
