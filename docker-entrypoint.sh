#!/bin/sh
# Starts one role of Gatehouse; anything that is no role is a command of manage.py.
set -eu
role=${1:-up}
[ $# -eq 0 ] || shift

case "$role" in
up) exec python manage.py up --host 0.0.0.0 --port "$PORT" "$@" ;;
web)
    exec uvicorn config.asgi:application --host 0.0.0.0 --port "$PORT" \
        --loop uvloop --http httptools --ws websockets-sansio --lifespan on \
        --no-access-log --no-proxy-headers --timeout-graceful-shutdown 30 "$@"
    ;;
worker) exec celery --app config.celery worker --loglevel info "$@" ;;
beat)
    exec celery --app config.celery beat --loglevel info --pidfile= \
        --scheduler django_celery_beat.schedulers:DatabaseScheduler "$@"
    ;;
*) exec python manage.py "$role" "$@" ;;
esac
