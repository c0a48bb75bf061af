"""The settings: what is wrong is said at the start, by the variable's name."""

from typing import get_type_hints

import pytest

from payments import config

URL = {"PAYMENTS_DATABASE_URL": "postgresql://payments_app@host/payments"}


def test_defaults() -> None:
    settings = config.load(URL)
    assert settings.database_url == URL["PAYMENTS_DATABASE_URL"]
    assert settings.http_port == 8000
    assert settings.metrics_port == 9464
    assert settings.body_limit_bytes == 64 * 1024
    assert settings.header_limit_bytes == 16 * 1024
    assert settings.header_limit_fields == 64
    assert settings.header_timeout_seconds == 10
    assert settings.body_timeout_seconds == 30
    assert settings.request_timeout_seconds == 5
    assert settings.keep_alive_seconds > 60  # the load balancer's idle time
    assert settings.key_refresh_seconds <= 30
    assert settings.authentication is True
    assert config.check(settings) is settings


def test_every_setting_says_what_it_is() -> None:
    for field, kind in get_type_hints(config.Settings, include_extras=True).items():
        assert any(getattr(meta, "description", None) for meta in kind.__metadata__), field


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("PAYMENTS_DATABASE_URL", "postgres://host", "postgres://host"),
        ("PAYMENTS_DATABASE_URL", "postgresql://@/x?host=%2Ftmp", "postgresql://@/x?host=%2Ftmp"),
        ("PAYMENTS_DATABASE_URL", "postgresql://u@a:1,b:2/x", "postgresql://u@a:1,b:2/x"),
        ("PAYMENTS_DATABASE_URL", "postgresql://u@[::1]:5432/x", "postgresql://u@[::1]:5432/x"),
        ("PAYMENTS_HTTP_PORT", "1234", 1234),
        ("PAYMENTS_HTTP_HOST", "::1", "::1"),
        ("PAYMENTS_KEEP_ALIVE_SECONDS", "80", 80.0),
        ("PAYMENTS_LOCK_TIMEOUT_SECONDS", "0.5", 0.5),
        ("PAYMENTS_AUTHENTICATION", "false", False),
        ("PAYMENTS_AUTHENTICATION", "true", True),
        ("PAYMENTS_LOG_LEVEL", "DEBUG", "DEBUG"),
        ("PAYMENTS_SHUTDOWN_DELAY_SECONDS", "0", 0.0),
        ("PAYMENTS_LOG_SAMPLE_RATIO", "0", 0.0),
        ("PAYMENTS_OTLP_ENDPOINT", "http://collector:4318", "http://collector:4318"),
    ],
)
def test_values(variable: str, text: str, value: object) -> None:
    settings = config.load({**URL, variable: text})
    assert getattr(settings, variable.removeprefix("PAYMENTS_").lower()) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PAYMENTS_DATABASE_URL", ""),
        ("PAYMENTS_DATABASE_URL", "nonsense"),
        ("PAYMENTS_DATABASE_URL", "mysql://host/payments"),
        ("PAYMENTS_DATABASE_URL", "postgresql://user@host:port/payments"),
        ("PAYMENTS_DATABASE_URL", "postgresql://user@host:99999/payments"),
        ("PAYMENTS_DATABASE_URL", "postgresql://user@[::1/payments"),
        ("PAYMENTS_HTTP_HOST", ""),
        ("PAYMENTS_HTTP_HOST", "127.0.0.1 "),
        ("PAYMENTS_HTTP_HOST", "é"),
        ("PAYMENTS_HTTP_PORT", ""),
        ("PAYMENTS_HTTP_PORT", "http"),
        ("PAYMENTS_HTTP_PORT", "-1"),
        ("PAYMENTS_HTTP_PORT", "65536"),
        ("PAYMENTS_HTTP_PORT", "80.5"),
        ("PAYMENTS_METRICS_PORT", "x"),
        ("PAYMENTS_AUTHENTICATION", "maybe"),
        ("PAYMENTS_AUTHENTICATION", ""),
        ("PAYMENTS_LOG_LEVEL", "info"),
        ("PAYMENTS_LOG_SAMPLE_RATIO", "1.5"),
        ("PAYMENTS_OTLP_ENDPOINT", "collector:4318"),
        ("PAYMENTS_LOG_LEVEL", "LOUD"),
        ("PAYMENTS_POOL_SIZE", "0"),
        ("PAYMENTS_BATCH_SIZE", "-1"),
        ("PAYMENTS_BODY_LIMIT_BYTES", "64KiB"),
        ("PAYMENTS_REQUEST_TIMEOUT_SECONDS", "0"),
        ("PAYMENTS_REQUEST_TIMEOUT_SECONDS", "nan"),
        ("PAYMENTS_REQUEST_TIMEOUT_SECONDS", "inf"),
        ("PAYMENTS_KEEP_ALIVE_SECONDS", "-5"),
        ("PAYMENTS_KEEP_ALIVE_SECONDS", "1e9"),
        ("PAYMENTS_KEY_REFRESH_SECONDS", "31"),
        ("PAYMENTS_PORT", "8000"),
        ("PAYMENTS_DATABASE_ULR", "postgresql://host/payments"),
        ("PAYMENTS_", "x"),
    ],
)
def test_a_bad_value_is_named(variable: str, text: str) -> None:
    with pytest.raises(config.SettingsError, match=f"{variable}(?![A-Z])"):
        config.load({**URL, variable: text})


def test_what_kubernetes_sets_for_a_service_of_this_name_is_no_setting() -> None:
    links = {
        "PAYMENTS_SERVICE_HOST": "10.96.0.7",
        "PAYMENTS_SERVICE_PORT": "80",
        "PAYMENTS_SERVICE_PORT_HTTP": "80",
        "PAYMENTS_PORT": "tcp://10.96.0.7:80",
        "PAYMENTS_PORT_80_TCP": "tcp://10.96.0.7:80",
        "PAYMENTS_PORT_80_TCP_ADDR": "10.96.0.7",
    }
    assert config.load(URL | links) == config.load(URL)


def test_the_database_must_be_given() -> None:
    with pytest.raises(config.SettingsError, match="PAYMENTS_DATABASE_URL is not set"):
        config.load({"PAYMENTS_HTTP_PORT": "80", "HOME": "/"})


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("LOCK_TIMEOUT", "STATEMENT_TIMEOUT"),
        ("STATEMENT_TIMEOUT", "COMMAND_TIMEOUT"),
        ("CONNECT_TIMEOUT", "ACQUIRE_TIMEOUT"),
        ("ACQUIRE_TIMEOUT", "REQUEST_TIMEOUT"),
        ("COMMAND_TIMEOUT", "REQUEST_TIMEOUT"),
    ],
)
def test_each_wait_is_shorter_than_the_one_around_it(inner: str, outer: str) -> None:
    field = f"{outer.lower()}_seconds"
    same = str(getattr(config.load(URL), field))
    with pytest.raises(config.SettingsError) as raised:
        config.load({**URL, f"PAYMENTS_{inner}_SECONDS": same})
    assert f"PAYMENTS_{inner}_SECONDS" in str(raised.value)
    assert f"PAYMENTS_{outer}_SECONDS" in str(raised.value)


def test_a_password_is_not_repeated() -> None:
    for environ in (
        {"PAYMENTS_DATABASE_URL": "mysql://user:hunter2@host/payments"},
        {"PAYMENTS_DATABASE_URL": "postgresql://user:hunter2@host/x", "PAYMENTS_HTTP_PORT": "x"},
        {"PAYMENTS_DATABASE_URL": "hunter2"},
        {"PAYMENTS_DATABASE_URL": "postgresql://user:hunter2/@host/x"},
    ):
        with pytest.raises(config.SettingsError) as raised:
            config.load(environ)
        assert "hunter2" not in str(raised.value)
