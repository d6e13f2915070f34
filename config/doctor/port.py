"""The port that `up` listens on: whether it can be had, or who has it."""

import errno
import http.client  # allowed: it asks this installation alone
import socket
from secrets import token_hex

from django.conf import settings

from config.doctor.findings import Finding, drop_variable, set_variable

ANSWER_SECONDS = 3
_ANY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not listened on


def examine_port() -> Finding:
    """Whether Gatehouse has the port, or could have it."""
    host, port = settings.ENV.host, settings.ENV.port
    error = _taken(host, port)
    if error is None:
        return Finding("port", "ok", f"{port} is free")
    if error.errno == errno.EADDRINUSE:
        if _is_gatehouse(host, port):
            return Finding("port", "ok", f"Gatehouse answers at {port}")
        why = f"Another program listens on {port}. Stop it, or take another port."
        return Finding("port", "wrong", why, set_variable("GATEHOUSE_PORT", str(_free_port(host))))
    if error.errno in (errno.EACCES, errno.EPERM):
        why = f"Whoever runs this may not listen on {port}."
        return Finding("port", "wrong", why, set_variable("GATEHOUSE_PORT", str(_free_port(host))))
    why = f"{host} is no address of this machine ({error.strerror})."
    return Finding("port", "wrong", why, drop_variable("GATEHOUSE_HOST"))


def _taken(host: str, port: int) -> OSError | None:
    """Why nobody else can listen there now; None where somebody can."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        return error
    return None


def _is_gatehouse(host: str, port: int) -> bool:
    """Only Gatehouse says a request's id again."""
    here, mark = "127.0.0.1" if host in _ANY_ADDRESS else host, f"doctor-{token_hex(8)}"
    link = http.client.HTTPConnection(here, port, timeout=ANSWER_SECONDS)
    try:
        link.request("GET", "/live", headers={"X-Request-Id": mark, "Host": f"127.0.0.1:{port}"})
        return link.getresponse().getheader("X-Request-Id") == mark
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((host if host not in _ANY_ADDRESS else "", 0))
        port: int = listener.getsockname()[1]
        return port
