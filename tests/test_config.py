"""syncpoint.toml: what it says, and how a wrong one is refused. Not for: what the commands do with it (cli/)."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncpoint.config import (
    ResourceSettings,
    Settings,
    find_file,
    hide_secrets,
    load,
    parse_resource_option,
)
from syncpoint.errors import ConfigurationError

SECRET = "tr0ub4dor"


def write(folder: Path, text: str) -> str:
    file = folder / "syncpoint.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def refusal(folder: Path, text: str, environment: dict[str, str] | None = None) -> str:
    """What loading this text is refused with; the text names the file."""
    file = write(folder, text)
    with pytest.raises(ConfigurationError) as caught:
        load(file, environment or {})
    assert file in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_everything_it_can_say(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        [syncpoint]
        journal = "./journal"
        scope = "shop"
        timeout_s = 2.5

        [resources]
        audit = "memory://audit"

        [resources.bank]
        url = "postgresql://app:${BANK_PASSWORD}@localhost/bank"
        pool_size_max = 7
        """,
    )
    settings = load(file, {"BANK_PASSWORD": SECRET})
    assert settings == Settings(
        journal="./journal",
        scope="shop",
        timeout_s=2.5,
        resources={
            "audit": ResourceSettings(name="audit", url="memory://audit"),
            "bank": ResourceSettings(
                name="bank", url=f"postgresql://app:{SECRET}@localhost/bank", options={"pool_size_max": "7"}
            ),
        },
        file=file,
    )
    assert settings.resources["audit"].table() == "memory://audit"
    assert settings.resources["bank"].table() == {
        "url": f"postgresql://app:{SECRET}@localhost/bank",
        "pool_size_max": "7",
    }


def test_no_file_is_no_settings() -> None:
    assert load(None, {}) == Settings(journal=None, scope="", timeout_s=30.0, resources={}, file=None)


def test_an_empty_file_has_the_same_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    assert load(file, {}) == Settings(file=file)


# --- which file ----------------------------------------------------------------------------------------


def test_the_option_comes_first_then_the_variable_then_the_folder(tmp_path: Path) -> None:
    default = write(tmp_path, "")
    variable = {"SYNCPOINT_CONFIG": "/from/variable.toml"}
    assert find_file("given.toml", variable, str(tmp_path)) == "given.toml"
    assert find_file(None, variable, str(tmp_path)) == "/from/variable.toml"
    assert find_file(None, {"SYNCPOINT_CONFIG": ""}, str(tmp_path)) == default
    assert find_file(None, {}, str(tmp_path)) == default
    assert find_file(None, {}, str(tmp_path / "elsewhere")) is None


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no configuration file .*missing\.toml"):
        load(str(tmp_path / "missing.toml"), {})


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load(str(tmp_path), {})


@pytest.mark.parametrize("text", ["[syncpoint", "journal = ", 'a = "x"\na = "y"'])
def test_not_toml(tmp_path: Path, text: str) -> None:
    assert "is not valid TOML" in refusal(tmp_path, text)


def test_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "syncpoint.toml"
    file.write_bytes(b'[syncpoint]\njournal = "\xff"')
    with pytest.raises(ConfigurationError, match="it is not UTF-8 text"):
        load(str(file), {})


# --- unknown keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[syncpiont]", "the key syncpiont is not known. Did you mean syncpoint?"),
        ("[syncpoint]\njurnal = 'x'", "the key syncpoint.jurnal is not known. Did you mean syncpoint.journal?"),
        ("[syncpoint]\ntimeout = 3", "the key syncpoint.timeout is not known. Did you mean syncpoint.timeout_s?"),
        ("[syncpoint]\nzzz = 3", "the key syncpoint.zzz is not known. Known here: journal, scope, timeout_s."),
        ("[resources.bank]\nurll = 'x'", "the key resources.bank.urll is not known. Did you mean resources.bank.url?"),
        ("[resources.bank]\npool_size_max = 3", "resources.bank has no url."),
        (
            "[resources.bank]\nurl = 'memory://x'\npool_size = 3",
            "[resources.bank] The resource 'bank' has an unknown option 'pool_size'. Did you mean 'pool_size_max'?",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


# --- values of the wrong kind ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("syncpoint = 3", "syncpoint must be a table."),
        ("resources = []", "resources must be a table."),
        ("[syncpoint]\njournal = 3", "syncpoint.journal must be text."),
        ("[syncpoint]\njournal = ''", "syncpoint.journal is empty."),
        ("[syncpoint]\ntimeout_s = 0", "syncpoint.timeout_s must be a number of seconds above 0, at most 1e+09."),
        ("[syncpoint]\ntimeout_s = true", "syncpoint.timeout_s must be a number of seconds above 0, at most 1e+09."),
        ("[syncpoint]\ntimeout_s = nan", "syncpoint.timeout_s must be a number of seconds above 0, at most 1e+09."),
        ("[syncpoint]\ntimeout_s = inf", "syncpoint.timeout_s must be a number of seconds above 0, at most 1e+09."),
        ("[syncpoint]\ntimeout_s = '30'", "syncpoint.timeout_s must be a number of seconds above 0, at most 1e+09."),
        ("[resources]\nbank = 3", "resources.bank must be a URL, or a table with a url."),
        ("[resources]\nbank = ''", "resources.bank is empty."),
        ("[resources]\n'my bank' = 'memory://x'", "'my bank' cannot be a resource's name."),
        ("[resources.bank]\nurl = 'memory://x'\npool_size_max = [1]", "resources.bank.pool_size_max must be text,"),
        ("[resources.bank]\nurl = 'memory://x'\npool_size_max = 0", "must be a whole number above 0."),
        ("[resources.bank]\nurl = 'memory://x'\npool_size_max = '²'", "must be a whole number above 0."),
    ],
)
def test_a_value_of_the_wrong_kind(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


# --- variables ------------------------------------------------------------------------------------------


def journal_of(folder: Path, value: str, environment: dict[str, str]) -> str | None:
    return load(write(folder, f"[syncpoint]\njournal = '{value}'"), environment).journal


def test_variables_are_replaced_once(tmp_path: Path) -> None:
    environment = {"A": "x", "B": "${A}", "EMPTY": ""}
    assert journal_of(tmp_path, "${A}/${B}${EMPTY}", environment) == "x/${A}"
    assert journal_of(tmp_path, "$${A}/$A/$", environment) == "${A}/$A/$"


def test_a_missing_variable_names_the_key_and_the_variable_and_no_value(tmp_path: Path) -> None:
    message = refusal(tmp_path, f"[resources.bank]\nurl = 'postgresql://app:{SECRET}@h/${{NAME}}'", {"OTHER": SECRET})
    assert "resources.bank.url needs the environment variable NAME, which is not set." in message


@pytest.mark.parametrize("value", ["${}", "${a b}", "${1A}"])
def test_no_variable_name(tmp_path: Path, value: str) -> None:
    assert "Write ${NAME}." in refusal(tmp_path, f"[syncpoint]\njournal = '{value}'")


def test_an_empty_variable_makes_no_url(tmp_path: Path) -> None:
    assert "resources.bank is empty." in refusal(tmp_path, "[resources]\nbank = '${URL}'", {"URL": ""})


# --- secrets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://app:{}@host/bank", "postgresql://app:***@host/bank"),
        ("postgresql://:{}@host/bank", "postgresql://:***@host/bank"),
        ("postgresql://app@host/bank", "postgresql://app@host/bank"),
        ("postgresql://host:5432/bank", "postgresql://host:5432/bank"),
        ("postgresql://app:{}@w/@host/bank", "postgresql://app:***@host/bank"),
        ("postgresql://app:a/{}@host/bank", "postgresql://app:***@host/bank"),
        ("postgresql://host/bank?password={}&user=app", "postgresql://host/bank?password=***&user=app"),
        ("postgresql://host/bank?user=app&sslpassword={}", "postgresql://host/bank?user=app&sslpassword=***"),
        ("mariadb://host/bank?ssl_key_PassPhrase={}", "mariadb://host/bank?ssl_key_PassPhrase=***"),
        ("sqlite:///folder/audit.db", "sqlite:///folder/audit.db"),
        ("sqlite:///folder/a@b.db", "sqlite:///folder/a@b.db"),
        ("./journal", "./journal"),
    ],
)
def test_secrets_are_hidden(url: str, shown: str) -> None:
    assert hide_secrets(url.format(SECRET)) == shown


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f"""
        [syncpoint]
        journal = "postgresql://app:{SECRET}@host/bank"
        [resources.bank]
        url = "postgresql://app:{SECRET}@host/bank"
        pool_size_max = 3
        """,
    )
    shown = repr(load(file, {}))
    assert SECRET not in shown
    assert shown == (
        f"<Settings {file} journal=postgresql://app:***@host/bank "
        "resources=[<ResourceSettings bank postgresql://app:***@host/bank options=['pool_size_max']>]>"
    )


# --- --resource name=url ----------------------------------------------------------------------------------


def test_the_resource_option() -> None:
    found = parse_resource_option("bank=postgresql://host/bank?a=b")
    assert (found.name, found.url) == ("bank", "postgresql://host/bank?a=b")


@pytest.mark.parametrize(
    "text", ["bank", "bank=", "=memory://x", f"postgresql://app:{SECRET}@h/b?a=b", "a b=memory://x"]
)
def test_a_wrong_resource_option(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_resource_option(text)
    assert SECRET not in str(caught.value)
