"""Django's settings; every value that differs between installations comes from env.py."""

import os
import shlex
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.urls import reverse_lazy

from apps.core.keyfiles import KeyFile, KeyFileMapping, parse_sealing_keys
from config.env import BASE_DIR, SECRET_VARIABLES, env

ENV = env()

# Who we are ------------------------------------------------------------------------------------------------------

VERSION = "0.1.0"
SECRET_KEY = ENV.secret_key
DEBUG = ENV.dev
PUBLIC_URL = ENV.base_url
DATA_DIR = ENV.data
MCP_PATH = "/mcp"
_LOCAL_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
ALLOWED_HOSTS = [*dict.fromkeys([urlsplit(PUBLIC_URL).hostname or "", *ENV.allowed_hosts, *_LOCAL_HOSTS])]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
ASGI_APPLICATION = "config.asgi.application"
APPEND_SLASH = True

INSTALLED_APPS = [
    *(["daphne"] if ENV.dev else []),
    "config.apps.ConfigConfig",
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "config.apps.StaffAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_beat",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "apps.core",
    "apps.audit",
    "apps.secrets",
    "apps.auth",
    "apps.jobs",
    "apps.usage",
    "apps.policies",
    "apps.registry",
    "apps.gateway",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.middleware.RequestMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "config.middleware.StaffMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# Where things are kept -------------------------------------------------------------------------------------------

WEB_THREADS = ENV.web_threads
CONNECTION_SECONDS = 300
LOCK_MILLISECONDS = 10_000
IDLE_MILLISECONDS = 60_000
REDIS_SECONDS = 1.0


def _database(url: str | None) -> dict[str, Any]:
    parts = urlsplit(url or f"sqlite:///{ENV.data / 'gatehouse.sqlite3'}")
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": parts.path if url else str(ENV.data / "gatehouse.sqlite3"),
            "CONN_MAX_AGE": CONNECTION_SECONDS,
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-8000;",
            },
            "TEST": {"NAME": str(ENV.data / "test.sqlite3")},
        }
    return {
        "ENGINE": "config.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or 5432),
        "CONN_MAX_AGE": CONNECTION_SECONDS,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "application_name": "gatehouse",
            "connect_timeout": 5,
            # A server that is gone without a word is noticed in a quarter of a minute, not in a quarter of an hour.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 2,
            "tcp_user_timeout": 15_000,
            "options": " ".join(
                f"-c {name}={milliseconds}"
                for name, milliseconds in {
                    "statement_timeout": round(ENV.database_statement_seconds * 1000),
                    "lock_timeout": LOCK_MILLISECONDS,
                    "idle_in_transaction_session_timeout": IDLE_MILLISECONDS,
                }.items()
            ),
        },
    }


DATABASES = {"default": _database(ENV.database_url)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"


def _cache(url: str | None) -> dict[str, Any]:
    if not url:
        return {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # Whoever waits for a Redis that is away holds a thread that others need.
    patience = {
        "socket_connect_timeout": REDIS_SECONDS,
        "socket_timeout": REDIS_SECONDS,
        "retry": Retry(NoBackoff(), 1),
    }
    return {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": url,
        "KEY_PREFIX": "gatehouse",
        "OPTIONS": patience,
    }


CACHES: dict[str, dict[str, Any]] = {"default": _cache(ENV.redis_url)}

# Who may come in -------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["apps.auth.authentication.PasswordBackend"]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
KEY_PEPPERS = {1: ENV.key_pepper}
JOURNAL_KEY = ENV.journal_key
SIGNING_KEY = ENV.signing_key
# Where the keys lie that a command may rotate while we run; None: they were given, and change with a restart.
SIGNING_KEY_FILE: Path | None = ENV.kept.get("GATEHOUSE_SIGNING_KEY")
_sealing_keys_file = ENV.kept.get("GATEHOUSE_SEALING_KEYS")
SEALING_KEYS: Mapping[int, bytes] = (
    KeyFileMapping(KeyFile(_sealing_keys_file, parse_sealing_keys)) if _sealing_keys_file else ENV.sealing_keys
)
ACCESS_TOKEN_LIFETIME = timedelta(minutes=15)
REFRESH_TOKEN_LIFETIME = timedelta(days=7)
TOKEN_LEEWAY_SECONDS = 0
REST_AUDIENCE = f"{PUBLIC_URL}/api"
MCP_AUDIENCE = f"{PUBLIC_URL}{MCP_PATH}"
MCP_SSE = ENV.mcp_sse
LOGIN_FAILURES = 5
LOGIN_LOCK_SECONDS = 300
REQUIRE_SECOND_FACTOR = ENV.require_second_factor
CONFIRM_SECONDS = ENV.confirm_seconds
TRUSTED_PROXIES = ENV.trusted_proxies

SESSION_ENGINE = "apps.auth.authentication"
SESSION_COOKIE_AGE = 7 * 24 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
_IS_HTTPS = PUBLIC_URL.startswith("https://")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _IS_HTTPS
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
CSRF_FAILURE_VIEW = "config.urls.refuse_forgery"
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 31_536_000 if _IS_HTTPS else 0
SILENCED_SYSTEM_CHECKS = [
    # Whether every other name of the domain speaks https, and for good, is for its owner to say, not for this program.
    "security.W005", "security.W021",
    # https ends at the proxy, which sends browsers there; here a redirect would turn health checks away.
    "security.W008",
]  # fmt: skip
if ENV.trusted_proxies:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# What may go out -------------------------------------------------------------------------------------------------

EGRESS_ALLOW = frozenset(ENV.egress_allow)
# The demo's server, installed with Gatehouse: the one stdio command that is allowed unasked. It tells the time.
DEMO_COMMAND = [str(Path(sys.executable).parent / "mcp-server-time"), "--local-timezone", "UTC"]
STDIO_ALLOW = (*ENV.stdio_allow, shlex.join(DEMO_COMMAND))
# The keys and the embedded database belong to the user that a stdio server runs as.
HIDDEN_FROM_CHILDREN = (
    str(ENV.data),
    str(BASE_DIR / ".env"),
    *filter(None, (os.environ.get(f"{name}_FILE") for name in sorted(SECRET_VARIABLES))),
)
STDIO_MAX_PROCESSES = ENV.stdio_max_processes
STDIO_IDLE_SECONDS = ENV.stdio_idle_seconds
UPSTREAM_TIMEOUT_SECONDS = ENV.upstream_timeout_seconds
UPSTREAM_MAX_RESULT_BYTES = ENV.upstream_max_result_bytes
UPSTREAM_MAX_HELD_BYTES = ENV.upstream_max_held_bytes
BREAKER_FAILURES = ENV.breaker_failures
BREAKER_OPEN_SECONDS = ENV.breaker_open_seconds
MAX_BODY_BYTES = ENV.max_body_bytes
DATA_UPLOAD_MAX_MEMORY_SIZE = ENV.max_body_bytes
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2000

# What is exchangeable --------------------------------------------------------------------------------------------

BACKENDS: dict[str, dict[str, dict[str, Any]]] = {
    "secret_store": {"sealed": {"path": "apps.secrets.backends.sealed.SealedStore"}},
    "upstream": {
        "streamable_http": {"path": "apps.registry.backends.http.StreamableHttp"},
        "sse": {"path": "apps.registry.backends.sse.Sse"},
        "stdio": {"path": "apps.registry.backends.stdio.Stdio"},
    },
}
BREAKER_STATE = "apps.gateway.services.breaker_state"
MCP_TOOLBOXES = ["config.mcp.toolbox", "apps.gateway.mcp.toolbox"]

# Work in the background ------------------------------------------------------------------------------------------

TASK_APP = "config.celery.app"
JOB_LEASE_SECONDS = ENV.job_lease_seconds
JOBS_PER_ORGANIZATION = ENV.jobs_per_organization
CELERY_BROKER_URL = ENV.broker_url or "memory://localhost/"
# A request that starts a job must not wait for a broker that is down: the job's row is sent again later.
CELERY_BROKER_CONNECTION_TIMEOUT = 2
CELERY_BROKER_TRANSPORT_OPTIONS = (
    {"max_retries": 1, "interval_start": 0, "connect_retries_timeout": 2}
    if ENV.broker_url
    else {"polling_interval": 0.05}
)
CELERY_TASK_DEFAULT_QUEUE = ENV.queue
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BEAT_SCHEDULER = "config.beat:Scheduler"
# Nobody listens to events between workers, and whoever reaches the broker must not command them.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_MAX_TASKS_PER_CHILD = 1_000
CELERY_TIMEZONE = "UTC"

# Documents, pages, language --------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["apps.auth.authentication.ActorAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "config.rest.handle_drf_exception",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Gatehouse",
    "DESCRIPTION": "The self-hosted control plane for what an organisation's AI agents may use.",
    "VERSION": VERSION,
    "OAS_VERSION": "3.1.0",
    "COMPONENT_SPLIT_PATCH": False,
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "config.rest.join_documents"],
}
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = ENV.dev
UNFOLD: dict[str, Any] = {"SITE_TITLE": "Gatehouse", "SITE_HEADER": "Gatehouse", "ACCOUNT": {"navigation": [
    {"title": "Second factor", "link": reverse_lazy("admin:second_factor")},
    {"title": "Change password", "link": reverse_lazy("admin:password_change")},
]}}  # fmt: skip

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "apps.core.logs.JsonFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": ENV.log_level.upper()},
    "loggers": {
        "django.server": {"handlers": ["stderr"], "propagate": False},
        "django.utils.autoreload": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        "mcp": {"level": "WARNING"},
        "fastmcp": {"level": "WARNING", "handlers": ["stderr"], "propagate": False},
        "celery": {"level": "WARNING"},
        "django_celery_beat": {"level": "WARNING"},
        "kombu": {"level": "WARNING"},
        "aiohttp": {"level": "WARNING"},
        "asyncio": {"level": "WARNING"},
        "uvicorn.access": {"level": "WARNING"},
    },
}
