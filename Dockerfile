# One image, roles by argument: up (the default: everything in one process on embedded defaults), and for a grown
# installation web, worker and beat; anything else is a command of manage.py, for instance migrate.
#   docker build -t gatehouse .
#   docker run -p 8000:8000 -v gatehouse:/data gatehouse

ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS packages
COPY requirements.lock /
RUN python -m venv /venv \
    && /venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r /requirements.lock \
    && /venv/bin/python -m pip uninstall --yes --quiet pip

FROM ${PYTHON_IMAGE}
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEHOUSE_DATA=/data \
    PORT=8000
RUN useradd --system --uid 10001 --no-create-home --home-dir /data gatehouse \
    && install --directory --owner=gatehouse --group=gatehouse --mode=0700 /data
COPY --from=packages /venv /venv
COPY . /app
RUN python -m compileall -q /app
WORKDIR /app
USER gatehouse
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/live' % os.environ['PORT'], timeout=2)"]
ENTRYPOINT ["/app/docker-entrypoint.sh"]
CMD ["up"]
