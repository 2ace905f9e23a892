"""How the page's files are served, and that they are where they are needed: in the wheel too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns
from zipfile import ZipFile

import httpx
import pytest

from howdah.app.dashboard.page import MEDIA_TYPES
from tests.app.api_servers import client_for

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "app" / "dashboard"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix.removeprefix(".") in MEDIA_TYPES)
MAX_LINES = 250


@pytest.fixture
def stranger(api_url: str) -> httpx.Client:
    """A client without a key."""
    return client_for(api_url, None)


def test_the_page_needs_no_key_and_forbids_all_that_is_not_ours(stranger: httpx.Client) -> None:
    for path in ("/", *(f"/dashboard/{name}" for name in FILES)):
        response = stranger.get(path)
        assert response.status_code == 200, path
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
    assert stranger.get("/").headers["content-type"] == "text/html; charset=utf-8"
    assert stranger.get("/dashboard/main.js").headers["content-type"] == "text/javascript; charset=utf-8"


def test_a_file_is_sent_again_only_when_it_has_changed(stranger: httpx.Client) -> None:
    first = stranger.get("/dashboard/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = stranger.get("/dashboard/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = stranger.get("/dashboard/main.js", headers={"If-None-Match": '"of another release"'})
    assert (other.status_code, other.content) == (200, first.content)


def test_nothing_else_of_the_folder_is_served(stranger: httpx.Client) -> None:
    for name in ("page.py", "__init__.py", "..%2fup.py", "nothing.js"):
        assert stranger.get(f"/dashboard/{name}").status_code == 404, name


def test_what_the_page_and_its_modules_name_is_there() -> None:
    page = (FOLDER / "index.html").read_text()
    named = re.findall(r'(?:src|href)="/dashboard/([^"]+)"', page)
    for module in FOLDER.glob("*.js"):
        named += re.findall(r'from "\./([^"]+)"', module.read_text())
    assert set(named) | {"index.html"} == set(FILES)


def test_no_module_reads_text_as_markup_or_is_long() -> None:
    for module in FOLDER.glob("*.js"):
        text = module.read_text()
        assert len(text.splitlines()) < MAX_LINES, module.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), module.name
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


@pytest.mark.long
def test_the_wheel_has_every_file_of_the_page(tmp_path: Path) -> None:
    # From a copy: what an earlier build left behind must not be in the wheel.
    source = copytree(ROOT, tmp_path / "source", ignore=ignore_patterns(".*", "build", "report"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("howdah-*.whl")
    inside = set(ZipFile(wheel).namelist())
    assert {f"howdah/app/dashboard/{name}" for name in (*FILES, "page.py")} <= inside
