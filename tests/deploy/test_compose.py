"""deploy/compose.yaml: what starts after what, what can be reached, and how long each may take to stop."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from howdah.app.cli import cli
from howdah.app.settings import load_settings
from tests.deploy.compose_file import COMPOSE, OURS, interpolate, read_compose, service_environment
from tests.deploy.images import DEPLOY, TOP

# Writing outcomes, letting authors' `finally` blocks end and handing runs back comes after the shutdown seconds.
TIME_TO_HAND_BACK = 5


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = read_compose()["services"]
    return found


@pytest.fixture
def compose() -> list[str]:
    """Docker's compose on our file: the plugin, or the program of old that Debian has."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "version"], check=False, capture_output=True).returncode
        ):
            return [*command, "-f", str(COMPOSE)]
    reason = "neither docker's compose plugin nor docker-compose is installed"
    if os.environ.get("HOWDAH_FORBID_SKIPS"):
        pytest.fail(f"{reason}, and HOWDAH_FORBID_SKIPS forbids leaving this test out")
    pytest.skip(reason)


def environment_of(**variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables}


def test_docker_compose_takes_the_file(compose: list[str]) -> None:
    shown = subprocess.run(
        [*compose, "config"],
        capture_output=True,
        text=True,
        check=True,
        env=environment_of(POSTGRES_PASSWORD="secret"),
    )
    assert set(yaml.safe_load(shown.stdout)["services"]) == {"database", *OURS}


def test_docker_compose_refuses_to_start_without_a_password(compose: list[str]) -> None:
    refused = subprocess.run([*compose, "config"], check=False, capture_output=True, text=True, env=environment_of())
    assert refused.returncode != 0
    assert "POSTGRES_PASSWORD" in refused.stderr


@pytest.mark.parametrize("service", ["database", *OURS])
def test_nothing_starts_without_a_password(service: str) -> None:
    with pytest.raises(KeyError, match="POSTGRES_PASSWORD"):
        service_environment(service, {})


def test_no_secret_is_written_in_the_file(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name or name.endswith("_KEY"):
                assert value.startswith("${"), f"{name} has the value {value!r}"


@pytest.mark.parametrize("service", OURS)
def test_our_processes_are_told_where_the_database_is(services: dict[str, Any], service: str) -> None:
    environment = service_environment(service, {"POSTGRES_PASSWORD": "secret"})
    database = service_environment("database", {"POSTGRES_PASSWORD": "secret"})
    user, name = database["POSTGRES_USER"], database["POSTGRES_DB"]
    assert environment["DATABASE_URL"] == f"postgresql://{user}@database:5432/{name}"
    assert environment["PGPASSWORD"] == database["POSTGRES_PASSWORD"]


@pytest.mark.parametrize("service", OURS)
def test_an_empty_environment_makes_usable_settings(service: str) -> None:
    load_settings(service_environment(service, {"POSTGRES_PASSWORD": "secret"}))


def test_the_migration_waits_for_the_database(services: dict[str, Any]) -> None:
    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert "pg_isready" in services["database"]["healthcheck"]["test"]


@pytest.mark.parametrize("service", ["api", "worker"])
def test_nothing_serves_before_the_migration_is_done(services: dict[str, Any], service: str) -> None:
    assert services[service]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_a_migration_runs_once(services: dict[str, Any]) -> None:
    assert services["migrate"].get("restart", "no") == "no"


@pytest.mark.parametrize("service", ["api", "worker"])
def test_nothing_is_killed_before_its_shutdown_seconds_are_over(services: dict[str, Any], service: str) -> None:
    settings = load_settings(service_environment(service, {"POSTGRES_PASSWORD": "secret"}))
    grace = services[service]["stop_grace_period"]
    assert grace.endswith("s")
    assert int(grace[:-1]) >= settings.shutdown_seconds + TIME_TO_HAND_BACK


def test_only_the_api_can_be_reached_and_only_from_this_machine(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"api"}
    assert all(port.startswith("127.0.0.1:") for port in published["api"])
    assert all("network_mode" not in service for service in services.values())


def test_each_api_process_has_a_port(services: dict[str, Any]) -> None:
    _, published, inside = interpolate(services["api"]["ports"][0], {}).split(":")
    first, last = map(int, published.split("-"))
    assert last - first + 1 == services["api"]["deploy"]["replicas"]
    assert inside == "8000"


@pytest.mark.parametrize("service", OURS)
def test_our_processes_have_no_rights_to_lose(services: dict[str, Any], service: str) -> None:
    assert services[service]["read_only"] is True
    assert services[service]["cap_drop"] == ["ALL"]
    assert "privileged" not in services[service]


@pytest.mark.parametrize("service", OURS)
def test_each_command_is_one_of_howdahs(services: dict[str, Any], service: str) -> None:
    assert services[service]["command"][0] in cli.commands


@pytest.mark.parametrize("service", ["migrate", "worker"])
def test_what_serves_no_http_is_not_asked_for_its_health_by_http(services: dict[str, Any], service: str) -> None:
    assert services[service]["healthcheck"] == {"disable": True}


def test_files_that_it_names_exist(services: dict[str, Any]) -> None:
    for service in OURS:
        build = services[service]["build"]
        assert (DEPLOY / build["context"]).resolve() == TOP
        assert (TOP / build["dockerfile"]).is_file()
    mounted = [volume.split(":")[0] for volume in services["database"]["volumes"]]
    assert all((DEPLOY / path).is_file() for path in mounted if path.startswith("."))
    assert {path for path in mounted if not path.startswith(".")} == set(read_compose()["volumes"])


def test_images_of_others_are_named_by_a_version(services: dict[str, Any]) -> None:
    tag = services["database"]["image"].partition(":")[2]
    assert tuple(map(int, tag.split("-")[0].split("."))) >= (0, 8, 4)
