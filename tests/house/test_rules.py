"""The static checks of our own find what they are for, and the code as it is has nothing of it (P01 to P03)."""

import re
import tomllib

import pytest

from tests.static import rules, spills, supply

pytestmark = pytest.mark.sqlite_only
SERVICES = "apps/registry/services/servers.py"
BREAKS = {
    "raw requests": ("import requests", "is a way out of its own"),
    "raw httpx": ("from httpx import AsyncClient", "is a way out of its own"),
    "raw urllib": ("from urllib import request", "is a way out of its own"),
    "an unscoped get": ("Server.objects.get(pk=server_id)", "start with for_org"),
    "an unscoped get behind a filter": ("Server.objects.filter(slug=slug).select_related('owner').get()", "for_org"),
    "an unscoped shortcut": ("get_object_or_404(Server, pk=server_id)", "start with for_org"),
    "an unscoped first": ("Capability.objects.order_by('name').first()", "start with for_org"),
    "an unscoped aget": ("await Server.objects.aget(pk=server_id)", "start with for_org"),
    "an environment of Jinja": ("Environment()", "runs what a template says"),
    "a sandbox of Jinja": ("jinja2.sandbox.SandboxedEnvironment(loader)", "runs what a template says"),
    "a shell": ("subprocess.run(command, shell=True)", "A shell reads"),
    "a shell, perhaps": ("subprocess.run(command, shell=is_text)", "A shell reads"),
    "a shell by os": ("os.system(command)", "A shell reads"),
    "no check of certificates": ("session.get(url, ssl=False)", "not checked"),
    "no context either": ("ssl._create_unverified_context()", "not checked"),
}
GOOD = (
    "Server.objects.for_org(actor.organization_id).get(pk=server_id)",
    "Server.objects.get(pk=server_id, organization_id=actor.organization_id)",
    "Server.objects.filter(organization=organization).first()",
    "User.objects.get(pk=user_id)",
    "Environment(environment).label",
    "subprocess.run([program, argument], shell=False)",
    "from urllib.parse import urlsplit",
    "Server.objects.get(pk=pk)  # allowed: the row was found by its organisation above",
    "# allowed: the row was found by its organisation above\nServer.objects.get(pk=pk)",
)


@pytest.mark.parametrize("name", BREAKS)
def test_each_rule_finds_a_planted_break(name):
    line, why = BREAKS[name]

    problems = rules.find_problems(SERVICES, f"async def planted():\n    {line}\n")

    assert [(each.line, why in each.why) for each in problems] == [(2, True)]


@pytest.mark.parametrize("line", GOOD)
def test_a_rule_leaves_good_code_alone(line):
    assert rules.find_problems(SERVICES, line) == []


def test_only_the_guarded_way_out_may_use_a_client():
    assert rules.find_problems(rules.GUARDED, "import aiohttp") == []
    assert rules.find_problems("config/support.py", "import aiohttp") != []


def test_the_models_of_organisations_are_known_from_the_source():
    from tests.house.tenants import tenant_models

    assert {model.__name__ for model in tenant_models()} <= rules.tenant_models()


def test_the_code_keeps_every_rule(capsys):
    assert (rules.main(), capsys.readouterr().out.strip()) == (0, "")


# What is shipped ---------------------------------------------------------------------------------------------------

HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(("lock", "why"), [
    ("django==5.2.19 \\\n    # via gatehouse\n", "django has no hash"),
    (f"django>=5.2 \\\n    --hash={HASH}\n", "is no exact version"),
    (f"--index-url https://packages.example\ndjango==5.2.19 \\\n    --hash={HASH}\n", "names an index"),
    (f"django @ https://packages.example/django.whl \\\n    --hash={HASH}\n", "names an index"),
    ("# nothing\n", "locks nothing"),
])  # fmt: skip
def test_a_lock_without_a_hash_or_with_an_index_is_refused(lock, why):
    assert any(why in each for each in supply.lock_problems("requirements.lock", lock))
    assert list(supply.lock_problems("x", f"django==5.2.19 \\\n    --hash={HASH}\n")) == []


@pytest.mark.parametrize("lock", supply.LOCKS, ids=lambda path: path.name)
def test_every_package_is_locked_with_its_hashes(lock):
    assert list(supply.lock_problems(lock.name, lock.read_text())) == []
    assert len(list(supply.pins(lock.read_text()))) >= (100 if "uv" not in lock.name else 1)


@pytest.mark.parametrize(("expression", "allowed"), [
    ("MIT", True), ("MIT OR GPL-3.0-only", True), ("MIT AND (Apache-2.0 OR BSD-3-Clause)", True),
    ("GPL-3.0-only", False), ("MIT AND GPL-3.0-only", False), ("AGPL-3.0-or-later", False), ("", False),
    ("Proprietary words", False),
])  # fmt: skip
def test_a_licence_is_allowed_when_one_of_its_choices_is(expression, allowed):
    assert supply.is_allowed(expression) is allowed


def test_another_version_and_a_foreign_licence_are_named():
    found = [
        {"name": "Django", "version": "5.2.18", "licenses": [{"license": {"id": "BSD-3-Clause"}}]},
        {"name": "copyleft", "version": "1", "licenses": [{"expression": "AGPL-3.0-only"}]},
        {"name": "nameless", "version": "1"},
    ]
    problems = list(supply.component_problems(found, {"django": "5.2.19", "copyleft": "1", "nameless": "1"}))

    assert [each.partition(":")[0].partition(" ")[0] for each in problems] == ["django", "copyleft", "nameless"]


def test_everything_that_we_build_on_has_a_lowest_version():
    project = tomllib.loads((supply.PROJECT / "pyproject.toml").read_text())["project"]

    assert [each for each in project["dependencies"] if not re.search(r">=|==", each)] == []


def test_the_image_gets_what_it_runs_and_nothing_else():
    kept = {line[1:] for line in (supply.PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert "*" in (supply.PROJECT / ".dockerignore").read_text().splitlines()
    assert kept == {
        "apps", "config", "static", "templates", "manage.py", "docker-entrypoint.sh", "pyproject.toml",
        "requirements.lock", "LICENSE",
    }  # fmt: skip
    assert all((supply.PROJECT / name).exists() for name in kept)


# Secrets -----------------------------------------------------------------------------------------------------------

# Put together here, so that this file has none of them.
SPILLS = {
    "a key of AWS": 'KEY = "AKI' + "A" + "Z" * 3 + 'QWERTYUIOPASD"',
    "a token of GitHub": "TOKEN = 'gh" + "p_" + "A1b2C3d4E5" * 3 + "A1b2C3'",
    "a password in a URL": "postgres://gate:" + "Tr0ub4dor3" + "@db.example/gate",
    "a whole private key": "-----BEGIN RSA " + "PRIVATE KEY-----\n" + ("A1b2C3d4" * 8 + "\n") * 6,
}


@pytest.mark.parametrize("name", SPILLS)
@pytest.mark.parametrize("folder", ["config", "tests"])
def test_a_planted_secret_is_found(name, folder, tmp_path):
    file = tmp_path / "planted.py"
    file.write_text(f"# a line\n{SPILLS[name]}\n")

    assert list(spills.find_spills(file, f"{folder}/planted.py"))


def test_a_password_in_our_code_is_found_and_a_sentence_about_one_is_not(tmp_path):
    file = tmp_path / "planted.py"
    for text, found in (("Tr0ub4dor3x9", 1), ("At least twelve characters.", 0), ("hunter2", 0)):
        file.write_text(f'PASSWORD = "{text}"\n')
        assert len(list(spills.find_spills(file, "config/planted.py"))) == found, text
