# syntax=docker/dockerfile:1
# One image for worker, beat, Flower and the `bellhop` command. Health checks belong to the service, see docker-compose.yml.

FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements/build.txt requirements/run.txt requirements/
RUN pip install --require-hashes -r requirements/build.txt \
 && python -m venv /opt/bellhop \
 && /opt/bellhop/bin/pip install --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY config/events.toml config/events.toml
COPY templates templates
COPY worker worker
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/dist . \
 && /opt/bellhop/bin/pip install --no-deps /tmp/dist/*.whl

FROM python:3.12-slim
ENV PATH=/opt/bellhop/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin bellhop \
 && install --directory --owner=bellhop /app /var/lib/bellhop
COPY --from=build /opt/bellhop /opt/bellhop
WORKDIR /app
# Mount your own over these two to add events, languages and texts.
COPY config/events.toml config/events.toml
COPY templates templates
USER bellhop
CMD ["bellhop", "--help"]
