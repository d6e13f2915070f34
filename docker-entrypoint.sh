#!/bin/sh
# Starts one role of Gatehouse; anything that is no role is a command of manage.py.
set -eu
role=${1:-up}
[ $# -eq 0 ] || shift

case "$role" in
up) exec python manage.py up --host 0.0.0.0 --port "$PORT" "$@" ;;
web) exec python manage.py up --role web --host 0.0.0.0 --port "$PORT" "$@" ;;
worker | beat) exec python manage.py up --role "$role" "$@" ;;
*) exec python manage.py "$role" "$@" ;;
esac
